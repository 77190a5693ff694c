"""A method is a named bundle: the rule for mu, and what it sets unless told otherwise.

`rule` is a name of `amft_lite.weighting.RULES`, or any object with the protocol of
`weighting.Rule` (for a rule of one's own, tried from a notebook).

Left out: token weights, prompt gates and demonstrations in the group's baseline, which the methods
that are more than a number need.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from amft_lite.weighting import RULES, Rule, RuleOptions
from amft_lite.weighting import make_rule as named_rule


@dataclass(frozen=True)
class Method:
    """One way to train. `defaults` are settings of `amft_lite.config` that it brings along."""

    name: str
    rule: str | Rule
    defaults: dict[str, Any] = field(default_factory=dict)

    def make_rule(self, options: RuleOptions) -> Rule:
        """A fresh rule for one run (an object given as `rule` is handed on as it is)."""
        return named_rule(self.rule, options) if isinstance(self.rule, str) else self.rule


#: Where a method departs from the common defaults; sources in `amft_lite.config`.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "rl": {"warmup_steps": 0},
    "published": {"mu_start": 0.8, "meta_every": 20},
    "official_code": {"mu_start": 0.8, "meta_every": 20},
}

METHODS: dict[str, Method] = {
    name: Method(name, rule=name, defaults=_DEFAULTS.get(name, {})) for name in RULES
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
