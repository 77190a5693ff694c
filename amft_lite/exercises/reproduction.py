"""Checks of notebook 05: rivals by their formulas, and what a comparison of many methods needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amft_lite import objectives as ob
from amft_lite import statistics
from amft_lite.exercises.checking import Exercise, Mistake
from amft_lite.gate import agreement
from amft_lite.methods import few_right

# Inputs that are not tensors are tuples: what sorts or fills them in place fails, and cannot change
# them for the next function.


def _f(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- rivals ---------------------------------------------------------------------------------------

PHI_WEIGHT = Exercise(
    "phi_weight",
    ob.phi_weight,
    [(_f(0.1, 0.2, 0.5, 0.8),), (_f(0.01, 0.25, 0.9, 0.99),), (_f(0.5, 1.0, 0.0),)],
    [
        Mistake(
            "only p",
            "1 - p is missing: the tokens that the policy has long learned would weigh most",
            lambda p: p,
        ),
        Mistake(
            "only 1 - p",
            "p is missing: the tokens that the policy finds absurd would weigh most",
            lambda p: 1 - p,
        ),
        Mistake(
            "stretched to one",
            "this is four times the weight: at p = 1/2 CHORD's phi is 1/4, not 1",
            lambda p: 4 * p * (1 - p),
        ),
        Mistake(
            "entropy",
            "this is the entropy of a coin that falls with probability p; it has the same shape, "
            "but phi needs no logarithm",
            lambda p: -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p),
        ),
        Mistake(
            "root",
            "the root is too much: phi is the variance p (1 - p) of right or wrong, not its "
            "standard deviation",
            lambda p: (p * (1 - p)).sqrt(),
        ),
        Mistake(
            "exponential",
            "the input is already a probability, not its logarithm: no exp",
            lambda p: p.exp() * (1 - p.exp()),
        ),
        Mistake(
            "shares",
            "the weights are divided by their sum, so a token's weight depends on its neighbours; "
            "each has its own",
            lambda p: p * (1 - p) / (p * (1 - p)).sum(),
        ),
    ],
)


def _right(*counts: int, of: int) -> Tensor:
    """One row of rewards for each prompt: so many right out of so many."""
    return (torch.arange(of) < torch.tensor(counts).unsqueeze(1)).double()


FEW_RIGHT = Exercise(
    "few_right",
    few_right,
    [
        (_right(2, 0, 4, 1, 3, of=4), 0.6),
        (_right(3, 1, 0, 2, 4, 1, of=4).flip(1), 0.25),
        (_right(1, 0, 2, of=2), 0.0),
        (_right(8, 2, 5, 4, 0, of=8), 0.5),
        (_right(1, 3, 0, of=4), 1.0),
        (_right(3, 2, 4, of=4), 0.7),  # a rounded count would let 3 of 4 in
    ],
    [
        Mistake(
            "strict",
            "a prompt exactly at the threshold belongs to the gate too ('at most'); with < and "
            "threshold 0 no prompt would ever be imitated",
            lambda r, most: r.mean(1) < most,
        ),
        Mistake(
            "reversed",
            "the gate is the wrong way round: it imitates where the policy can do it, and leaves "
            "it alone where it cannot",
            lambda r, most: r.mean(1) > most,
        ),
        Mistake(
            "at least",
            "these prompts have at least `threshold` right; the gate wants those that have at "
            "most so many",
            lambda r, most: r.mean(1) >= most,
        ),
        Mistake(
            "any right",
            "these are the prompts with a right rollout, whatever the threshold",
            lambda r, most: r.sum(1) > 0,
        ),
        Mistake(
            "none right",
            "the threshold is not used: only prompts without any right rollout are taken, which "
            "is SuperRL's gate; HPT's allows a share of them",
            lambda r, most: r.sum(1) == 0,
        ),
        Mistake(
            "count",
            "the number of right rollouts is compared with the threshold; it is a share, so take "
            "their mean",
            lambda r, most: r.sum(1) <= most,
        ),
        Mistake(
            "wrong axis",
            "the mean runs over prompts; it belongs to the rollouts of one prompt, dim 1",
            lambda r, most: r.mean(0) <= most,
        ),
        Mistake(
            "whole batch",
            "one mean decides for the whole batch; the gate looks at each prompt alone",
            lambda r, most: (r.mean() <= most).expand(len(r)),
        ),
        Mistake(
            "share of wrong",
            "the share of *wrong* rollouts is compared with the threshold",
            lambda r, most: 1 - r.mean(1) <= most,
        ),
    ],
)


def _joined(rewards: Tensor, expert_reward: float, scale: str = "none") -> tuple[Tensor, Tensor]:
    joined, expert = ob.joined_advantages(
        rewards, rewards.new_tensor([expert_reward]), len(rewards), scale=scale
    )
    return joined, expert[0]


def _group(rewards: Tensor, expert_reward: float) -> Tensor:
    return torch.cat((rewards, rewards.new_tensor([expert_reward])))


def _over(baseline):
    """Rewards over a baseline, which is a function of (rewards, the demonstration's reward)."""

    def advantages(rewards, expert_reward):
        base = baseline(rewards, expert_reward)
        return rewards - base, expert_reward - base

    return advantages


def _demonstration_first(rewards: Tensor, expert_reward: float) -> tuple[Tensor, Tensor]:
    group = _group(rewards, expert_reward).roll(1)
    return (group - group.mean())[:-1], (group - group.mean())[-1]


def _bare_spread(rewards: Tensor, expert_reward: float) -> tuple[Tensor, Tensor]:
    group = _group(rewards, expert_reward)
    scaled = (group - group.mean()) / group.std()
    return scaled[:-1], scaled[-1]


def _others(rewards: Tensor, expert_reward: float) -> tuple[Tensor, Tensor]:
    joined, expert = _joined(rewards, expert_reward)
    return joined * (len(rewards) + 1) / len(rewards), expert * (len(rewards) + 1) / len(rewards)


JOINED_ADVANTAGES = Exercise(
    "joined_advantages",
    _joined,
    [
        (torch.zeros(7, dtype=torch.float64), 1.0),  # -1/8 each; 7/8
        (_f(1, 0, 0, 1), 1.0),  # the mean is 3/5
        (_f(0, 1, 0), 0.6),  # the mean is 4/10
        (_f(1, 1, 1), 1.0),  # nothing to learn
    ],
    [
        Mistake(
            "baseline without it",
            "the mean leaves the demonstration out; it is a member of the group, so the mean is "
            "over K + 1 rewards",
            _over(lambda r, e: r.mean()),
        ),
        Mistake(
            "mean over K",
            "the demonstration's reward is in the sum but not in the number: divide by K + 1",
            _over(lambda r, e: (r.sum() + e) / len(r)),
        ),
        Mistake(
            "reward itself",
            "the demonstration gets its reward as its advantage; as a member of the group it "
            "gets what lies above the mean, beside seven wrong rollouts 7/8",
            lambda r, e: (_joined(r, e)[0], e),
        ),
        Mistake(
            "two baselines",
            "the demonstration is measured by the joined group, but the rollouts by their own "
            "mean: beside seven wrong ones they would learn nothing. One mean for all",
            lambda r, e: (r - r.mean(), _joined(r, e)[1]),
        ),
        Mistake(
            "divided by the spread",
            "the spread divides here, as in GRPO; LUFFY only subtracts the mean",
            lambda r, e: _joined(r, e, "std"),
        ),
        Mistake(
            "bare spread",
            "the advantages are divided by the bare standard deviation (0 where all are right); "
            "subtract the mean, and that is all",
            _bare_spread,
        ),
        Mistake(
            "mean of the others",
            "each member's baseline is the mean of the *other* ones; here it is the mean of all, "
            "with the member itself",
            _others,
        ),
        Mistake(
            "demonstration first",
            "the demonstration was put in front of the rollouts but read off behind them",
            _demonstration_first,
        ),
        Mistake(
            "sign",
            "the sign is flipped: a reward above the mean gives a positive advantage",
            lambda r, e: tuple(-x for x in _joined(r, e)),
        ),
        Mistake(
            "not parted",
            "all K + 1 advantages come back as one; return the rollouts' and the demonstration's "
            "apart, as a pair",
            lambda r, e: torch.cat([x.view(-1) for x in _joined(r, e)]),
        ),
    ],
)


# --- the gate on tokens ---------------------------------------------------------------------------


def _agreement(rise: Tensor) -> Tensor:
    return agreement(torch.zeros(len(rise), dtype=torch.int64), rise, 1)[0]


def _over_scale(scale, top=torch.mean):
    """The mean over another measure of size; 0 where that is 0."""

    def ratio(rise):
        size = scale(rise)
        return top(rise) / size if size > 0 else 0.0

    return ratio


def _rms(x: Tensor) -> Tensor:
    return (x**2).mean().sqrt()


TOKEN_AGREEMENT = Exercise(
    "token_agreement",
    _agreement,
    [
        (_f(5, 0, 0, 0),),  # 5/4 over 5/2: 1/2
        (_f(-7, -1),),  # -4 over 5
        (_f(1, -1, 1, 1),),  # 1/2 over 1
        (_f(0.007, 0.001),),  # the size does not matter: 4/5
        (_f(2, 2, 2),),  # 1
        (_f(0, 0, 0),),  # 0, not 0 / 0
    ],
    [
        Mistake(
            "standard deviation",
            "the standard deviation divides here, which takes the mean out first: tokens that all "
            "agree would give infinity. Take the root of the mean of the squares",
            _over_scale(lambda x: x.std()),
        ),
        Mistake(
            "population spread",
            "the spread around the mean divides here (with n in place of n - 1, but that is not "
            "the point): square the rises themselves, not their distances from the mean",
            _over_scale(lambda x: x.std(unbiased=False)),
        ),
        Mistake(
            "mean absolute value",
            "the mean absolute value divides here, so one token alone is full agreement; with "
            "squares one large rise among zeros counts less",
            _over_scale(lambda x: x.abs().mean()),
        ),
        Mistake(
            "signs",
            "only the signs are counted; a large rise must count more than a tiny one",
            lambda x: x.sign().mean(),
        ),
        Mistake(
            "sum",
            "the rises are added up, so more tokens mean more agreement; take their mean",
            _over_scale(_rms, torch.sum),
        ),
        Mistake(
            "sum over norm",
            "the sum is divided by the norm: that grows with the root of the number of tokens. "
            "Take means above *and* below",
            _over_scale(lambda x: x.norm(), torch.sum),
        ),
        Mistake(
            "norm",
            "the norm divides here, a root of a *sum* of squares; it takes the root of their mean",
            _over_scale(lambda x: x.norm()),
        ),
        Mistake(
            "no root",
            "the mean square divides here without its root; rises ten times as large must give "
            "the same",
            _over_scale(lambda x: (x**2).mean()),
        ),
        Mistake(
            "not divided",
            "this is the mean alone; divide by the root mean square, so that the size of the "
            "rises drops out",
            torch.mean,
        ),
        Mistake(
            "sign lost",
            "the sign is lost: tokens that agree they would *fall* must give a negative number",
            lambda x: _agreement(x).abs(),
        ),
        Mistake(
            "zero over zero",
            "where all rises are 0 this gives nan: nobody says anything, so return 0",
            lambda x: x.mean() / _rms(x),
        ),
    ],
)


# --- many regimes, many comparisons ---------------------------------------------------------------


def _regret(values: Sequence[Sequence[float]]) -> Tensor:
    """By the package's regret over one seed, every constant a reference."""
    table = torch.tensor(values, dtype=torch.float64).unsqueeze(2)
    lost = statistics.regret(table.numpy(), range(len(values)))
    return torch.as_tensor(lost)[:, :, 0].mean(1)


def _table(formula):
    return lambda values: formula(torch.tensor(values, dtype=torch.float64))


REGRET = Exercise(
    "regret",
    _regret,
    [
        (((0.2, 0.6), (0.5, 0.4), (0.3, 0.8)),),  # best .5, .8: .25, .2, .1
        (((0.9, 0.1, 0.4), (0.3, 0.4, 0.4)),),  # best .9, .4, .4: .1, .2
        (((0.1, 0.7, 0.2), (0.5, 0.6, 0.0), (0.4, 0.1, 0.9), (0.0, 0.3, 0.5)),),
        (((0.3, 0.2), (0.6, 0.5)),),  # the second is the best everywhere: .3, 0
    ],
    [
        Mistake(
            "best on average",
            "the constants are compared with the one that is best *on average*; each regime has "
            "its own best one, and only this makes the price of one constant visible",
            _table(lambda v: v.mean(1).max() - v.mean(1)),
        ),
        Mistake(
            "distance to the mean",
            "the constants are compared with the mean constant; regret is measured from the best",
            _table(lambda v: (v.mean(0) - v).mean(1)),
        ),
        Mistake(
            "worst case",
            "this is each constant's largest regret; average its regimes",
            _table(lambda v: (v.amax(0) - v).amax(1)),
        ),
        Mistake(
            "sign",
            "the sign is flipped: regret is the best minus this one, never negative",
            _table(lambda v: (v - v.amax(0)).mean(1)),
        ),
        Mistake(
            "best regime",
            "the best is taken over the regimes of one constant; take it over the constants in "
            "one regime: that regimes differ is nobody's fault",
            _table(lambda v: (v.amax(1, keepdim=True) - v).mean(1)),
        ),
        Mistake(
            "one a regime",
            "the mean runs over the constants and leaves one number a regime; average the regimes "
            "and leave one number a constant",
            _table(lambda v: (v.amax(0) - v).mean(0)),
        ),
        Mistake(
            "sum",
            "the regimes are added up; divide by their number",
            _table(lambda v: (v.amax(0) - v).sum(1)),
        ),
        Mistake(
            "best of all",
            "one best value serves all regimes; easy and hard regimes need each their own",
            _table(lambda v: (v.max() - v).mean(1)),
        ),
        Mistake(
            "above the worst",
            "this counts from the worst constant in each regime; regret counts from the best",
            _table(lambda v: (v - v.amin(0)).mean(1)),
        ),
    ],
)


def _adjusted(factor, upwards=None, downwards=None, cap=1.0, back=True):
    """Adjusted p values: times factor(m, rank from 0), then made monotone from below or above."""

    def adjust(p_values):
        m = len(p_values)
        order = sorted(range(m), key=lambda i: p_values[i])
        found = [p_values[i] * factor(m, k) for k, i in enumerate(order)]
        for k in range(1, m):
            if upwards:
                found[k] = max(found[k], found[k - 1])
            if downwards:
                found[m - 1 - k] = min(found[m - 1 - k], found[m - k])
        found = [min(cap, p) for p in found]
        return [found[order.index(i)] for i in range(m)] if back else found

    return adjust


def _holm_factor(m: int, k: int) -> int:
    return m - k


HOLM = Exercise(
    "holm",
    statistics.holm,
    [
        ((0.01, 0.04, 0.03, 0.005),),  # .005 * 4, .01 * 3, .03 * 2, and .04 is raised to .06
        ((0.7, 0.02, 0.6),),  # .06, and 1.2 becomes 1
        ((0.02, 0.3, 0.02, 0.011, 0.02),),  # .055, three times .08, and .3
        ((0.03,),),  # one test alone stays as it is
    ],
    [
        Mistake(
            "Bonferroni",
            "this is Bonferroni's: all are multiplied by m. Holm multiplies the smallest by m, "
            "the next by m - 1, and so on",
            _adjusted(lambda m, k: m),
        ),
        Mistake(
            "Benjamini-Hochberg",
            "this is Benjamini and Hochberg's, which bounds the *share* of false discoveries; "
            "Holm bounds the chance of even one",
            _adjusted(lambda m, k: m / (k + 1), downwards=True),
        ),
        Mistake(
            "Hochberg",
            "this is Hochberg's step-up: the minimum from the largest p downwards. Holm steps "
            "down: the maximum from the smallest p upwards",
            _adjusted(_holm_factor, downwards=True),
        ),
        Mistake(
            "not monotone",
            "a larger p value comes out smaller than a smaller one; each adjusted value is at "
            "least as large as the one before it in the sorted order",
            _adjusted(_holm_factor),
        ),
        Mistake(
            "not capped",
            "an adjusted p value is above 1; cap it at 1",
            _adjusted(_holm_factor, upwards=True, cap=float("inf")),
        ),
        Mistake(
            "sorted order",
            "the adjusted values come back sorted; put each where its p value stood, or methods "
            "get one another's results",
            _adjusted(_holm_factor, upwards=True, back=False),
        ),
        Mistake(
            "factors reversed",
            "the smallest p value is multiplied by 1 and the largest by m; it is the other way "
            "round",
            _adjusted(lambda m, k: k + 1, upwards=True),
        ),
        Mistake(
            "off by one",
            "the factors run from m - 1 to 0; they run from m to 1",
            _adjusted(lambda m, k: m - 1 - k, upwards=True),
        ),
        Mistake(
            "not adjusted",
            "these are the p values as they came; twenty tests at .05 find something in two of "
            "three worlds where there is nothing",
            list,
        ),
    ],
)

EXERCISES = (PHI_WEIGHT, FEW_RIGHT, JOINED_ADVANTAGES, TOKEN_AGREEMENT, REGRET, HOLM)
