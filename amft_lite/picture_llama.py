"""A tiny Llama with an eye: pictures become embeddings that stand in the prompt like words.

The way of LLaVA (arXiv 2304.08485) at a thousandth of the size: a small convolutional network turns
each picture into one vector, which takes the place of a `<card>` token's embedding; everything
after that is the Llama. It is a plain `transformers` model that saves, loads and generates.

Left out: several tokens a picture, and pictures of other sizes than the one it was made for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class PictureLlamaConfig(LlamaConfig):
    """LlamaConfig, and which token pictures stand for."""

    model_type = "picture_llama"

    picture_token_id: int = 3
    picture_height: int = 32
    picture_width: int = 24


class Eye(nn.Module):
    """Pictures uint8 [N, height, width, 3] to vectors [N, size]: three convolutions, one layer."""

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inward, outward in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inward, outward, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.convolutions = nn.Sequential(*layers)
        self.out = nn.Linear(64 * (height // 8) * (width // 8), size)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.to(self.out.weight.dtype).permute(0, 3, 1, 2) / 127.5 - 1
        return self.out(self.convolutions(x).flatten(1))


def put_pictures_in(words: Tensor, ids: Tensor, pictures: Tensor, token: int) -> Tensor:
    """Embeddings words [B, L, d] of ids [B, L], in which the first n places of `token` in each row
    are its pictures [B, n, d] (a later one, which the model may have written, is a word like
    others). Each row has at least n of them."""
    places = ids == token
    places = places & (places.cumsum(1) <= pictures.shape[1])
    return words.masked_scatter(places.unsqueeze(-1), pictures.to(words.dtype))


class PictureLlama(LlamaForCausalLM):
    """`pixel_values`, uint8 [B, n, height, width, 3]: the pictures of each row, in the order of its
    first n picture tokens. Rows that follow each other and see the same are looked at once."""

    config_class = PictureLlamaConfig

    def __init__(self, config: PictureLlamaConfig) -> None:
        super().__init__(config)
        self.eye = Eye(config.picture_height, config.picture_width, config.hidden_size)
        self.post_init()

    def embed(self, ids: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Embeddings [B, L, d] of ids [B, L], pictures put in.

        Raises:
            ValueError: a row has fewer picture tokens than pictures.
        """
        x = self.model.embed_tokens(ids)
        if pictures is None:
            return x
        there = (ids == self.config.picture_token_id).sum(1)
        B, n = pictures.shape[:2]
        if len(ids) != B or bool((there < n).any()):
            raise ValueError(
                f"{B} rows of {n} pictures for {len(ids)} rows of ids, of which one has "
                f"{int(there.min())} picture tokens"
            )
        hands, back = torch.unique_consecutive(pictures, dim=0, return_inverse=True)
        seen = self.eye(hands.flatten(0, 1)).view(len(hands), n, -1)[back]
        return put_pictures_in(x, ids, seen, self.config.picture_token_id)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ):
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, pixel_values)
        return super().forward(attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            inputs.pop("pixel_values", None)  # they have been seen
        return inputs


AutoConfig.register(PictureLlamaConfig.model_type, PictureLlamaConfig, exist_ok=True)
AutoModelForCausalLM.register(PictureLlamaConfig, PictureLlama, exist_ok=True)
