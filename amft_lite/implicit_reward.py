"""Imitation seen as reinforcement: which reward does SFT maximise, and what does mu weigh?

Two different things are called "the implicit reward" of imitation; both are here.

1. *The reward whose policy gradient is the SFT gradient.* For one next-token distribution
   E_{y~pi}[r(y) grad log pi(y)] = grad log pi(y*) when r(y) = 1[y = y*] / pi(y): `imitation_reward`
   (arXiv 2508.05629 makes the same observation). It pays most where the policy believes least.
2. *The reward a trained policy behaves as if it maximised*, relative to where it started:
   beta * log(pi / pi_ref), token by token: `implicit_rewards` (DPO, arXiv 2305.18290, Eq. 5,
   up to a term that depends on the prompt alone).

And SFT is the minimisation of KL(demonstrator || policy), up to the demonstrator's entropy, which
theta does not change: `kl_divergence` (section 3.4 of arXiv 2508.06944, second-hand notes).
In (1 - mu) L_RL + mu L_SFT the multiplier of that divergence is mu / (1 - mu), not mu:
`multiplier`.

Left out: the prompt-dependent term of DPO's reward, and rewards learned by a separate model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amft_lite.objectives import blank


def sequence_logps(logps: Tensor, mask: Tensor) -> Tensor:
    """log pi(answer | prompt), the sum of its tokens' log-probabilities: [B, T] -> [B], nats."""
    return blank(mask, logps)[0].sum(-1)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) = sum_y p(y) log(p(y) / q(y)), nats: probabilities [..., V] -> [...].

    Words with p(y) = 0 add nothing, even where q(y) = 0; q(y) = 0 < p(y) gives infinity.
    """
    on = p > 0
    ratio = torch.where(on, p, 1.0).log() - torch.where(on, q, 1.0).log()
    return (p * ratio).sum(-1)


def imitation_reward(probs: Tensor, demonstrated: Tensor) -> Tensor:
    """1[y = y*] / pi(y): the reward that turns SFT into a policy gradient. [B, V], [B] -> [B, V].

    Its expectation under the policy is 1 whatever the policy; its variance is 1 / pi(y*) - 1.
    """
    reward = torch.zeros_like(probs)
    index = demonstrated.unsqueeze(-1)
    return reward.scatter(-1, index, 1 / probs.gather(-1, index))


def implicit_rewards(
    logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float = 1.0
) -> Tensor:
    """beta * (log pi - log pi_ref), token by token and 0 off the mask: [B, T] -> [B, T], nats.

    Above 0 where training made the token likelier. A row's sum is the answer's implicit reward.
    """
    logps, reference_logps = blank(mask, logps, reference_logps)
    return beta * (logps - reference_logps)


def reverse_kl_estimate(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """exp(d) - 1 - d with d = log pi_ref - log pi, on samples of pi: unbiased for KL(pi || ref).

    Never negative, unlike -d (J. Schulman, "Approximating KL divergence", 2020, there "k3").
    Any shape; take its mean.
    """
    d = reference_logps - logps
    return d.exp() - 1 - d


def multiplier(mu: float) -> float:
    """mu / (1 - mu): how many units of RL loss one unit of L_SFT is worth; infinity at mu = 1.

    Raises:
        ValueError: mu is not in [0, 1].
    """
    if not 0 <= mu <= 1:
        raise ValueError(f"mu must lie between 0 and 1, not {mu}")
    return math.inf if mu == 1 else mu / (1 - mu)
