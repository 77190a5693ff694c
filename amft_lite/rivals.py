"""Rules for mu that are not AMFT's: the rivals' controllers, and two controls.

    chord_mu      a cosine from .9 to .05, then constant (CHORD, arXiv 2508.11408)
    gac           mu from a bound on the mixed gradient's error (GAC, arXiv 2605.26184; constants of
                  the public repository deepnovacore/GAC, its README and controller)
    nll_entropy   mu = L / (L + H): imitate while the demonstrations surprise more than one's own
                  answers do. Ours, from an exploratory study; no constant
    replay        a recorded mu_t, controller off
    share         whatever share of the batch the method gave to imitation (methods that decide by
                  prompt, or that put the demonstration into the group)

Left out: how those methods decide (`amft_lite.methods`, `amft_lite.loop`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from amft_lite.objectives import blank
from amft_lite.weighting import RuleOptions, Signals, clip


class RivalRule:
    """What these rules have in common: no validation signal, a mu that only gradients settle."""

    validation = None
    every = 0
    entropy_form = "off"

    def __init__(self, options: RuleOptions) -> None:
        self.options = options
        self.mu = options.mu_start
        self.parts: dict[str, float] = {}

    def planned(self, step: int, steps: int, warmup_steps: int) -> float | None:
        return None

    def update(self, s: Signals) -> float:
        """The planned mu; a rule that plans none says how it finds its own."""
        self.mu = self.planned(s.step, s.steps, s.warmup_steps)
        return self.mu

    def state_dict(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("options", "parts")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class ChordMu(RivalRule):
    """.9 -> .05 over the first `chord_decay` of the steps, by a cosine.

    Published: over 200 of at most 1500 steps. A lite run has 150, so the decay is a share of the
    run here.
    """

    def planned(self, step: int, steps: int, warmup_steps: int) -> float:
        length = max(1.0, self.options.chord_decay * (steps - warmup_steps))
        progress = clip((step - warmup_steps) / length, 0.0, 1.0)
        return 0.05 + (0.9 - 0.05) * (1 + math.cos(math.pi * progress)) / 2


class NllEntropy(RivalRule):
    """mu = L / (L + H), averages of the demonstrations' NLL and of the rollouts' entropy (.9).

    Both are nats a token. The mu of a step comes from the steps before it.
    """

    def __init__(self, options: RuleOptions) -> None:
        super().__init__(options)
        self.nll = self.entropy = math.nan

    def update(self, s: Signals) -> float:
        o = self.options
        if not math.isnan(self.nll):
            total = self.nll + self.entropy
            self.mu = clip(self.nll / total if total > 0 else 0.0, o.mu_min, o.mu_max)
        for name in ("nll", "entropy"):
            new, old = getattr(s, name), getattr(self, name)
            if not math.isnan(new):
                setattr(self, name, new if math.isnan(old) else 0.9 * old + 0.1 * new)
        return self.mu


def trimmed_variance(values: Tensor, share: float = 0.1) -> float:
    """Variance without the lowest and highest `share` of the values."""
    cut = int(share * len(values))
    kept = values.sort().values[cut : len(values) - cut]
    return float(kept.var(unbiased=False))


def gac_mu(distance: float, noise_sft: float, noise_rl: float, alpha: float = 0.5) -> float:
    """mu* = (alpha D^2 + s_RL^2) / (D^2 + s_SFT^2 + s_RL^2): the least bound on the squared error.

    D^2 is the squared distance of the two gradients, s^2 their variances (as proxies).
    """
    total = distance + noise_sft + noise_rl
    return (alpha * distance + noise_rl) / total if total > 0 else alpha


class Gac(RivalRule):
    """GAC's controller with the released constants and its guards, in the released order.

    Every 10 steps: proxies (s_RL^2 the variance of the rollouts' normalised advantages, s_SFT^2 the
    10 %-trimmed variance of the demonstrations' mean NLL, D^2 the squared difference of the token
    coefficients phi and A), averaged by .99, and from them mu*. Every step: half of a cosine from
    .85 to .15 and half of (.99 mu + .01 mu*); at most .01 away from the last mu; within [.05, .9].

    The prior's warm-up and decay (200 and 800 steps there) are a fifth and the rest of a run here.
    At these constants the measured part has about 1 % of the say: the rule is nearly its cosine.

    Not as released: D^2 compares phi of the demonstrations with A of the rollouts (there each row
    has both, one of them 0), the prior does not ramp up from 0, and mu starts at .85 (there .5).
    """

    def __init__(self, options: RuleOptions) -> None:
        super().__init__(options)
        self.statistics: list[float] | None = None
        self.mu = self.best = 0.85

    def prior(self, s: Signals) -> float:
        progress = clip((s.step / max(1, s.steps) - 0.2) / 0.8, 0.0, 1.0)
        return 0.15 + (0.85 - 0.15) * (1 + math.cos(math.pi * progress)) / 2

    def measure(self, s: Signals) -> list[float]:
        """[D^2, s_SFT^2, s_RL^2] of this step."""
        p = torch.cat([logps[mask > 0] for logps, mask in s.experts]).exp()
        phi = p * (1 - p)
        distance = float(phi.pow(2).mean() - 2 * phi.mean() * s.advantages.mean()
                         + s.advantages.pow(2).mean())  # fmt: skip
        kept = [(blank(mask, logps)[0], mask) for logps, mask in s.experts]
        nll = torch.cat([-logps.sum(1) / mask.sum(1) for logps, mask in kept])
        return [distance, trimmed_variance(nll), float(s.advantages.var(unbiased=False))]

    def update(self, s: Signals) -> float:
        if (s.step - s.warmup_steps) % 10 == 0:
            new = self.measure(s)
            old = self.statistics
            self.statistics = new if old is None else [
                0.99 * a + 0.01 * b for a, b in zip(old, new, strict=True)
            ]  # fmt: skip
            self.best = gac_mu(*self.statistics)
        wanted = 0.5 * self.prior(s) + 0.5 * (0.99 * self.mu + 0.01 * self.best)
        self.mu = clip(clip(wanted, self.mu - 0.01, self.mu + 0.01), 0.05, 0.9)
        return self.mu


def read_trace(text: str) -> list[float]:
    """The mu of each step: numbers parted by spaces, `.9x45` for 45 times .9.

    Raises:
        ValueError: a word is neither, or more than a million steps.
    """
    mus: list[float] = []
    for word in text.split():
        mu, _, times = word.partition("x")
        repeats = int(times) if times else 1
        if not 1 <= repeats <= 1_000_000 - len(mus) or word.endswith("x"):
            raise ValueError(f"{word!r} is no mu")
        mus += [float(mu)] * repeats
    return mus


class Replay(RivalRule):
    """The mu of each step after warm-up as recorded; the last one stays."""

    def __init__(self, options: RuleOptions) -> None:
        super().__init__(options)
        self.recorded = read_trace(options.trace)

    def planned(self, step: int, steps: int, warmup_steps: int) -> float:
        if not self.recorded:
            raise ValueError("replay needs the recorded mu of each step after warm-up, as `trace`")
        return self.recorded[min(max(0, step - warmup_steps), len(self.recorded) - 1)]


class Share(RivalRule):
    """mu is the share of the batch that imitates, which the method decided."""

    def update(self, s: Signals) -> float:
        self.mu = s.share
        return self.mu


RIVALS = {
    "chord_mu": ChordMu, "gac": Gac, "nll_entropy": NllEntropy, "replay": Replay, "share": Share,
}  # fmt: skip
