"""AMFT that learns which demonstration tokens to imitate, by the same meta-gradient.

The imitation gradient is a sum over tokens, g_SFT = -1/N sum_t omega_t grad log p_t. Let omega_t be
v_k, k the bin of p_t. One step of the optimiser from the mixture q moves U by

    dU/dv_k = mu/N sum_{t in k} < w, grad log p_t >,    w = -J^T grad U,  J = d update / d g at q,

so each token's part is how much its log-probability would rise along w, the direction in which the
optimiser would go uphill in validation reward. That needs no gradient of a token: two forward
passes, at theta + e w and theta - e w, give all of them at once. A bin goes up where its tokens
agree that they would rise, and down where they agree that they would fall.

Left out: weights of whole demonstrations, and of anything but p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amft_lite.meta_gradient import AdamState, adam_update, mix
from amft_lite.weighting import Controller, RuleOptions, Signals

EDGES = (0.03, 0.15, 0.5, 0.9)  #: of the bins of p


def uphill_direction(grad_utility: Tensor, grad: Tensor, state: AdamState) -> Tensor:
    """w = -J^T grad U [N]: J is the Jacobian of Adam's update at the gradient `grad`.

    By reverse-mode differentiation of `adam_update`, its clipping included.
    """
    at = grad.detach().requires_grad_(True)
    [product] = torch.autograd.grad(adam_update(at, state), at, grad_utility)
    return -product


def bin_of(p: Tensor) -> Tensor:
    """The bin of each probability: 0 .. len(EDGES)."""
    return torch.bucketize(p, torch.tensor(EDGES, dtype=p.dtype, device=p.device), right=True)


def agreement(p: Tensor, rise: Tensor) -> Tensor:
    """Mean over root mean square of `rise`, bin by bin: in [-1, 1], 0 for an empty bin. [bins].

    `p`, `rise` [tokens].
    """
    bins, n = bin_of(p), len(EDGES) + 1
    count = torch.zeros(n, dtype=rise.dtype).index_add_(0, bins, torch.ones_like(rise))
    total = torch.zeros(n, dtype=rise.dtype).index_add_(0, bins, rise)
    squares = torch.zeros(n, dtype=rise.dtype).index_add_(0, bins, rise**2)
    scale = (count * squares).sqrt()
    return torch.where(scale > 0, total / scale.where(scale > 0, 1.0), 0.0)


class GatedController(Controller):
    """The scalar controller, and beside it v_k <- clip(v_k + eta_gate * agreement_k, 0, gate_max).

    `gate_start` is v before the first meta step. A placebo of the gate draws the signs by a coin.
    """

    def __init__(self, name: str, options: RuleOptions) -> None:
        super().__init__("amft", options)
        self.name = name
        self.gate = torch.full((len(EDGES) + 1,), options.gate_start)

    def token_weight(self, p: Tensor) -> Tensor:
        return self.gate.to(p.dtype)[bin_of(p)]

    def update(self, signals: Signals) -> float:
        before = self.averages.updates
        mu = super().update(signals)
        if self.name == "amft_gate_only":  # mu stays; the gate alone learns
            self.mu = mu = self.options.mu_start
        if self.averages.updates == before:
            return mu
        a, o = self.averages, self.options
        w = uphill_direction(a.utility, mix(a.sft, a.rl, mu), signals.adam)
        moves = o.eta_gate * agreement(*signals.influence(w))
        if self.name == "gate_placebo":
            draw = torch.Generator().manual_seed(o.seed * 1_000_003 + a.updates)
            moves *= (torch.rand(len(moves), generator=draw) < 0.5).to(moves.dtype) * 2 - 1
        self.gate = (self.gate + moves).clamp(0.0, o.gate_max)
        self.parts |= {f"gate_{k}": float(v) for k, v in enumerate(self.gate)}
        return mu

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"gate": self.gate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.gate = state["gate"]
