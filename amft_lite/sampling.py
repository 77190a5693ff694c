"""Batched sampling from a Llama with a key-value cache, written for models that are tiny.

At 0.2M parameters most of `model.generate` is bookkeeping around the matrix products. Here the
forward pass of a Llama is written out once (RMSNorm, rotary positions, attention, SwiGLU), reads
the weights of the `transformers` model where they lie, and computes each prompt once however many
rollouts it gets. `amft-lite bench sampling` measures the difference; `tests/test_sampling.py`
holds the logits against `transformers`.

Left out: every architecture but Llama with plain rotary positions, beams, top-k and top-p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def check_model(model) -> None:
    """Can `sample` draw from this model?

    Raises:
        ValueError: it is no plain Llama, or its pad or end-of-text token is unknown.
    """
    Layers(model)
    for name in ("pad_token_id", "eos_token_id"):
        if not isinstance(getattr(model.config, name, None), int):
            raise ValueError(f"the model's config.json must give {name} as one whole number")


@dataclass(frozen=True)
class Rollouts:
    """Sampled answers, `n` consecutive rows a prompt.

    ids        [B, L + T]  left-padded prompt, then the answer; pad after its end
    attention  [B, L + T]  1 on every real token
    tokens     [B, T]      the answer alone
    mask       [B, T]      1 on the answer's tokens, its end-of-text included
    """

    ids: Tensor
    attention: Tensor
    tokens: Tensor
    mask: Tensor


def answer_texts(rollouts: Rollouts, tokenizer) -> list[str]:
    """The answers as text, without their end-of-text.

    Other special tokens stay visible: a sampled `<pad>` in the middle is a fault, not a blank.
    """
    texts = []
    for tokens, length in zip(rollouts.tokens.tolist(), rollouts.mask.sum(1).tolist(), strict=True):
        ended = length > 0 and tokens[length - 1] == tokenizer.eos_token_id
        texts.append(tokens[: length - ended])
    return tokenizer.batch_decode(texts, skip_special_tokens=False)


class Layers:
    """The weights of a Llama, joined where two products can be one."""

    def __init__(self, model) -> None:
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        if (
            config.model_type not in ("llama", "picture_llama")
            or rope.get("rope_type", "default") != "default"
        ):
            raise ValueError(
                f"amft_lite.sampling knows Llama with plain rotary positions, not "
                f"{config.model_type!r}; use model.generate for other models"
            )
        for name, known in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
            if getattr(config, name, known) != known:
                raise ValueError(
                    f"amft_lite.sampling knows Llama with {name} {known}, not "
                    f"{getattr(config, name)}; use model.generate for other models"
                )
        self.eps = config.rms_norm_eps
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim or config.hidden_size // self.heads
        self.embedding = model.model.embed_tokens.weight
        self.output = model.lm_head.weight
        self.final_norm = model.model.norm.weight
        self.unsaid = getattr(model, "unsaid", None)  # a token that is never drawn
        self.frequencies = model.model.rotary_emb.inv_freq
        self.layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            self.layers.append(
                (
                    layer.input_layernorm.weight,
                    torch.cat([p.weight for p in projections]),
                    attention.o_proj.weight,
                    layer.post_attention_layernorm.weight,
                    torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    mlp.down_proj.weight,
                )
            )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x [B, T, H, D], cos and sin [B, T, 1, D]."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def forward(w: Layers, x: Tensor, positions: Tensor, bias: Tensor, cache: list, start: int):
    """Run embeddings [B, T, d] at cache columns start..start+T; returns logits of the last [B, V].

    `bias` [B, 1, T, start + T] is added to the attention scores. `cache` holds a (keys, values)
    pair [B, H, columns, D] per layer and is written in place.
    """
    B, T, _ = x.shape
    angles = positions.unsqueeze(-1) * w.frequencies
    angles = torch.cat((angles, angles), -1).unsqueeze(2)
    cos, sin = angles.cos(), angles.sin()
    end = start + T
    for (norm, qkv, out, mlp_norm, gate_up, down), (keys, values) in zip(
        w.layers, cache, strict=True
    ):
        h = F.linear(F.rms_norm(x, norm.shape, norm, w.eps), qkv)
        h = h.view(B, T, w.heads + 2 * w.kv_heads, w.head_dim)
        q, k, v = h.split((w.heads, w.kv_heads, w.kv_heads), 2)
        keys[:, :, start:end] = _rotate(k, cos, sin).transpose(1, 2)
        values[:, :, start:end] = v.transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            _rotate(q, cos, sin).transpose(1, 2),
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=bias,
            enable_gqa=w.heads != w.kv_heads,
        )
        x = x + F.linear(attended.transpose(1, 2).reshape(B, T, -1), out)
        gate, up = F.linear(F.rms_norm(x, mlp_norm.shape, mlp_norm, w.eps), gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, down)
    last = F.rms_norm(x[:, -1], w.final_norm.shape, w.final_norm, w.eps)
    logits = F.linear(last, w.output)
    if w.unsaid is not None:
        logits[:, w.unsaid] = -torch.inf  # these logits are only drawn from
    return logits


def read_prompts(
    w: Layers, x: Tensor, attention: Tensor, total: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Logits after each prompt [P, V], given as embeddings x [P, L, d], and a cache of `total`
    columns that holds the prompts."""
    P, L = attention.shape
    shape = (P, w.kv_heads, total, w.head_dim)
    cache = [(w.embedding.new_zeros(shape), w.embedding.new_zeros(shape)) for _ in w.layers]
    lowest = torch.finfo(w.embedding.dtype).min
    visible = torch.ones(L, L, dtype=torch.bool, device=x.device).tril()
    visible = visible & attention.bool()[:, None, None, :]
    bias = torch.zeros(visible.shape, dtype=w.embedding.dtype, device=x.device)
    bias = bias.masked_fill(~visible, lowest)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    return forward(w, x, positions, bias, cache, 0), cache


