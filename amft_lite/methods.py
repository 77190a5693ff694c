"""A method is a named bundle: a rule for mu, and what it does to tokens, prompts and groups.

    rule            mu_t; a name (`amft_lite.weighting`, `amft_lite.rivals`) or a rule of one's own
    token_weight    omega of a batch's demonstration tokens after warm-up, from (p, mask) [M, T]
    prompt_gate     which demonstrated prompts imitate their demonstration instead of exploring
    imitation_scale of those imitated prompts' loss
    in_group        the demonstration joins its prompt's group; the loss of such demonstrations
    defaults        settings of `amft_lite.config` that it brings along

A new method is one entry; `cut_low` is the whole of

    Method("cut_low", "fixed", {"mu_start": 0.3}, token_weight=lambda p, _: cut_weight(p))

Gates and groups concern the prompts that have a demonstration (`demonstrated_prompts`); on all
others these methods are RL (SRFT with its own weights of rollouts). Public sources stand with the
formulas in `amft_lite.objectives`.

Left out: methods that need their own rollouts or optimiser (ReLIFT, UFT, Prefix-RFT, BRIDGE).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from amft_lite.gate import GatedController, sceptical_weight
from amft_lite.objectives import cut_weight, phi_weight
from amft_lite.rivals import RIVALS
from amft_lite.weighting import RULES, Rule, RuleOptions
from amft_lite.weighting import make_rule as named_rule

#: Names of `amft_lite.gate`: mu and gate learned, the gate alone, and its placebo.
GATED = ("amft_gate", "amft_gate_only", "gate_placebo")


@dataclass(frozen=True)
class Method:
    """One way to train. `defaults` are settings of `amft_lite.config` that it brings along."""

    name: str
    rule: str | Rule
    defaults: dict[str, Any] = field(default_factory=dict)
    token_weight: Callable[[Tensor, Tensor], Tensor] | None = None
    prompt_gate: Callable[[Tensor, float], Tensor] | None = None
    imitation_scale: Literal["one", "rollout"] = "one"
    in_group: Literal["", "luffy", "rl_plus", "srft"] = ""

    def make_rule(self, options: RuleOptions) -> Rule:
        """A fresh rule for one run (an object given as `rule` is handed on as it is)."""
        if not isinstance(self.rule, str):
            return self.rule
        if self.rule in RIVALS:
            return RIVALS[self.rule](options)
        if self.rule in GATED:
            return GatedController(self.rule, options)
        return named_rule(self.rule, options)

    @property
    def loop_only(self) -> bool:
        """Does it need what `amft_lite.trainer` does not give?"""
        return self.pairs or self.rule == "gac"

    @property
    def whole_batch(self) -> bool:
        """Does it compare the demonstrations of a batch, which must then be taken at once?"""
        gated = self.rule in GATED or isinstance(self.rule, GatedController)
        return gated or self.token_weight is sceptical_weight

    @property
    def pairs(self) -> bool:
        """Does it look at prompts and their demonstrations together?"""
        return bool(self.prompt_gate or self.in_group)


def few_right(rewards: Tensor, threshold: float) -> Tensor:
    """HPT's gate: imitate where at most `threshold` of the rollouts is right. [P, K] -> bool [P].

    At threshold 0 it is SuperRL's and DyME's: where none is. Sources: HPT, arXiv 2509.04419
    (TsinghuaC3I/Unify-Post-Training); SuperRL, arXiv 2506.01096; DyME, arXiv 2506.23061.
    """
    return (rewards > 0).to(rewards.dtype).mean(1) <= threshold


#: Half of the prompts are demonstrated, so that these methods have something to decide.
_PAIRED = {"demonstrated_prompts": 0.5}

_BUNDLES = (
    # CHORD: mu falling; or mu = .1 and phi
    Method("chord_mu", "chord_mu"),
    Method("chord_phi", "fixed", {"mu_start": 0.1}, token_weight=lambda p, _: phi_weight(p)),
    # ours: constants that an exploratory study and the learned gates point to, and a mu without any
    Method("cut_low", "fixed", {"mu_start": 0.3}, token_weight=lambda p, _: cut_weight(p)),
    Method("cut_half", "fixed", {"mu_start": 0.3}, token_weight=sceptical_weight),
    Method("nll_entropy", "nll_entropy"),
    Method("nll_entropy_phi", "nll_entropy", token_weight=lambda p, _: 4 * phi_weight(p)),
    Method("gac", "gac", token_weight=lambda p, _: phi_weight(p)),
    # one rule: HPT without the spread in its advantages; DyME's demonstration takes one rollout's
    # place, which scales its loss by 1 / K
    Method("hpt", "share", _PAIRED | {"advantage_scale": "none"}, prompt_gate=few_right),
    Method("superrl", "share", _PAIRED, prompt_gate=few_right),
    Method("dyme", "share", _PAIRED, prompt_gate=few_right, imitation_scale="rollout"),
    Method("luffy", "share", _PAIRED | {"advantage_scale": "none"}, in_group="luffy"),
    Method("rl_plus", "share", _PAIRED | {"advantage_scale": "none"}, in_group="rl_plus"),
    Method("srft", "share", _PAIRED, in_group="srft"),
    Method("replay", "replay"),
    # AMFT's scalar mu on top of a constant gate; with a gate learned by the same meta-gradient
    Method("amft_cut", "amft", token_weight=lambda p, _: cut_weight(p)),
    Method("amft_phi", "amft", token_weight=lambda p, _: 4 * phi_weight(p)),
    *(Method(name, name, {"mu_start": 0.3}) for name in GATED),
    # the default of the lite game: `controllers` chose it
    Method("amft_full", "amft_gate", {"mu_start": 0.3, "entropy_form": "gradient"}),
)

#: Where a rule's own method departs from the common defaults; sources in `amft_lite.config`.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "rl": {"warmup_steps": 0},
    "published": {"mu_start": 0.8, "meta_every": 20},
    "official_code": {"mu_start": 0.8, "meta_every": 20},
}

METHODS: dict[str, Method] = {
    **{name: Method(name, rule=name, defaults=_DEFAULTS.get(name, {})) for name in RULES},
    **{method.name: method for method in _BUNDLES},
}


def resolve(method: str | Rule | Method) -> Method:
    """The method of that name; a Method as it is; a rule as a method of its own.

    Raises:
        ValueError: no method has that name.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        return Method(type(method).__name__, rule=method)
    if method not in METHODS:
        close = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(METHODS)}"
        raise ValueError(f"no method is called {method!r}; {hint}")
    return METHODS[method]
