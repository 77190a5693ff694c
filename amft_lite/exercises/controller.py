"""Checks of notebook 03: the meta-gradient and the controller of mu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amft_lite import meta_gradient as mg
from amft_lite import objectives as ob
from amft_lite.exercises.checking import Exercise, Mistake
from amft_lite.weighting import clip


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


_U, _S, _R = _randn(6), _randn(6, seed=1), _randn(6, seed=2)


def _mu_gradient(u: Tensor, s: Tensor, r: Tensor, lr: float) -> Tensor:
    return mg.mu_gradient(u, mg.sgd_direction(s, r, lr))


MU_GRADIENT = Exercise(
    "mu_gradient",
    _mu_gradient,
    [(_U, _S, _R, 0.1), (_U + 1, _S, 2 * _R, 0.01)],
    [
        Mistake(
            "sign",
            "the sign is flipped: the step goes against the gradients, so theta moves by "
            "-lr (g_SFT - g_RL) when mu grows by one",
            lambda u, s, r, lr: -_mu_gradient(u, s, r, lr),
        ),
        Mistake(
            "no learning rate",
            "the learning rate is missing: mu moves the weights through a step of size lr",
            lambda u, s, r, lr: -torch.dot(u, s - r),
        ),
        Mistake(
            "imitation only",
            "only g_SFT is used; when mu grows the step loses as much of g_RL",
            lambda u, s, r, lr: -lr * torch.dot(u, s),
        ),
        Mistake(
            "cosine",
            "this is a cosine; the derivative keeps the lengths of the vectors",
            lambda u, s, r, lr: mg.cosine(u, r - s),
        ),
        Mistake(
            "added",
            "g_SFT and g_RL are added: d/dmu of (1 - mu) g_RL + mu g_SFT is their difference",
            lambda u, s, r, lr: -lr * torch.dot(u, s + r),
        ),
        Mistake(
            "not added up",
            "the products are not added up: the derivative is one number, an inner product",
            lambda u, s, r, lr: -lr * u * (s - r),
        ),
    ],
)

_M, _V = 0.1 * _randn(6, seed=3), 0.05 * _randn(6, seed=4) ** 2


def _adam(g, m, v, step, lr, beta1, beta2, eps) -> Tensor:
    return mg.adam_update(g, mg.AdamState(m, v, step - 1, lr, (beta1, beta2), eps))


def _adam_with(biased=False, inside=False, old_v=False, off=0, root=True):
    def update(g, m, v, step, lr, beta1, beta2, eps):
        m_new = beta1 * m + (1 - beta1) * g
        v_new = beta2 * v + (1 - beta2) * g**2
        v_new = v if old_v else v_new
        m_hat = m_new if biased else m_new / (1 - beta1 ** (step + off))
        v_hat = v_new if biased else v_new / (1 - beta2 ** (step + off))
        if inside:
            return -lr * m_hat / (v_hat + eps).sqrt()
        return -lr * m_hat / ((v_hat.sqrt() if root else v_hat) + eps)

    return update


def _swapped_betas(g, m, v, step, lr, beta1, beta2, eps):
    return _adam(g, m, v, step, lr, beta2, beta1, eps)


ADAM_UPDATE = Exercise(
    "adam_update",
    _adam,
    [(_U, _M, _V, 3, 0.01, 0.9, 0.95, 1e-3), (_S, 0 * _M, 0 * _V, 1, 0.1, 0.9, 0.99, 1e-2)],
    [
        Mistake(
            "no bias correction",
            "the moments are not divided by 1 - beta^step; early steps come out far too small or "
            "too large",
            _adam_with(biased=True),
        ),
        Mistake(
            "eps inside the root",
            "eps stands inside the square root; torch adds it outside",
            _adam_with(inside=True),
        ),
        Mistake(
            "old second moment",
            "the second moment leaves out the fresh gradient. This is the naive preconditioner "
            "that this notebook warns of",
            _adam_with(old_v=True),
        ),
        Mistake(
            "step off by one",
            "the bias correction counts one step too many; `step` is the number of the step "
            "being taken, 1 for the first",
            _adam_with(off=1),
        ),
        Mistake(
            "no root",
            "the square root of the second moment is missing",
            _adam_with(root=False),
        ),
        Mistake(
            "betas swapped",
            "the betas have changed places: beta1 belongs to the gradient, beta2 to its square",
            _swapped_betas,
        ),
        Mistake(
            "sign",
            "the sign is flipped: the update is what is added to the weights, so it goes downhill",
            lambda *a: -_adam(*a),
        ),
        Mistake(
            "plain gradient",
            "the first moment is not used: momentum averages m and the fresh gradient",
            lambda g, m, v, step, lr, b1, b2, eps: (
                -lr * g / (((b2 * v + (1 - b2) * g**2) / (1 - b2**step)).sqrt() + eps)
            ),
        ),
    ],
)


def _signed_root(g: Tensor) -> Tensor:
    """An update rule that is neither linear nor odd about its own middle, for the check."""
    return -0.1 * g / (g.abs() + 0.5)


def _direction(update, s, r, mu, width, clamp=True, divide="true", derivative=False):
    low, high = mu - width / 2, mu + width / 2
    if clamp:
        low, high = max(0.0, low), min(1.0, high)
    change = update(mg.mix(s, r, high)) - update(mg.mix(s, r, low))
    return change / {"true": high - low, "width": width, "none": 1.0}[divide]


ADAM_DIRECTION = Exercise(
    "adam_direction",
    _direction,
    [(_signed_root, _S, _R, 0.5, 0.4), (_signed_root, _S, _R, 0.9, 0.5),
     (_signed_root, _R, _U, 0.1, 0.6)],
    [
        Mistake(
            "sign",
            "the difference is taken the wrong way round: the update at the larger mu comes first",
            lambda *a: -_direction(*a),
        ),
        Mistake(
            "not divided",
            "the difference is not divided by the distance in mu; a derivative is per unit of mu",
            lambda *a: _direction(*a, divide="none"),
        ),
        Mistake(
            "outside [0, 1]",
            "near the ends mu - width/2 or mu + width/2 leaves [0, 1]; no mixture is there, so "
            "clamp both",
            lambda *a: _direction(*a, clamp=False),
        ),
        Mistake(
            "divided by the width",
            "at the ends the two mixtures are closer than `width`; divide by their real distance",
            lambda *a: _direction(*a, divide="width"),
        ),
        Mistake(
            "update of the difference",
            "this is the update of g_SFT - g_RL. The optimiser is not linear: take two updates "
            "and then their difference",
            lambda update, s, r, mu, width: update(s - r),
        ),
        Mistake(
            "mixture reversed",
            "mu weighs g_RL here; Eq. 3 gives mu to g_SFT",
            lambda update, s, r, mu, width: _direction(update, r, s, mu, width),
        ),
    ],
)  # fmt: skip

_REWARDS = torch.tensor([1, 0, 0, 1, 1, 1, 0, 0, 0], dtype=torch.float64)


LEAVE_ONE_OUT = Exercise(
    "leave_one_out_advantages",
    ob.leave_one_out_advantages,
    [(_REWARDS, 3), (_randn(8, seed=6), 4)],
    [
        Mistake(
            "own reward in the baseline",
            "the baseline is the mean of the whole group, the answer itself included: that "
            "shrinks the gradient by (n - 1) / n",
            lambda r, n: ob.group_advantages(r, n, "none"),
        ),
        Mistake(
            "standardised",
            "the advantages are divided by the group's spread; the utility's gradient is then no "
            "longer unbiased",
            lambda r, n: ob.group_advantages(r, n),
        ),
        Mistake(
            "batch baseline",
            "the baseline is the mean over all prompts; take the other rollouts of the same prompt",
            lambda r, n: r - r.mean(),
        ),
        Mistake(
            "divided by n",
            "the sum of the others is divided by n; there are n - 1 others",
            lambda r, n: (r.view(-1, n) - (r.view(-1, n).sum(1, True) - r.view(-1, n)) / n).view(
                -1
            ),
        ),
        Mistake(
            "no baseline",
            "these are the rewards themselves; subtract the mean of the others",
            lambda r, n: r.clone(),
        ),
        Mistake(
            "sign",
            "the sign is flipped: reward minus baseline",
            lambda r, n: -ob.leave_one_out_advantages(r, n),
        ),
        Mistake(
            "wrong groups",
            "the groups are taken across prompts; rollouts of one prompt stand next to each other",
            lambda r, n: (
                r.view(n, -1) - (r.view(n, -1).sum(0) - r.view(n, -1)) / max(1, n - 1)
            ).reshape(-1),
        ),
    ],
)


def _pushes(entropy: float, target: float, eta: float) -> tuple[float, float]:
    return eta * (target - entropy), eta * (entropy - target)


ENTROPY_PUSHES = Exercise(
    "entropy_pushes",
    _pushes,
    [(0.2, 0.5, 0.05), (0.9, 0.5, 0.1), (0.4, 0.4, 0.1)],
    [
        Mistake(
            "swapped",
            "the two forms have changed places: Eq. 6 prints + eta (H* - H); by the text, entropy "
            "above H* raises mu",
            lambda h, t, eta: _pushes(h, t, eta)[::-1],
        ),
        Mistake(
            "same sign",
            "both forms push the same way; the point is that they contradict each other",
            lambda h, t, eta: (eta * (t - h),) * 2,
        ),
        Mistake(
            "no eta",
            "eta is missing: it turns nats into a change of mu",
            lambda h, t, eta: (t - h, h - t),
        ),
        Mistake(
            "same sign, the text's",
            "both forms push as the text says; the point is that they contradict each other",
            lambda h, t, eta: (eta * (h - t),) * 2,
        ),
        Mistake(
            "size only",
            "the absolute value loses the direction, which is all that matters here",
            lambda h, t, eta: (eta * abs(t - h),) * 2,
        ),
        Mistake(
            "entropy itself",
            "the target H* is missing: the push depends on the distance from H*",
            lambda h, t, eta: (-eta * h, eta * h),
        ),
    ],
)


def _step(mu, signal, eta, max_change, low, high):
    return clip(mu + clip(eta * signal, -max_change, max_change), low, high)


CONTROLLER_STEP = Exercise(
    "controller_step",
    _step,
    [(0.5, 0.3, 1.0, 0.05, 0.05, 0.95), (0.5, -0.02, 1.0, 0.05, 0.05, 0.95),
     (0.93, 0.9, 1.0, 0.05, 0.05, 0.95), (0.07, -0.04, 2.0, 0.5, 0.05, 0.95),
     (0.6, 0.03, 0.5, 0.1, 0.05, 0.95), (0.5, -0.4, 1.0, 0.05, 0.05, 0.95),
     (0.3, 0.2, 0.2, 0.1, 0.05, 0.95)],
    [
        Mistake(
            "no limit on the change",
            "one noisy signal can throw mu across its whole range: clip the change to "
            "+-max_change first",
            lambda mu, s, eta, most, lo, hi: clip(mu + eta * s, lo, hi),
        ),
        Mistake(
            "no bounds",
            "mu can leave [low, high]; clip it after the change",
            lambda mu, s, eta, most, lo, hi: mu + clip(eta * s, -most, most),
        ),
        Mistake(
            "sign",
            "mu moves against its gradient: U is to rise, so this is ascent",
            lambda mu, s, eta, most, lo, hi: _step(mu, -s, eta, most, lo, hi),
        ),
        Mistake(
            "eta after the clip",
            "the signal is clipped before eta multiplies it, so the change can exceed max_change",
            lambda mu, s, eta, most, lo, hi: clip(mu + eta * clip(s, -most, most), lo, hi),
        ),
        Mistake(
            "sign of the signal only",
            "every signal, however weak, moves mu by max_change; a weak one should move it less",
            lambda mu, s, eta, most, lo, hi: clip(mu + math.copysign(most, s), lo, hi),
        ),
        Mistake(
            "one limit only",
            "only rises are limited; a large negative signal still throws mu down",
            lambda mu, s, eta, most, lo, hi: clip(mu + min(eta * s, most), lo, hi),
        ),
        Mistake(
            "eta ignored",
            "eta is missing",
            lambda mu, s, eta, most, lo, hi: _step(mu, s, 1.0, most, lo, hi),
        ),
        Mistake(
            "change only",
            "this is the change of mu; the new mu is wanted",
            lambda mu, s, eta, most, lo, hi: clip(eta * s, -most, most),
        ),
    ],
)  # fmt: skip


def _average(values: list[Tensor], decay: float) -> Tensor:
    average = values[0].clone()
    for new in values[1:]:
        average = decay * average + (1 - decay) * new
    return average


def _from_zero(values, decay):
    average = torch.zeros_like(values[0])
    for new in values:
        average = decay * average + (1 - decay) * new
    return average


MOVING_AVERAGE = Exercise(
    "moving_average",
    _average,
    [([_U, _S, _R], 0.9), ([_U, _S], 0.5), ([_R], 0.9)],
    [
        Mistake(
            "weights swapped",
            "decay weighs the new value here; it belongs to the old average (for decay = .5 one "
            "cannot tell, for .9 one can)",
            lambda values, decay: _average(values, 1 - decay),
        ),
        Mistake(
            "started at zero",
            "the average starts at 0, so the first values come out too small; start it at the "
            "first value",
            _from_zero,
        ),
        Mistake(
            "plain mean",
            "all values weigh the same; old ones should fade",
            lambda values, decay: torch.stack(values).mean(0),
        ),
        Mistake(
            "last value",
            "this is the newest value alone; nothing is averaged",
            lambda values, decay: values[-1].clone(),
        ),
        Mistake(
            "not a mean",
            "the weights do not add up to 1: the new value needs the weight 1 - decay",
            lambda values, decay: sum(v * decay ** (len(values) - 1 - i)
                                      for i, v in enumerate(values)),
        ),
    ],
)  # fmt: skip

_ESTIMATES = torch.tensor([0.3, -0.1, 0.0, 0.2, 0.01, 0.4], dtype=torch.float64)


def _share(estimates: Tensor, reference: float) -> Tensor:
    return (estimates * reference > 0).double().mean()


SIGN_AGREEMENT = Exercise(
    "sign_agreement",
    _share,
    [(_ESTIMATES, 0.05), (_ESTIMATES, -2.0), (_randn(7, seed=9), -0.1), (_randn(9, seed=10), 0.3)],
    [
        Mistake(
            "reference ignored",
            "positive estimates are counted whatever the reference's sign",
            lambda e, r: (e > 0).double().mean(),
        ),
        Mistake(
            "zero counted",
            "an estimate of exactly 0 has no sign and is no agreement: use > 0, not >= 0",
            lambda e, r: (e * r >= 0).double().mean(),
        ),
        Mistake(
            "count",
            "this is a number of estimates; a share is wanted",
            lambda e, r: (e * r > 0).double().sum(),
        ),
        Mistake(
            "size compared",
            "the sizes are compared; only the signs are asked for",
            lambda e, r: (e >= r).double().mean() if r > 0 else (e <= r).double().mean(),
        ),
        Mistake(
            "disagreement",
            "this is the share of wrong signs",
            lambda e, r: (e * r < 0).double().mean(),
        ),
    ],
)

#: What each recorded run of the planted-bug lab is.
RUNS = {
    "A": "mean of means",
    "B": "leaking validation",
    "C": "reversed meta sign",
    "D": "stale gradient",
}


def _guess(**changed: str):
    return lambda: {**RUNS, **changed}


def _swap(a: str, b: str):
    return _guess(**{a: RUNS[b], b: RUNS[a]})


DIAGNOSIS = Exercise(
    "diagnosis",
    lambda: dict(RUNS),
    [()],
    [
        Mistake(
            "sign and leak",
            "two of your runs have changed places. When validation leaks, mu still *follows* its "
            "signal; with a reversed sign it moves *against* it. Plot the change of mu over the "
            "signal",
            _swap("B", "C"),
        ),
        Mistake(
            "leak and stale",
            "two of your runs have changed places. A stale gradient has exactly one norm for the "
            "whole run; a leaking one is new each time, but always agrees with g_RL",
            _swap("B", "D"),
        ),
        Mistake(
            "sign and stale",
            "two of your runs have changed places. Look at the norm of grad U: in one of them it "
            "never changes. The other one moves mu against its signal",
            _swap("C", "D"),
        ),
        Mistake(
            "means and leak",
            "two of your runs have changed places. Which run's RL loss is exactly 0 at every "
            "step, and why would it be?",
            _swap("A", "B"),
        ),
        Mistake(
            "means and sign",
            "two of your runs have changed places. In one of them the controller is healthy, and "
            "a loss is wrong",
            _swap("A", "C"),
        ),
        Mistake(
            "means and stale",
            "two of your runs have changed places. One flat line is the norm of grad U, the other "
            "one is L_RL: they are different bugs",
            _swap("A", "D"),
        ),
    ],
    fallback=(
        "not yet. Give a dict with the keys A, B, C, D and one of 'reversed meta sign', 'stale "
        "gradient', 'mean of means', 'leaking validation' for each; more than two are wrong, or "
        "a name is misspelt"
    ),
)

EXERCISES = (
    MU_GRADIENT, ADAM_UPDATE, ADAM_DIRECTION, LEAVE_ONE_OUT, SIGN_AGREEMENT, MOVING_AVERAGE,
    ENTROPY_PUSHES, CONTROLLER_STEP, DIAGNOSIS,
)  # fmt: skip