def padding_bias(w: Layers, attention: Tensor, total: int) -> Tensor:
    """What hides the padding of prompts, attention [B, L], from later tokens: [B, 1, 1, total]."""
    bias = w.embedding.new_zeros(len(attention), 1, 1, total)
    hidden = attention[:, None, None] == 0
    bias[..., : attention.shape[1]].masked_fill_(hidden, torch.finfo(bias.dtype).min)
    return bias


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """A token a row [B]; at temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    # a draw from the softmax: argmax of p / Exponential(1), as torch.multinomial does
    p = torch.softmax(logits / temperature, -1)
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(-1)


@torch.no_grad()
def sample(
    model,
    prompt_ids: Tensor,
    attention: Tensor,
    n: int = 1,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    pictures: Tensor | None = None,
) -> Rollouts:
    """Sample `n` answers to every prompt; `temperature=0` takes the likeliest token.

    `prompt_ids`, `attention` [P, L], left-padded. Pad and end-of-text come from `model.config`.
    `pictures` uint8 [P, n, height, width, 3] for a model with an eye.

    Raises:
        ValueError: the model is no plain Llama.
    """
    w, (P, L) = Layers(model), prompt_ids.shape
    B, total = P * n, L + max_new_tokens
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    x = F.embedding(prompt_ids, w.embedding)
    x = x if pictures is None else model.embed(prompt_ids, pictures)
    logits, cache = read_prompts(w, x, attention, total)

    def repeat(x: Tensor) -> Tensor:
        return x.repeat_interleave(n, 0) if n > 1 else x

    logits, cache = repeat(logits), [(repeat(k), repeat(v)) for k, v in cache]
    padded = not bool(attention.all())
    step_bias = padding_bias(w, repeat(attention), total) if padded else None
    position = repeat(attention.sum(1, keepdim=True))
    tokens = torch.full((B, max_new_tokens), pad, device=prompt_ids.device)
    mask = torch.zeros_like(tokens)
    running = torch.ones(B, dtype=torch.bool, device=prompt_ids.device)
    for t in range(max_new_tokens):
        token = draw(logits, temperature, generator)
        tokens[:, t] = torch.where(running, token, pad)
        mask[:, t] = running
        running = running & (token != eos)
        if t + 1 == max_new_tokens or not bool(running.any()):
            break
        bias = step_bias[..., : L + t + 1] if padded else None
        x = F.embedding(tokens[:, t : t + 1], w.embedding)
        logits = forward(w, x, position + t, bias, cache, L + t)
    return Rollouts(
        ids=torch.cat((repeat(prompt_ids), tokens), 1),
        attention=torch.cat((repeat(attention), mask), 1),
        tokens=tokens,
        mask=mask,
    )
