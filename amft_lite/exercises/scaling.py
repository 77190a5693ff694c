"""Checks of notebook 08: what changes, and what must not, when models and machines grow."""

from __future__ import annotations

import torch
from torch import Tensor

from amft_lite.exercises.checking import Exercise, Mistake


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- gradient accumulation ------------------------------------------------------------------------


def whole_batch_gradient(grads: Tensor, counts: Tensor) -> Tensor:
    """Gradient of the mean over all tokens, from those of micro-batch means. [M, N], [M] -> [N]."""
    return (grads * counts.unsqueeze(1)).sum(0) / counts.sum()


WHOLE_BATCH_GRADIENT = Exercise(
    "whole_batch_gradient",
    whole_batch_gradient,
    [
        (_randn(3, 4), torch.tensor([40, 10, 250])),
        (_randn(2, 5, seed=1), torch.tensor([3, 1])),
        (_randn(4, 2, seed=2), torch.tensor([7, 70, 7, 16])),
    ],
    [
        Mistake(
            "mean of means",
            "micro-batches weigh the same here, so a token of a short one counts more. Weigh each "
            "by its number of tokens",
            lambda g, n: g.mean(0),
        ),
        Mistake(
            "not divided",
            "each micro-batch is weighed by its tokens, but the sum is not divided by all of them",
            lambda g, n: (g * n.unsqueeze(1)).sum(0),
        ),
        Mistake(
            "sum",
            "the gradients are added up: four micro-batches would take a step four times as long",
            lambda g, n: g.sum(0),
        ),
        Mistake(
            "divided by micro-batches",
            "the token-weighted sum is divided by the number of micro-batches; divide by the "
            "number of tokens",
            lambda g, n: (g * n.unsqueeze(1)).sum(0) / len(g),
        ),
        Mistake(
            "weights inverted",
            "micro-batches with few tokens get the larger weight; it is the other way round",
            lambda g, n: (g / n.unsqueeze(1)).sum(0) / (1 / n).sum(),
        ),
        Mistake(
            "divided twice",
            "this divides by the tokens *and* by the number of micro-batches",
            lambda g, n: whole_batch_gradient(g, n) / len(g),
        ),
    ],
)


# --- LoRA -----------------------------------------------------------------------------------------


