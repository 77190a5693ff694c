"""AMFT that learns which tokens and demonstrations to imitate, by the same meta-gradient.

The imitation gradient is a sum over tokens, g_SFT = -1/N sum_t omega_t grad log p_t. Let omega_t be
v_k, k the bin of p_t. One step of the optimiser from the mixture q moves U by

    dU/dv_k = mu/N sum_{t in k} < w, grad log p_t >,    w = -J^T grad U,  J = d update / d g at q,

so each token's part is how much its log-probability would rise along w, the direction in which the
optimiser would go uphill in validation reward. That needs no gradient of a token: two forward
passes, at theta + e w and theta - e w, give all of them at once. A bin goes up where its tokens
agree that they would rise, and down where they agree that they would fall. The same sum over whole
demonstrations, in quarters by their likelihood, weighs demonstrations: where experts are wrong, the
least likely ones mostly are.

Left out: a weight for each single demonstration (one estimate of one is nearly all noise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from amft_lite.meta_gradient import AdamState, adam_update, mix
from amft_lite.weighting import Controller, RuleOptions, Signals

EDGES = (0.03, 0.15, 0.5, 0.9)  #: of the bins of p
QUARTERS = 4  #: of a batch of demonstrations, by their likelihood
#: The bins in words.
BINS = (f"p < {EDGES[0]}", *(f"{a} - {b}" for a, b in pairwise(EDGES)), f"p > {EDGES[-1]}")


def uphill_direction(grad_utility: Tensor, grad: Tensor, state: AdamState) -> Tensor:
    """w = -J^T grad U [N]: J is the Jacobian of Adam's update at the gradient `grad`.

    By reverse-mode differentiation of `adam_update`, its clipping included.
    """
    at = grad.detach().requires_grad_(True)
    [product] = torch.autograd.grad(adam_update(at, state), at, grad_utility)
    return -product


@torch.no_grad()
def rises(
    parameters: Sequence[Tensor],
    logps: Callable[[], Tensor],
    direction: Tensor,
    length: float,
) -> tuple[Tensor, Tensor]:
    """(p, derivative of log p along `direction`) by a central difference of `length` either way.

    `logps` computes log p from the parameters as they are; they are put back bit for bit. A zero
    direction gives zeros.
    """
    kept = [p.clone() for p in parameters]
    step = direction * (length / direction.norm().clamp(min=1e-30))
    parts = step.split([p.numel() for p in parameters])
    found = []
    try:
        for sign in (1.0, -1.0):
            for p, old, part in zip(parameters, kept, parts, strict=True):
                p.copy_(old + sign * part.view_as(p))
            found.append(logps())
    finally:
        for p, old in zip(parameters, kept, strict=True):
            p.copy_(old)
    up, down = found
    return ((up + down) / 2).exp(), (up - down) / (2 * length)


def bin_of(p: Tensor) -> Tensor:
    """The bin of each probability: 0 .. len(EDGES)."""
    return torch.bucketize(p, torch.tensor(EDGES, dtype=p.dtype, device=p.device), right=True)


def quarter_of(p: Tensor, mask: Tensor) -> Tensor:
    """Which quarter of its batch each demonstration belongs to, 0 the least likely. [M, T] -> [M].

    By the mean of log p over its tokens.
    """
    on = mask.to(p.dtype)
    logp = torch.where(mask > 0, p, 1.0).log()
    rank = ((logp * on).sum(1) / on.sum(1)).argsort().argsort()
    return rank * QUARTERS // len(p)


def agreement(groups: Tensor, rise: Tensor, n: int) -> Tensor:
    """Mean over root mean square of `rise`, group by group: in [-1, 1], 0 for an empty one. [n].

    `groups`, `rise` [items], groups 0 .. n - 1.
    """
    zero = rise.new_zeros(n)
    count = zero.index_add(0, groups, torch.ones_like(rise))
    total, squares = zero.index_add(0, groups, rise), zero.index_add(0, groups, rise**2)
    scale = (count * squares).sqrt()
    return torch.where(scale > 0, total / scale.where(scale > 0, 1.0), 0.0)


def sceptical_weight(p: Tensor, mask: Tensor) -> Tensor:
    """The gates' start as a constant rule: 0 for p < .15 and for the less likely half. [M, T]."""
    kept = (quarter_of(p, mask) >= QUARTERS // 2).unsqueeze(1) & (p >= EDGES[1])
    return kept.to(p.dtype)


class GatedController(Controller):
    """The scalar controller, and beside it weights of tokens and of whole demonstrations:

        v_k <- clip(v_k + eta_gate * agreement_k, 0, 1)      k the bin of the token's p
        u_j <- clip(u_j + eta_trust * agreement_j, 0, 1)     j the quarter of the demonstration

    omega = v_k u_j. They start at 1, or sceptically (`gate_start`): 0 for p < .15 and for the less
    likely half. A bin's agreement counts all its tokens alike, also those of demonstrations that
    weigh 0 now: otherwise what starts at 0 could never be let in. `gate_placebo` draws the signs of
    the gates' moves by a coin.
    """

    def __init__(self, name: str, options: RuleOptions) -> None:
        super().__init__("amft", options)
        self.name = name
        self.gate = torch.ones(len(EDGES) + 1)
        self.trust = torch.ones(QUARTERS)
        if options.gate_start == "sceptical":
            self.gate[:2], self.trust[:2] = 0.0, 0.0

    def token_weight(self, p: Tensor, mask: Tensor) -> Tensor:
        """omega [M, T] of a batch of demonstrations."""
        trust = self.trust.to(p)[quarter_of(p, mask)]
        return self.gate.to(p)[bin_of(p)] * trust.unsqueeze(1)

    def update(self, signals: Signals) -> float:
        before = self.averages.updates
        mu = super().update(signals)
        if self.name == "amft_gate_only":  # mu stays; the gates alone learn
            self.mu = mu = self.options.mu_start
            self.parts["meta"] = 0.0
        if self.averages.updates == before:
            return mu
        a, o = self.averages, self.options
        w = uphill_direction(a.utility, mix(a.sft, a.rl, mu), signals.adam)
        p, rise, mask = signals.influence(w)
        tokens = agreement(bin_of(p[mask > 0]), rise[mask > 0], len(self.gate))
        weighted = (rise * mask * self.gate.to(p)[bin_of(p)]).sum(1)
        whole = agreement(quarter_of(p, mask), weighted, QUARTERS)
        tokens, whole = tokens.cpu(), whole.cpu()
        if self.name == "gate_placebo":
            draw = torch.Generator().manual_seed(o.seed * 1_000_003 + a.updates)
            coins = (torch.rand(len(tokens) + QUARTERS, generator=draw) < 0.5).to(p.dtype) * 2 - 1
            tokens, whole = tokens * coins[:-QUARTERS], whole * coins[-QUARTERS:]
        self.gate = (self.gate + o.eta_gate * tokens).clamp(0.0, 1.0)
        self.trust = (self.trust + o.eta_trust * whole).clamp(0.0, 1.0)
        self.parts |= {f"gate_{k}": float(v) for k, v in enumerate(self.gate)}
        self.parts |= {f"trust_{j}": float(u) for j, u in enumerate(self.trust)}
        return mu

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"gate": self.gate, "trust": self.trust}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        # on the CPU, where they are moved; a checkpoint may have been read onto a GPU
        self.gate, self.trust = state["gate"].cpu(), state["trust"].cpu()
