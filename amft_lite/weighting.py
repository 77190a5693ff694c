"""mu_t, the weight of imitation: the AMFT controller and every scalar rule beside it.

A rule is asked once a training step, after the gradients and before the optimiser, for the mu of
this very step (Algorithm 1 uses mu_{t+1} in the loss of step t). It says which validation signal
it needs and how often; the loop pays for nothing else.

    sft, rl, fixed      mu = 1, 0, `mu_start`
    sft_then_rl         1 for the first `switch` of all steps, then 0
    linear, cosine      from mu_max down to mu_min
    amft                our default, see `Controller`
    meta_only           amft without its entropy term (amft itself, while entropy_form is off)
    entropy_only        amft without its meta-gradient (Eq. 6's sign, unless entropy_form: text)
    placebo             amft whose meta signal gets a random sign: the control for "any wiggle"
    published           Eq. 6 with the constants of the released configuration; barely moves
    official_code       the released code's meta-gradient: cross-entropy on expert answers as the
                        utility, and the sign reversed; kept as evidence

Source of Eq. 6 and the entropy texts: arXiv 2508.06944 through second-hand notes; of the constants
and of official_code: the public repository TSYJ-He/AMFT, commit 0e030f4.

Left out: the rivals' rules (`amft_lite.rivals`); weights of tokens and gates of prompts, which are
methods (`amft_lite.methods`), not a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from amft_lite.meta_gradient import (
    AdamState,
    Reduce,
    adam_direction,
    cosine,
    mu_gradient,
    naive_direction,
    sgd_direction,
)

RULES = (
    "amft sft rl sft_then_rl fixed linear cosine entropy_only meta_only placebo published "
    "official_code"
).split()
ENTROPY_FORMS = ("off", "equation", "text", "gradient")
DIRECTIONS = ("adam", "sgd", "naive")


@dataclass(frozen=True)
class RuleOptions:
    """The constants of the rules; `amft_lite.config.RunConfig` documents each."""

    mu_start: float = 0.5
    mu_min: float = 0.05
    mu_max: float = 0.95
    eta_mu: float = 1.0
    max_change: float = 0.05
    meta_every: int = 5
    ema_gradients: float = 0.9
    ema_utility: float = 0.5
    direction: str = "adam"
    width: float = 0.5
    trace_decay: float = 0.0
    entropy_form: str = "off"
    eta_entropy: float = 0.05
    switch: float = 1 / 3
    chord_decay: float = 1 / 3
    trace: str = ""
    gate_start: str = "sceptical"
    eta_gate: float = 0.2
    eta_trust: float = 0.2
    published_lr: float = 1e-6
    published_eta_mu: float = 1e-4
    published_eta_entropy: float = 5e-4
    seed: int = 0


@dataclass
class Signals:
    """What a rule may look at in one step. Gradients are flat vectors [N] of the losses.

    `grad_utility` points uphill in validation reward and is None where no meta step was due;
    `informative` says whether its rollouts differed in reward at all. `grad_validation_nll` is
    the gradient of the cross-entropy on held-out expert answers (official_code only).
    """

    step: int  #: training steps taken so far, warm-up included
    steps: int  #: training steps in all
    warmup_steps: int = 0
    grad_sft: Tensor | None = None
    grad_rl: Tensor | None = None
    adam: AdamState | None = None
    grad_utility: Tensor | None = None
    grad_validation_nll: Tensor | None = None
    informative: bool = True
    reduce: Reduce | None = None  #: see `meta_gradient`; None where no model is sharded
    entropy: float = math.nan  #: nats a token, of this step's rollouts
    nll: float = math.nan  #: nats a token, of this step's demonstrations, whatever their weights
    advantages: Tensor | None = None  #: [B] of this step's rollouts
    #: (log p, mask), each [M, T], of this step's micro-batches of demonstrations
    experts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    #: direction [N] -> (p, rise of log p along it, mask) of demonstrations [M, T], for `gate`
    influence: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
    share: float = math.nan  #: of the batch that imitates, where the method decided that
    target_entropy: float = math.nan  #: H*


class Rule(Protocol):
    """The protocol of mu rules."""

    mu: float
    parts: dict[str, float]  #: what moved mu in the last update
    validation: str | None  #: None, "reward" or "demonstrations"
    every: int  #: steps between two meta steps
    entropy_form: str  #: the entropy term it uses; the loop acts on "gradient"

    def update(self, signals: Signals) -> float: ...

    def planned(self, step: int, steps: int, warmup_steps: int) -> float | None:
        """mu where it is known without any gradient (the loop then skips a loss of weight 0)."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