def lora_forward(x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """x W^T + alpha / r x A^T B^T with W frozen. [N, in], [out, in], [r, in], [out, r]."""
    return x @ W.detach().T + alpha / len(A) * (x @ A.T) @ B.T


def _lora(scale=lambda alpha, r: alpha / r, w=lambda W: W.detach(), path=lambda x: x):
    def forward(x, W, A, B, alpha):
        return path(x) @ w(W).T + scale(alpha, len(A)) * (x @ A.T) @ B.T

    return forward


LORA_FORWARD = Exercise(
    "lora_forward",
    lora_forward,
    [
        (_randn(5, 4), _randn(3, 4, seed=1), _randn(2, 4, seed=2), _randn(3, 2, seed=3), 8.0),
        (_randn(2, 6, seed=4), _randn(6, 6, seed=5), _randn(3, 6, seed=6), _randn(6, 3, seed=7),
         1.5),
    ],
    [
        Mistake(
            "no scale",
            "the factor alpha / r is missing",
            _lora(lambda alpha, r: 1.0),
        ),
        Mistake(
            "alpha alone",
            "the adapter counts alpha times, not alpha / r: its size would grow with the rank",
            _lora(lambda alpha, r: alpha),
        ),
        Mistake(
            "scale upside down",
            "the factor is upside down: it is alpha / r",
            _lora(lambda alpha, r: r / alpha),
        ),
        Mistake(
            "divided by a width",
            "alpha is divided by a width of the layer; divide by r, the rank: the rows of A",
            lambda x, W, A, B, alpha: x @ W.detach().T + alpha / A.shape[1] * (x @ A.T) @ B.T,
        ),
        Mistake(
            "adapter alone",
            "the frozen part x W^T is missing; the adapter is added to it",
            lambda x, W, A, B, alpha: alpha / len(A) * (x @ A.T) @ B.T,
        ),
        Mistake(
            "frozen weight trained",
            "the value is right, but a gradient reaches W, which is frozen: detach it (4 bits "
            "could not even hold small steps)",
            _lora(w=lambda W: W),
        ),
        Mistake(
            "input cut off",
            "the value is right, but the frozen path lets no gradient through to x, so the layers "
            "below learn from the adapters alone. Detach W, not x or the whole product",
            _lora(path=lambda x: x.detach()),
        ),
    ],
    gradients=(0, 1, 2, 3),
)  # fmt: skip


# --- four bits ------------------------------------------------------------------------------------


def int4_round(weights: Tensor, block: int) -> Tensor:
    """Rounded to 15 even levels of each block's largest magnitude; [N] -> [N]."""
    blocks = weights.view(-1, block)
    step = blocks.abs().amax(1, keepdim=True) / 7
    safe = torch.where(step > 0, step, 1.0)
    return (torch.round(blocks / safe) * step).view(-1)


def _int4(magnitude=lambda b: b.abs().amax(1, keepdim=True), most=7, to=torch.round, back=True):
    def rounded(weights, block):
        blocks = weights.view(-1, block)
        step = magnitude(blocks) / most
        safe = torch.where(step != 0, step, 1.0)
        codes = to(blocks / safe)
        return (codes * step if back else codes.clone()).reshape(-1)

    return rounded


def _nan_on_zeros(weights: Tensor, block: int) -> Tensor:
    blocks = weights.view(-1, block)
    step = blocks.abs().amax(1, keepdim=True) / 7
    return (torch.round(blocks / step) * step).view(-1)


_WEIGHTS = _randn(24, seed=3) * torch.tensor([0.02, 0.5, 0.1]).repeat_interleave(8)
_WEIGHTS[2] = -0.2  # the largest magnitude of its block is negative
_WITH_ZEROS = torch.cat((_randn(4, seed=5), torch.zeros(4, dtype=torch.float64)))

INT4_ROUND = Exercise(
    "int4_round",
    int4_round,
    [(_WEIGHTS, 8), (_WEIGHTS, 4), (_WITH_ZEROS, 4)],
    [
        Mistake(
            "one scale for all",
            "one scale serves the whole tensor, so a single large weight makes all others coarse; "
            "take the largest magnitude of each block",
            lambda w, block: _int4()(w, len(w)),
        ),
        Mistake(
            "sign of the largest",
            "the scale is the largest weight and not the largest *magnitude*; a block whose "
            "extreme is negative comes out wrong",
            _int4(lambda b: b.amax(1, keepdim=True)),
        ),
        Mistake(
            "codes",
            "these are the codes -7 ... 7; multiply them by their block's step to get weights back",
            _int4(back=False),
        ),
        Mistake(
            "cut off",
            "digits are cut off, towards zero; round to the nearest level",
            _int4(to=torch.trunc),
        ),
        Mistake(
            "eight levels a side",
            "the magnitude is divided into 8 steps, but the codes go from -7 to 7: divide by 7",
            _int4(most=8),
        ),
        Mistake(
            "zero block",
            "a block of zeros gives nan (0 / 0); there is nothing to divide by, so leave it 0",
            _nan_on_zeros,
        ),
        Mistake(
            "not rounded",
            "the weights come back unchanged: nothing was rounded",
            lambda w, block: w.clone(),
        ),
        Mistake(
            "eight bits",
            "127 levels a side are 8 bits; 4 bits have 7",
            _int4(most=127),
        ),
        Mistake(
            "standard deviation",
            "the scale is the block's standard deviation; weights beyond 7 steps of it would need "
            "more codes than there are. Take the largest magnitude",
            _int4(lambda b: b.std(1, keepdim=True)),
        ),
    ],
)


def bits_per_weight(bits: int, block: int, outer: int) -> float:
    """Codes, an 8-bit scale a block, a 32-bit scale for `outer` of those."""
    return bits + 8 / block + 32 / (block * outer)


BITS_PER_WEIGHT = Exercise(
    "bits_per_weight",
    bits_per_weight,
    [(4, 64, 256), (4, 128, 256), (8, 32, 64)],
    [
        Mistake(
            "single quantisation",
            "here each block keeps a 32-bit scale; in double quantisation that scale is itself a "
            "number of 8 bits",
            lambda bits, block, outer: bits + 32 / block,
        ),
        Mistake(
            "outer scale forgotten",
            "the 8-bit scales need scales of their own: 32 bits for each `outer` of them",
            lambda bits, block, outer: bits + 8 / block,
        ),
        Mistake(
            "outer counted in weights",
            "`outer` counts scales, not weights: one 32-bit number serves block x outer weights",
            lambda bits, block, outer: bits + 8 / block + 32 / outer,
        ),
        Mistake(
            "both scales kept",
            "a block's scale is counted with 32 bits *and* the outer one on top; the block's has 8",
            lambda bits, block, outer: bits + 32 / block + 32 / (block * outer),
        ),
        Mistake(
            "scales forgotten",
            "these are the codes alone; their scales take room, too",
            lambda bits, block, outer: bits,
        ),
        Mistake(
            "bytes",
            "this is in bytes; bits are asked for",
            lambda bits, block, outer: bits_per_weight(bits, block, outer) / 8,
        ),
    ],
)


# --- memory ---------------------------------------------------------------------------------------


def kv_cache_bytes(
    answers: int, tokens: int, layers: int, heads: int, kv_heads: int, width: int, size: int
) -> int:
    """Keys and values of all layers; heads share them in groups."""
    return answers * tokens * layers * 2 * kv_heads * (width // heads) * size


def _cache(answers=None, tokens=None, layers=None, two=2, width=None, size=None):
    def count(a, t, n, heads, kv_heads, w, s):
        wide = kv_heads * (w // heads) if width is None else width(heads, kv_heads, w)
        times = two * (answers or a) * (tokens or t) * (layers or n)
        return times * wide * (s if size is None else size)

    return count


KV_CACHE_BYTES = Exercise(
    "kv_cache_bytes",
    kv_cache_bytes,
    [
        (64, 512, 28, 12, 2, 1536, 2),
        (32, 5120, 28, 28, 4, 3584, 2),
        (8, 176, 30, 9, 3, 576, 4),
    ],
    [
        Mistake(
            "keys alone",
            "only keys or only values are counted; the cache holds both",
            _cache(two=1),
        ),
        Mistake(
            "every head",
            "this counts keys and values of the full width. Several heads share one pair here "
            "(grouped-query attention): kv_heads x (width / heads) numbers each",
            _cache(width=lambda heads, kv, w: w),
        ),
        Mistake(
            "heads and kv_heads",
            "a head's size is width / heads, whatever the number of kv_heads",
            _cache(width=lambda heads, kv, w: heads * (w // kv)),
        ),
        Mistake(
            "width for each head",
            "each of the kv_heads is given the full width; a head has width / heads numbers",
            _cache(width=lambda heads, kv, w: kv * w),
        ),
        Mistake(
            "one layer",
            "every layer keeps a cache of its own; multiply by their number",
            _cache(layers=1),
        ),
        Mistake(
            "one answer",
            "every answer of the batch keeps its own; multiply by their number",
            _cache(answers=1),
        ),
        Mistake(
            "numbers",
            "this is the number of numbers; each takes `size` bytes",
            _cache(size=1),
        ),
        Mistake(
            "bits",
            "this is in bits; `size` already says how many bytes a number takes",
            lambda *given: 8 * kv_cache_bytes(*given),
        ),
    ],
)


# --- half precision -------------------------------------------------------------------------------


def next_scale(scale: float, good: int, finite: bool, interval: int) -> tuple[float, int]:
    """torch.amp.GradScaler's rule with its default factors. Returns (scale, good)."""
    if not finite:
        return scale / 2, 0
    return (scale * 2, 0) if good + 1 == interval else (scale, good + 1)


def _scaler(shrunk=lambda s: s / 2, after_bad=lambda good: 0, full=lambda good, n: good + 1 >= n,
            grown=lambda s: s * 2, after_growth=lambda good: 0):  # fmt: skip
    def rule(scale, good, finite, interval):
        if not finite:
            return shrunk(scale), after_bad(good)
        if full(good, interval):
            return grown(scale), after_growth(good)
        return scale, good + 1

    return rule


NEXT_SCALE = Exercise(
    "next_scale",
    next_scale,
    [
        (65536.0, 0, True, 2000),
        (65536.0, 1999, True, 2000),
        (65536.0, 7, False, 2000),
        (8.0, 1, True, 3),
        (8.0, 2, True, 3),
        (8.0, 2, False, 3),
    ],
    [
        Mistake(
            "does not grow",
            "the scale should double here and does not: after `interval` finite steps in a row, "
            "this one included (good + 1 of them)",
            _scaler(full=lambda good, n: False),
        ),
        Mistake(
            "never shrinks",
            "after an overflow the scale must fall, or the next step overflows as well: halve it",
            _scaler(shrunk=lambda s: s),
        ),
        Mistake(
            "count kept after overflow",
            "finite steps count *in a row*: an overflow sets the count back to 0",
            _scaler(after_bad=lambda good: good),
        ),
        Mistake(
            "count kept after growth",
            "after the scale has doubled the count starts again at 0",
            _scaler(after_growth=lambda good: good + 1),
        ),
        Mistake(
            "grows at every step",
            "the scale doubles at each finite step; it waits for `interval` of them",
            _scaler(full=lambda good, n: True),
        ),
        Mistake(
            "finite and not",
            "the two cases are swapped: an overflow halves the scale",
            lambda scale, good, finite, interval: next_scale(scale, good, not finite, interval),
        ),
        Mistake(
            "back to one",
            "an overflow throws the scale back to 1; halving keeps most of what was learned of it",
            _scaler(shrunk=lambda s: 1.0),
        ),
    ],
    fallback=(
        "not GradScaler's rule. With interval 3: (8, 1, True) gives (8, 2); (8, 2, True) gives "
        "(16, 0); (8, 2, False) gives (4, 0)"
    ),
)


# --- several processes ----------------------------------------------------------------------------


def process_loss(token_losses: Tensor, mask: Tensor, all_tokens: int, processes: int) -> Tensor:
    """What one process calls backward on, so that DDP's mean is the token mean of all."""
    return (token_losses * mask).sum() * processes / all_tokens


_LOSSES = _randn(4, 6, seed=8).abs()
_MASK = torch.tensor(
    [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
)


def _share(value):
    """A loss from (sum over tokens, own tokens, all tokens, processes, answers)."""

    def loss(losses, mask, all_tokens, processes):
        total = (losses * mask).sum()
        return value(total, mask.sum(), all_tokens, processes, len(mask))

    return loss


PROCESS_LOSS = Exercise(
    "process_loss",
    process_loss,
    [
        (_LOSSES, _MASK, 61, 4),
        (_LOSSES[1:], _MASK[1:], 30, 2),
        (_LOSSES[:2], _MASK[:2], 8, 1),
    ],
    [
        Mistake(
            "own mean",
            "this process's own token mean is taken. Processes with short answers then count as "
            "much as those with long ones: a mean of means",
            _share(lambda total, own, n, p, rows: total / own),
        ),
        Mistake(
            "world size forgotten",
            "divided by the tokens of all processes, but DDP then takes the *mean* over processes, "
            "which divides once more: multiply by their number",
            _share(lambda total, own, n, p, rows: total / n),
        ),
        Mistake(
            "divided by processes",
            "the number of processes divides here; DDP's mean does that already, so it must "
            "multiply",
            _share(lambda total, own, n, p, rows: total / (n * p)),
        ),
        Mistake(
            "sum",
            "the losses are added up and not divided; the step would grow with the batch",
            _share(lambda total, own, n, p, rows: total),
        ),
        Mistake(
            "own mean, shared out",
            "the process's own mean is divided by the number of processes, which DDP does anyhow; "
            "and it is still its own tokens that divide",
            _share(lambda total, own, n, p, rows: total / own / p),
        ),
        Mistake(
            "mean over answers",
            "the sum is divided by this process's answers; all losses of this project are token "
            "means",
            _share(lambda total, own, n, p, rows: total / rows),
        ),
        Mistake(
            "mask ignored",
            "padding is added up as if it were part of the answers",
            lambda x, m, n, p: x.sum() * p / n,
        ),
    ],
    gradients=(0,),
)

EXERCISES = (
    WHOLE_BATCH_GRADIENT, LORA_FORWARD, INT4_ROUND, BITS_PER_WEIGHT, KV_CACHE_BYTES, NEXT_SCALE,
    PROCESS_LOSS,
)  # fmt: skip
