"""Checks of notebook 02: the losses of imitation and exploration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amft_lite import objectives as ob
from amft_lite.exercises.checking import Exercise, Mistake


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


_MASK = torch.tensor(
    [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
)
_LOGPS = -_randn(4, 6).abs() - 0.1
_OLD = _LOGPS + 0.5 * _randn(4, 6, seed=1)
_ADVANTAGES = torch.tensor([1.5, -0.5, 0.8, -2.0], dtype=torch.float64)


def _row_means(x: Tensor, mask: Tensor) -> Tensor:
    return ((x * mask).sum(1) / mask.sum(1)).mean()


SFT_LOSS = Exercise(
    "sft_loss",
    ob.sft_loss,
    [(_LOGPS, _MASK), (_LOGPS[:2], _MASK[:2])],
    [
        Mistake(
            "mean of means",
            "each answer is averaged first and then the answers, so a token of a short answer "
            "weighs more than one of a long answer. Divide the sum over all tokens by their number",
            lambda logps, mask: -_row_means(logps, mask),
        ),
        Mistake(
            "padding in the denominator",
            "padding is left out of the sum but counted in the mean: divide by mask.sum(), not by "
            "the number of positions",
            lambda logps, mask: -(logps * mask).mean(),
        ),
        Mistake(
            "mask ignored",
            "padding is trained on as if it were part of the answer",
            lambda logps, mask: -logps.mean(),
        ),
        Mistake(
            "sum",
            "this is the sum over tokens; it grows with the batch, and so would the step",
            lambda logps, mask: -(logps * mask).sum(),
        ),
        Mistake(
            "sign",
            "the sign is flipped: descending this loss makes the expert's answers less likely",
            lambda logps, mask: (logps * mask).sum() / mask.sum(),
        ),
        Mistake(
            "mean over answers",
            "the sum over tokens is divided by the number of answers; this repository's losses "
            "are token means",
            lambda logps, mask: -(logps * mask).sum() / len(logps),
        ),
    ],
    gradients=(0,),
)

_REWARDS = torch.tensor([1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1], dtype=torch.float64)


def _grouped(rewards: Tensor, size: int) -> Tensor:
    return rewards.view(-1, size)


def _standardised(groups: Tensor, unbiased: bool = True, eps: float = 1e-4) -> Tensor:
    spread = groups.std(1, keepdim=True, unbiased=unbiased)
    return ((groups - groups.mean(1, keepdim=True)) / (spread + eps)).reshape(-1)


GROUP_ADVANTAGES = Exercise(
    "group_advantages",
    ob.group_advantages,
    [(_REWARDS, 4), (_randn(6, seed=2), 3)],
    [
        Mistake(
            "batch mean",
            "the baseline is the mean of the whole batch; each prompt needs the mean of its own "
            "group, or an easy prompt's failures look better than a hard prompt's",
            lambda r, n: (r - r.mean()) / (r.std() + 1e-4),
        ),
        Mistake(
            "no baseline",
            "the group's mean is not subtracted",
            lambda r, n: (_grouped(r, n) / (_grouped(r, n).std(1, keepdim=True) + 1e-4)).reshape(
                -1
            ),
        ),
        Mistake(
            "not divided",
            "the spread is missing: this is Dr. GRPO's advantage; GRPO divides by the group's "
            "standard deviation",
            lambda r, n: ob.group_advantages(r, n, "none"),
        ),
        Mistake(
            "division by zero",
            "a group of equal rewards gives nan: add 1e-4 to the standard deviation",
            lambda r, n: _standardised(_grouped(r, n), eps=0.0),
        ),
        Mistake(
            "population spread",
            "the spread is divided by n; the group is a sample, so divide by n - 1 (torch's "
            "default)",
            lambda r, n: _standardised(_grouped(r, n), unbiased=False),
        ),
        Mistake(
            "wrong groups",
            "the groups are taken across prompts: rollouts of one prompt stand next to each "
            "other, so use view(-1, group_size)",
            lambda r, n: (
                (r.view(n, -1) - r.view(n, -1).mean(0)) / (r.view(n, -1).std(0) + 1e-4)
            ).reshape(-1),
        ),
        Mistake(
            "sign",
            "the sign is flipped: the better answer gets the lower advantage",
            lambda r, n: -ob.group_advantages(r, n),
        ),
    ],
)

POLICY_GRADIENT_LOSS = Exercise(
    "policy_gradient_loss",
    ob.policy_gradient_loss,
    [(_LOGPS, _ADVANTAGES, _MASK), (_LOGPS[1:3], _ADVANTAGES[1:3], _MASK[1:3])],
    [
        Mistake(
            "sign",
            "the sign is flipped: descending this makes rewarded answers less likely",
            lambda x, a, m: (a.detach() * (x * m).sum(1)).mean(),
        ),
        Mistake(
            "token mean",
            "the tokens are averaged; the gradient of log pi(answer) is a sum over its tokens, "
            "whatever its length",
            lambda x, a, m: -(a.detach() * (x * m).sum(1) / m.sum(1)).mean(),
        ),
        Mistake(
            "global token mean",
            "this divides by the number of tokens; the utility is an expectation over answers, "
            "so divide by their number",
            lambda x, a, m: -(a.detach().unsqueeze(1) * x * m).sum() / m.sum(),
        ),
        Mistake(
            "advantage not detached",
            "the value is right, but a gradient flows into the advantages: detach them, they are "
            "data, not parameters",
            lambda x, a, m: -(a * (x * m).sum(1)).mean(),
        ),
        Mistake(
            "mask ignored",
            "padding is pushed up and down like an answer's tokens",
            lambda x, a, m: -(a.detach() * x.sum(1)).mean(),
        ),
        Mistake(
            "probability in place of log",
            "this weighs probabilities; the score function is the gradient of the log-probability",
            lambda x, a, m: -(a.detach() * (x * m).sum(1).exp()).mean(),
        ),
        Mistake(
            "summed over answers",
            "the answers are added up; divide by their number",
            lambda x, a, m: -(a.detach() * (x * m).sum(1)).sum(),
        ),
    ],
    gradients=(0, 1),
)


def _ppo(surrogate, detach_old: bool = True, detach_advantages: bool = True):
    """A PPO loss with another surrogate of (ratio, advantage, clip range)."""

    def loss(logps, old, advantages, mask, clip_range):
        old = old.detach() if detach_old else old
        ratio = (logps - old).exp()
        a = (advantages.detach() if detach_advantages else advantages).unsqueeze(1)
        return -(surrogate(ratio, a, clip_range) * mask).sum() / mask.sum()

    return loss


def _clip(r: Tensor, eps: float) -> Tensor:
    return r.clamp(1 - eps, 1 + eps)


def _exact(r: Tensor, a: Tensor, e: float) -> Tensor:
    return torch.minimum(r * a, _clip(r, e) * a)


def _upside_down(logps, old, advantages, mask, clip_range):
    ratio = (old.detach() - logps).exp()
    return -(_exact(ratio, advantages.detach().unsqueeze(1), clip_range) * mask).sum() / mask.sum()


def _ppo_mean_of_means(logps, old, advantages, mask, clip_range):
    ratio = (logps - old.detach()).exp()
    return -_row_means(_exact(ratio, advantages.detach().unsqueeze(1), clip_range), mask)


PPO_CLIP_LOSS = Exercise(
    "ppo_clip_loss",
    lambda x, o, a, m, e: ob.ppo_clip_loss(x, o, a, m, e),
    [
        (_LOGPS, _OLD, _ADVANTAGES, _MASK, 0.2),
        (_LOGPS[2:], _OLD[2:], -_ADVANTAGES[2:], _MASK[2:], 0.1),
    ],
    [
        Mistake(
            "no clip",
            "the ratio is never clipped, so a good answer can be pushed up without limit within "
            "one batch",
            _ppo(lambda r, a, e: r * a),
        ),
        Mistake(
            "clip on the wrong side",
            "gradient flows where A < 0 and the ratio is below 1 - eps: the clip is on the wrong "
            "side. PPO takes the minimum for both signs of A",
            _ppo(lambda r, a, e: torch.where(a >= 0, _exact(r, a, e),
                                             torch.maximum(r * a, _clip(r, e) * a))),
        ),
        Mistake(
            "maximum",
            "the maximum is taken where PPO takes the minimum: the clip then cuts off exactly the "
            "moves that should be undone",
            _ppo(lambda r, a, e: torch.maximum(r * a, _clip(r, e) * a)),
        ),
        Mistake(
            "only the clipped term",
            "only the clipped ratio is used. Where the ratio moved the wrong way (A > 0 and ratio "
            "below 1 - eps) there is then no gradient to bring it back",
            _ppo(lambda r, a, e: _clip(r, e) * a),
        ),
        Mistake(
            "ratio upside down",
            "the ratio is upside down: it is new over old, exp(logps - old_logps)",
            _upside_down,
        ),
        Mistake(
            "old policy not detached",
            "the value is right, but a gradient flows into the old policy: detach old_logps",
            _ppo(_exact, detach_old=False),
        ),
        Mistake(
            "advantages not detached",
            "the value is right, but a gradient flows into the advantages: detach them",
            _ppo(_exact, detach_advantages=False),
        ),
        Mistake(
            "padding in the denominator",
            "padding is left out of the sum but counted in the mean; divide by mask.sum()",
            lambda x, o, a, m, e: ob.ppo_clip_loss(x, o, a, m, e) * m.sum() / m.numel(),
        ),
        Mistake(
            "sign",
            "the sign is flipped: the surrogate is to be maximised, the loss is its negative",
            lambda x, o, a, m, e: -ob.ppo_clip_loss(x, o, a, m, e),
        ),
        Mistake(
            "mean of means",
            "each answer is averaged first and then the answers; take one mean over all tokens",
            _ppo_mean_of_means,
        ),
        Mistake(
            "mask ignored",
            "padding takes part in the mean",
            lambda x, o, a, m, e: _ppo(_exact)(x, o, a, torch.ones_like(m), e),
        ),
        Mistake(
            "log-ratio",
            "this clips the difference of log-probabilities; the ratio is its exponential",
            lambda x, o, a, m, e: -(
                torch.minimum(
                    (x - o.detach()) * a.detach().unsqueeze(1),
                    (x - o.detach()).clamp(-e, e) * a.detach().unsqueeze(1),
                ) * m
            ).sum() / m.sum(),
        ),
    ],
    gradients=(0, 1, 2),
)  # fmt: skip

_GAE_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
_GAE_REWARDS = torch.tensor([[0, 0, 0, 0, 1.0], [0, 0, -1.0, 0, 0]], dtype=torch.float64)
_GAE_VALUES = 0.5 * _randn(2, 5, seed=4)


def _gae(rewards, values, mask, gamma, lam, after=None, forwards=False, use_mask=True):
    """GAE with faults: another value after the end, time run forwards, padding not left out."""
    on = mask.double() if use_mask else torch.ones_like(values)
    advantages = torch.zeros_like(values)
    steps = range(values.shape[1])
    following = torch.zeros_like(values[:, 0]) if after is None else values[:, -1]
    running = torch.zeros_like(values[:, 0])
    for t in steps if forwards else reversed(steps):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = on[:, t] * (delta + gamma * lam * running)
        advantages[:, t] = running
        following = on[:, t] * values[:, t]
    return advantages


def _returns(rewards, values, mask, gamma, lam):
    return ob.gae(rewards, values, mask, gamma, lam)[1]


GAE = Exercise(
    "gae",
    lambda r, v, m, gamma, lam: ob.gae(r, v, m, gamma, lam)[0],
    [
        (_GAE_REWARDS, _GAE_VALUES * _GAE_MASK, _GAE_MASK, 0.9, 0.8),
        (_GAE_REWARDS, _GAE_VALUES, _GAE_MASK, 1.0, 0.95),
    ],
    [
        Mistake(
            "lambda ignored",
            "lambda is missing: A_t = delta_t + gamma * lambda * A_{t+1}",
            lambda r, v, m, gamma, lam: ob.gae(r, v, m, gamma, 1.0)[0],
        ),
        Mistake(
            "one-step error",
            "these are the one-step errors delta_t alone; later errors must be carried back, "
            "with weight gamma * lambda",
            lambda r, v, m, gamma, lam: ob.gae(r, v, m, gamma, 0.0)[0],
        ),
        Mistake(
            "returns",
            "these are the returns A + V, the critic's targets; the advantages are wanted",
            _returns,
        ),
        Mistake(
            "time runs forwards",
            "the recursion runs from the first token to the last; errors travel back in time, so "
            "start at the end",
            lambda r, v, m, gamma, lam: _gae(r, v, m, gamma, lam, forwards=True),
        ),
        Mistake(
            "value after the end",
            "after the last token there is no state: the value there is 0, not the last value "
            "again",
            lambda r, v, m, gamma, lam: _gae(r, v, m, gamma, lam, after="last"),
        ),
        Mistake(
            "mask ignored",
            "padding takes part: values on padding leak into the advantages of real tokens",
            lambda r, v, m, gamma, lam: _gae(r, v, m, gamma, lam, use_mask=False),
        ),
        Mistake(
            "gamma ignored",
            "gamma is missing from the recursion or from delta_t",
            lambda r, v, m, gamma, lam: ob.gae(r, v, m, 1.0, lam)[0],
        ),
        Mistake(
            "sign",
            "the sign is flipped: an advantage is what came out minus what was expected",
            lambda r, v, m, gamma, lam: -ob.gae(r, v, m, gamma, lam)[0],
        ),
    ],
)  # fmt: skip


def _entropy(logits: Tensor, axis: int = -1) -> Tensor:
    logps = torch.log_softmax(logits, axis)
    return -(logps.exp() * logps).sum(axis)


TOKEN_ENTROPY = Exercise(
    "token_entropy",
    ob.token_entropy,
    [(3 * _randn(2, 5, 5),), (_randn(4, 7, seed=5),)],
    [
        Mistake(
            "sign",
            "the sign is flipped: entropy is never negative",
            lambda x: -_entropy(x),
        ),
        Mistake(
            "bits",
            "this is in bits (logarithm to base 2); the field counts in nats",
            lambda x: _entropy(x) / math.log(2),
        ),
        Mistake(
            "wrong axis",
            "the softmax or the sum runs over positions; both belong to the vocabulary, dim -1",
            lambda x: _entropy(x, -2),
        ),
        Mistake(
            "mean over words",
            "the words are averaged; entropy is a sum weighted by the probabilities",
            lambda x: _entropy(x) / x.shape[-1],
        ),
        Mistake(
            "no softmax",
            "the logits are used as if they were log-probabilities; apply log_softmax first",
            lambda x: -(x.exp() * x).sum(-1),
        ),
        Mistake(
            "averaged",
            "the positions are averaged; one entropy a position is wanted",
            lambda x: _entropy(x).mean(),
        ),
    ],
    gradients=(0,),
)

_RATIOS = torch.tensor([[0.5, 1.5, 1.1], [0.5, 1.5, 0.95]], dtype=torch.float64)
_ALL = torch.ones(2, 3, dtype=torch.int64)
_SOME = torch.tensor([[1, 1, 1], [1, 0, 0]])


def _clip_fraction(ratio, advantages, mask, eps):
    return ob.masked_mean(
        ob.clipped_tokens(ratio.log(), torch.zeros_like(ratio), advantages, eps), mask
    )


def _fraction(chosen: Tensor, mask: Tensor) -> Tensor:
    return (chosen * mask).sum() / mask.sum()


CLIP_FRACTION = Exercise(
    "clip_fraction",
    _clip_fraction,
    [
        (_RATIOS, torch.tensor([1.0, -1.0], dtype=torch.float64), _ALL, 0.2),
        (_RATIOS, torch.tensor([-1.0, 1.0], dtype=torch.float64), _SOME, 0.2),
        (_RATIOS.flip(1), torch.tensor([2.0, -1.0], dtype=torch.float64), _SOME, 0.08),
    ],
    [
        Mistake(
            "sign of A ignored",
            "every ratio outside the range is counted. The clip acts only where it would be moved "
            "further out: A > 0 and above, or A < 0 and below",
            lambda r, a, m, e: _fraction(((r > 1 + e) | (r < 1 - e)).double(), m),
        ),
        Mistake(
            "one side only",
            "only ratios above 1 + eps are counted; with A < 0 the clip acts below 1 - eps",
            lambda r, a, m, e: _fraction(((r > 1 + e) & (a[:, None] > 0)).double(), m),
        ),
        Mistake(
            "sides swapped",
            "these are the tokens where the clip does not act: the sides are swapped",
            lambda r, a, m, e: _fraction(
                (((r > 1 + e) & (a[:, None] < 0)) | ((r < 1 - e) & (a[:, None] > 0))).double(), m
            ),
        ),
        Mistake(
            "mask ignored",
            "padding is counted",
            lambda r, a, m, e: _clip_fraction(r, a, torch.ones_like(m), e),
        ),
        Mistake(
            "the others",
            "this is the share of tokens on which the clip does not act",
            lambda r, a, m, e: 1 - _clip_fraction(r, a, m, e),
        ),
        Mistake(
            "padding in the denominator",
            "padding is left out of the count but not of the total; divide by mask.sum()",
            lambda r, a, m, e: _clip_fraction(r, a, m, e) * m.sum() / m.numel(),
        ),
        Mistake(
            "count",
            "this is a number of tokens; a share is wanted",
            lambda r, a, m, e: _clip_fraction(r, a, m, e) * m.sum(),
        ),
    ],
)  # fmt: skip

_PIECES = ([_LOGPS[:1], _LOGPS[1:]], [_MASK[:1], _MASK[1:]])
_MORE_PIECES = ([_LOGPS[:2], _LOGPS[2:3], _LOGPS[3:]], [_MASK[:2], _MASK[2:3], _MASK[3:]])


def _accumulated(pieces: list[Tensor], masks: list[Tensor]) -> Tensor:
    total = sum(m.sum() for m in masks)
    return torch.stack([ob.sft_loss(x, m, total) for x, m in zip(pieces, masks, strict=True)])


def _each(part):
    def shares(pieces, masks):
        return torch.stack([part(x, m, pieces, masks) for x, m in zip(pieces, masks, strict=True)])

    return shares


ACCUMULATED_LOSSES = Exercise(
    "accumulated_losses",
    _accumulated,
    [_PIECES, _MORE_PIECES],
    [
        Mistake(
            "not scaled",
            "each piece is its own mean, so three pieces give a gradient about three times too "
            "large; divide every piece by the tokens of the whole batch",
            _each(lambda x, m, xs, ms: ob.sft_loss(x, m)),
        ),
        Mistake(
            "mean of means",
            "the pieces' means are divided by the number of pieces: a mean of means, right only "
            "if all pieces have equally many tokens",
            _each(lambda x, m, xs, ms: ob.sft_loss(x, m) / len(xs)),
        ),
        Mistake(
            "weighted by answers",
            "the pieces are weighted by their answers; a token mean needs their tokens",
            _each(lambda x, m, xs, ms: ob.sft_loss(x, m) * len(x) / sum(map(len, xs))),
        ),
        Mistake(
            "padding counted",
            "the whole batch's positions are counted with its padding; count the masks' ones",
            _each(lambda x, m, xs, ms: -(x * m).sum() / sum(y.numel() for y in ms)),
        ),
        Mistake(
            "sums",
            "the tokens are only added up; divide every piece by the tokens of the whole batch",
            _each(lambda x, m, xs, ms: -(x * m).sum()),
        ),
        Mistake(
            "added up",
            "the pieces are added up already; give one loss a piece, so that each can be "
            "backpropagated and forgotten",
            lambda xs, ms: _accumulated(xs, ms).sum(),
        ),
    ],
)  # fmt: skip

EXERCISES = (
    SFT_LOSS, ACCUMULATED_LOSSES, GROUP_ADVANTAGES, POLICY_GRADIENT_LOSS, PPO_CLIP_LOSS,
    CLIP_FRACTION, GAE, TOKEN_ENTROPY,
)  # fmt: skip