# --- rules that are a function of time ------------------------------------------------------------


class Schedule:
    """A rule that only looks at the clock."""

    validation = None
    every = 0
    entropy_form = "off"

    def __init__(self, name: str, options: RuleOptions) -> None:
        self.name, self.options = name, options
        self.mu = self.planned(0, 1, 0)
        self.parts: dict[str, float] = {}

    def planned(self, step: int, steps: int, warmup_steps: int) -> float:
        o = self.options
        if self.name == "sft_then_rl":
            return 1.0 if step < o.switch * steps else 0.0
        # the first step after warm-up is at 0, the last of the run at 1
        progress = clip((step - warmup_steps) / max(1, steps - 1 - warmup_steps), 0.0, 1.0)
        if self.name == "linear":
            return o.mu_max + (o.mu_min - o.mu_max) * progress
        if self.name == "cosine":
            return o.mu_min + (o.mu_max - o.mu_min) * (1 + math.cos(math.pi * progress)) / 2
        return {"sft": 1.0, "rl": 0.0, "fixed": o.mu_start}[self.name]

    def update(self, signals: Signals) -> float:
        self.mu = self.planned(signals.step, signals.steps, signals.warmup_steps)
        return self.mu

    def state_dict(self) -> dict[str, Any]:
        return {"mu": self.mu}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mu = state["mu"]


# --- the AMFT controller --------------------------------------------------------------------------


def entropy_push(form: str, eta: float, entropy: float, target: float) -> float:
    """The entropy term's push on mu: +eta (H* - H) in Eq. 6, its negative in the paper's text.

    The two contradict each other (both as transcribed). Which one steadies the run is the sign of
    dH/dmu, a property of the data. `gradient` pushes through the utility, not here.
    """
    sign = {"equation": 1.0, "text": -1.0}.get(form, 0.0)
    if sign == 0.0 or math.isnan(target) or math.isnan(entropy):
        return 0.0
    return sign * eta * (target - entropy)


def moving_average(old: Tensor | None, new: Tensor, decay: float) -> Tensor:
    """decay * old + (1 - decay) * new, started at the first value (which weighs much at first)."""
    return new.clone() if old is None else decay * old + (1 - decay) * new


@dataclass
class _Averages:
    sft: Tensor | None = None
    rl: Tensor | None = None
    utility: Tensor | None = None
    updates: int = field(default=0)
    trace: Tensor | None = None  #: of the directions, where they are carried on


