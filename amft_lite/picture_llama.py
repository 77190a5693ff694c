"""A tiny Llama with an eye: pictures become embeddings that stand in the text like words.

The way of LLaVA (arXiv 2304.08485) at a thousandth of the size: a small convolutional network turns
each picture into one vector, which takes the place of a picture token's embedding; everything
after that is the Llama. It is a plain `transformers` model that saves, loads and generates.

In a dialogue more pictures come with what is replied. Which places are the task's must then be sure
whatever the model says, so such a model never says the token: its logit is a constant.

Left out: several tokens a picture, and pictures of other sizes than the one it was made for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

#: The logit of a token that is never said: low enough for a probability of exactly 0, and a number
#: that can be squared.
UNSAID = -1e4


class PictureLlamaConfig(LlamaConfig):
    """LlamaConfig, which token pictures stand for, their size in pixels, by how many the eye
    steps, and whether more pictures come in replies."""

    model_type = "picture_llama"

    picture_token_id: int = 3
    picture_height: int = 32
    picture_width: int = 24
    picture_stride: int = 1
    pictures_in_replies: bool = False


class Eye(nn.Module):
    """Pictures uint8 [N, height, width, 3] to vectors [N, size]: three convolutions, one layer.

    Each convolution halves the picture: by pooling, the first with `stride` 2 by its
    steps. That is for larger pictures, of which 16 channels at full size take most of the time.
    """

    def __init__(self, height: int, width: int, size: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inward, outward, step in ((3, 16, stride), (16, 32, 1), (32, 64, 1)):
            layers += [nn.Conv2d(inward, outward, 3, step, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if step == 1 else []
            height, width = ((n + (step == 2)) // 2 for n in (height, width))
        self.convolutions = nn.Sequential(*layers)
        self.out = nn.Linear(64 * height * width, size)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.to(self.out.weight.dtype).permute(0, 3, 1, 2) / 127.5 - 1
        return self.out(self.convolutions(x).flatten(1))


def put_pictures_in(words: Tensor, ids: Tensor, pictures: Tensor, token: int) -> Tensor:
    """Embeddings words [B, L, d] of ids [B, L], in which the first n places of `token` in each row
    are its pictures [B, n, d] (a later one, which the model may have written, is a word like
    others). A row with fewer places shows its first pictures."""
    places = ids == token
    number = places.cumsum(1)
    places = places & (number <= pictures.shape[1])
    which = (number - 1).clamp(0, pictures.shape[1] - 1).unsqueeze(-1)
    seen = pictures.to(words.dtype).gather(1, which.expand(-1, -1, words.shape[-1]))
    return torch.where(places.unsqueeze(-1), seen, words)


class PictureLlama(LlamaForCausalLM):
    """`pixel_values`, uint8 [B, n, height, width, 3]: the pictures of each row, in the order of its
    first n picture tokens. Rows that follow each other and see the same are looked at once."""

    config_class = PictureLlamaConfig

    def __init__(self, config: PictureLlamaConfig) -> None:
        super().__init__(config)
        self.eye = Eye(
            config.picture_height, config.picture_width, config.hidden_size, config.picture_stride
        )
        self.post_init()

    @property
    def unsaid(self) -> int | None:
        """The token that this model never says: that of pictures, if some come in replies."""
        config = self.config
        return config.picture_token_id if config.pictures_in_replies else None

    def encode(self, pictures: Tensor) -> Tensor:
        """Vectors [B, n, d] of pictures uint8 [B, n, height, width, 3]; 0 for black ones, which
        fill rows up and are not looked at."""
        rows, back = torch.unique_consecutive(pictures, dim=0, return_inverse=True)
        there = (rows != 0).flatten(2).any(2)
        found = self.eye(rows[there])
        seen = found.new_zeros(*there.shape, found.shape[-1])
        return seen.masked_scatter(there.unsqueeze(-1), found)[back]

    def embed(self, ids: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Embeddings [B, L, d] of ids [B, L], pictures put in.

        Raises:
            ValueError: a row has fewer picture tokens than pictures; or, where they come in
                replies, more.
        """
        x = self.model.embed_tokens(ids)
        if pictures is None:
            return x
        there = (ids == self.config.picture_token_id).sum(1)
        B, n = pictures.shape[:2]
        wrong = there > n if self.config.pictures_in_replies else there < n
        if len(ids) != B or bool(wrong.any()):
            raise ValueError(
                f"{B} rows of {n} pictures for {len(ids)} rows of ids, of which one has "
                f"{int(there[wrong][0] if wrong.any() else there[0])} picture tokens"
            )
        return put_pictures_in(x, ids, self.encode(pictures), self.config.picture_token_id)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ):
        if self.unsaid is not None and kwargs.get("labels") is not None:
            raise ValueError("take the loss from the logits: with labels it would be of others")
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, pixel_values)
        output = super().forward(
            attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        if (token := self.unsaid) is not None:
            output.logits = output.logits.index_fill(-1, output.logits.new_tensor(
                [token], dtype=torch.long), UNSAID)  # fmt: skip
        return output

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            inputs.pop("pixel_values", None)  # they have been seen
        return inputs


AutoConfig.register(PictureLlamaConfig.model_type, PictureLlamaConfig, exist_ok=True)
AutoModelForCausalLM.register(PictureLlamaConfig, PictureLlama, exist_ok=True)