class Controller:
    """The version of AMFT that moves: a cosine through Adam's update rule, on averaged gradients.

    Each step it averages g_SFT and g_RL; every `meta_every` steps it averages grad U over fresh
    validation rollouts and moves

        mu <- clip(mu + clip(eta_mu * cos(grad U, d theta'/d mu), +-max_change) + entropy term)

    The cosine drops the learning rate and all scales (the printed product is some 1e-9, paper's
    constants or not), so eta_mu is a speed per unit of agreement. One estimate is noise; the
    averages carry the signal. Where validation rollouts all got one reward there is no signal:
    the meta part is exactly 0 and grad U's average waits.

    With `trace_decay` the direction is e <- trace_decay e + d theta'/d mu, from meta-gradient to
    meta-gradient: also what earlier steps owe to mu, as if later steps carried it on unchanged
    (forward-mode differentiation through several steps, with the identity for their Jacobians).
    """

    def __init__(self, name: str, options: RuleOptions) -> None:
        self.name, self.options = name, options
        self.every = options.meta_every
        self.validation = None if name == "entropy_only" else "reward"
        self.entropy_form = options.entropy_form
        if name == "meta_only":
            self.entropy_form = "off"
        elif name == "entropy_only" and options.entropy_form in ("off", "gradient"):
            self.entropy_form = "equation"
        self.mu = options.mu_start
        self.parts: dict[str, float] = {}
        self.averages = _Averages()

    def planned(self, step: int, steps: int, warmup_steps: int) -> None:
        return None

    def signal(self, s: Signals) -> float | None:
        """The cosine in [-1, 1], or None where this step has no validation signal."""
        o, a = self.options, self.averages
        a.sft = moving_average(a.sft, s.grad_sft, o.ema_gradients)
        a.rl = moving_average(a.rl, s.grad_rl, o.ema_gradients)
        if s.grad_utility is None or not s.informative:
            return None
        a.utility = moving_average(a.utility, s.grad_utility, o.ema_utility)
        a.updates += 1
        if o.direction == "sgd":
            direction = sgd_direction(a.sft, a.rl, s.adam.lr)
        elif o.direction == "naive":
            direction = naive_direction(a.sft, a.rl, s.adam)
        else:
            direction = adam_direction(a.sft, a.rl, s.adam, self.mu, o.width)
        if o.trace_decay:
            a.trace = direction if a.trace is None else o.trace_decay * a.trace + direction
            direction = a.trace
        return cosine(a.utility, direction, s.reduce)

    def update(self, signals: Signals) -> float:
        o = self.options
        cos = self.signal(signals) if self.validation else None
        meta = 0.0 if cos is None else clip(o.eta_mu * cos, -o.max_change, o.max_change)
        if self.name == "placebo":
            meta *= self._coin()
        entropy = entropy_push(
            self.entropy_form, o.eta_entropy, signals.entropy, signals.target_entropy
        )
        self.mu = clip(self.mu + meta + entropy, o.mu_min, o.mu_max)
        self.parts = {"meta": meta, "entropy": entropy}
        if cos is not None:
            self.parts["signal"] = cos
        return self.mu

    def _coin(self) -> float:
        """+1 or -1, fixed by the seed and the number of updates (so a resumed run agrees)."""
        draw = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.averages.updates)
        return 1.0 if torch.rand((), generator=draw) < 0.5 else -1.0

    def state_dict(self) -> dict[str, Any]:
        a = self.averages
        return {"mu": self.mu, **vars(a)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mu = state["mu"]
        self.averages = _Averages(**{k: state.get(k) for k in vars(_Averages())})


# --- the released versions ------------------------------------------------------------------------


class Released:
    """Eq. 6 as printed (`published`) or as coded (`official_code`), released constants.

    published:      + eta_mu * <grad U, -alpha (g_SFT - g_RL)>, grad U uphill in reward
    official_code:  + eta_mu * <grad L_val, -alpha (g_SFT - g_RL)>, L_val a cross-entropy: the
                    derivative of a validation *loss*, added as if it were one of a utility
    Both use 0 between meta steps and + eta_H (H* - H) in every step. alpha is the released
    learning rate 1e-6, not the run's. Not as released: H* and H are this kit's (the code takes them
    from two different sets of tokens), and so are batch sizes, warm-up and the number of steps.
    """

    def __init__(self, name: str, options: RuleOptions) -> None:
        self.name, self.options = name, options
        self.every = options.meta_every
        self.entropy_form = "equation"
        self.validation = "reward" if name == "published" else "demonstrations"
        self.mu = options.mu_start
        self.parts: dict[str, float] = {}

    def planned(self, step: int, steps: int, warmup_steps: int) -> None:
        return None

    def update(self, signals: Signals) -> float:
        o = self.options
        outer = signals.grad_utility
        if self.name == "official_code":
            outer = signals.grad_validation_nll
        meta = 0.0
        if outer is not None:
            direction = sgd_direction(signals.grad_sft, signals.grad_rl, o.published_lr)
            meta = o.published_eta_mu * float(mu_gradient(outer, direction, signals.reduce))
        entropy = entropy_push(
            "equation", o.published_eta_entropy, signals.entropy, signals.target_entropy
        )
        self.mu = clip(self.mu + meta + entropy, o.mu_min, o.mu_max)
        self.parts = {"meta": meta, "entropy": entropy}
        return self.mu

    def state_dict(self) -> dict[str, Any]:
        return {"mu": self.mu}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mu = state["mu"]


def make_rule(name: str, options: RuleOptions | None = None) -> Rule:
    """The rule called `name`.

    Raises:
        ValueError: no rule has that name.
    """
    options = options or RuleOptions()
    if name in ("sft", "rl", "sft_then_rl", "fixed", "linear", "cosine"):
        return Schedule(name, options)
    if name in ("amft", "meta_only", "entropy_only", "placebo"):
        return Controller(name, options)
    if name in ("published", "official_code"):
        return Released(name, options)
    raise ValueError(f"no mu rule is called {name!r}; known: {', '.join(RULES)}")
