"""The losses of AMFT: tensors in, tensors out, no model and no sampling.

Shapes: B sequences, T token positions, V words. A mask is 1 on the tokens that count and 0 on
padding; it may be bool, integer or float. Every loss is a *token mean over the whole batch*, not
a mean of sequence means: a token weighs the same in a short answer and in a long one. To build
one gradient from several micro-batches pass the token count of the whole batch as `total`, and
add the pieces up.

Sources: Eq. 1-3 of arXiv 2508.06944 (second-hand notes; only the abstract was read first-hand);
PPO-clip, arXiv 1707.06347, Eq. 7; GAE, arXiv 1506.02438, Eq. 16; group advantages, GRPO, arXiv
2402.03300, section 4.1.2, and without the division by the spread, Dr. GRPO, arXiv 2503.20783.

Token weights and off-policy demonstration losses: their public sources stand with each.

Left out: KL penalties to a reference model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _spread(advantages: Tensor, like: Tensor) -> Tensor:
    """Advantages [B] or [B, T] as [B, T]."""
    return advantages.unsqueeze(-1).expand_as(like) if advantages.dim() == 1 else advantages


def blank(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The tensors (of the mask's shape) with 0 off the mask. Before exp and squares, so that what
    stands on padding (-inf, nan) reaches neither the value nor the gradient."""
    return [torch.where(mask > 0, x, 0.0) for x in tensors]


def masked_mean(x: Tensor, mask: Tensor, total: float | Tensor | None = None) -> Tensor:
    """Sum of `x` where `mask` is 1, divided by the number of such tokens (or by `total`).

    `x` and `mask` have one shape. Masked entries do not count even if they are inf or nan.
    An empty mask gives 0.
    """
    mask = mask.to(x.dtype)
    total = mask.sum().clamp(min=1) if total is None else total
    return (blank(mask, x)[0] * mask).sum() / total


def sft_loss(
    logps: Tensor,
    mask: Tensor,
    total: float | Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Eq. 2: mean of -log pi(demonstration token). `logps`, `mask` [B, T]; nats per token.

    `weights` [B, T] multiply the tokens' terms; they get no gradient, and the mean is still over
    all tokens (not divided by the sum of the weights).
    """
    if weights is not None:
        logps = blank(mask, logps)[0] * weights.detach()
    return -masked_mean(logps, mask, total)


# --- weights of demonstration tokens: p [...] -> omega [...], p = pi(token) -----------------------


def phi_weight(p: Tensor) -> Tensor:
    """CHORD-phi: p (1 - p), at most 1/4 (arXiv 2508.11408; code in Trinity-RFT)."""
    return p * (1 - p)


def cut_weight(p: Tensor, below: float = 0.15) -> Tensor:
    """1 where p >= `below`, else 0: a constant cut of the tokens that the policy finds absurd.

    Ours, found by the exploratory study of learned token weights; no published method.
    """
    return (p >= below).to(p.dtype)


# --- a demonstration as one more member of its prompt's group -------------------------------------


def joined_advantages(
    rewards: Tensor, expert_rewards: Tensor, group_size: int, scale: str = "std"
) -> tuple[Tensor, Tensor]:
    """Group advantages where each group has one more member, the demonstration.

    `rewards` [P * K], `expert_rewards` [P] -> ([P * K], [P]). With K = 7 wrong rollouts and a right
    demonstration, unscaled: -1/8 each, and 7/8 (LUFFY, arXiv 2504.14945).
    """
    groups = torch.cat((rewards.view(-1, group_size), expert_rewards.unsqueeze(1)), 1)
    joined = group_advantages(groups.view(-1), group_size + 1, scale).view_as(groups)
    return joined[:, :-1].reshape(-1), joined[:, -1]


def luffy_loss(
    logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    total: float | Tensor | None = None,
    gamma: float = 0.1,
) -> Tensor:
    """LUFFY's shaped off-policy term: -A p / (p + gamma), p = pi(demonstration token).

    As a weight on -log p this is A gamma p / (p + gamma)^2, highest at p = gamma. `logps`, `mask`
    [B, T]; `advantages` [B]. Source: arXiv 2504.14945; ElliottYan/LUFFY, mix_core_alg.py.
    """
    p = blank(mask, logps)[0].exp()
    return -masked_mean(_spread(advantages, logps).detach() * p / (p + gamma), mask, total)


def rl_plus_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    total: float | Tensor | None = None,
    gamma: float = 0.5,
) -> Tensor:
    """RL-PLUS: -A r (1 - p)^gamma with r = 2 p / (1.5 p_old + 0.5); (1 - p) gets no gradient.

    r is a ratio to the mean of the old policy and an expert guessed as (p_old + 1) / 2; while the
    policy is still the old one it is at most 1.
    Source: arXiv 2508.00222; YihongDong/RL-PLUS, rlplus_core_alg.py.
    """
    logps, old = blank(mask, logps, old_logps.detach())
    p = logps.exp()
    ratio = 2 * p / (1.5 * old.exp() + 0.5)
    bonus = (1 - p.detach()).clamp(min=0) ** gamma
    return -masked_mean(_spread(advantages, logps).detach() * ratio * bonus, mask, total)


def srft_loss(
    logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    entropy: float,
    total: float | Tensor | None = None,
) -> Tensor:
    """SRFT's demonstration terms: 0.5 e^-H NLL - A p. H is a number: no gradient flows into it.

    Source: arXiv 2506.19767 (the paper's text; its released code could not be obtained).
    """
    logps = blank(mask, logps)[0]
    imitation = -0.5 * math.exp(-entropy) * logps
    return masked_mean(imitation - _spread(advantages, logps).detach() * logps.exp(), mask, total)


def srft_advantages(rewards: Tensor, entropy: float) -> Tensor:
    """SRFT's weights of rollouts: 0.1 e^H where right, -1 where wrong; no baseline. [B] -> [B]."""
    return torch.where(rewards > 0, 0.1 * math.exp(entropy), -1.0).to(rewards.dtype)


# --- RL -------------------------------------------------------------------------------------------


def ppo_clip_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    total: float | Tensor | None = None,
) -> Tensor:
    """PPO-clip: -min(r A, clip(r, 1-e, 1+e) A), r = pi/pi_old per token.

    `logps`, `old_logps`, `mask` [B, T]; `advantages` [B] (one per answer) or [B, T]. No gradient
    flows through `old_logps` and `advantages`.
    """
    advantages = _spread(advantages, logps).detach()
    logps, old_logps, advantages = blank(mask, logps, old_logps.detach(), advantages)
    ratio = (logps - old_logps).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask, total)


def clipped_tokens(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, clip_range: float = 0.2
) -> Tensor:
    """1 on tokens whose gradient the clip cuts off: A > 0 and r > 1+e, or A < 0 and r < 1-e. [B, T]

    Its `masked_mean` is the clip fraction.
    """
    advantages = _spread(advantages, logps)
    ratio = (logps - old_logps).exp()
    up = (advantages > 0) & (ratio > 1 + clip_range)
    down = (advantages < 0) & (ratio < 1 - clip_range)
    return (up | down).to(logps.dtype)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip_range: float | None = None,
) -> Tensor:
    """Half the squared error of the critic; with `clip_range` PPO's pessimistic clipped version.

    All [B, T]: 1/2 mean max((v - R)^2, (v_old + clip(v - v_old, +-e) - R)^2).
    """
    values, old, returns = blank(mask, values, old_values.detach(), returns.detach())
    error = (values - returns) ** 2
    if clip_range is not None:
        near = old + (values - old).clamp(-clip_range, clip_range)
        error = torch.maximum(error, (near - returns) ** 2)
    return 0.5 * masked_mean(error, mask)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; returns (advantages, returns), both [B, T], 0 off the mask.

    `rewards`, `values`, `mask` [B, T]. Episodes end with their last unmasked token: the value
    after it is 0. Masked tokens in the middle (another speaker's) are stepped over.
    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  return = A + V.
    """
    on = mask.to(values.dtype)
    rewards, values = blank(mask, rewards, values)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = on[:, t] * advantage
        next_value = torch.where(on[:, t] > 0, values[:, t], next_value)
        next_advantage = torch.where(on[:, t] > 0, advantage, next_advantage)
    return advantages, on * (advantages + values)


def group_advantages(rewards: Tensor, group_size: int, scale: str = "std") -> Tensor:
    """Reward minus the mean of its group; groups are consecutive runs of `group_size` rollouts.

    `rewards` [B] -> [B]. `scale="std"` divides by the group's sample spread plus 1e-4 (GRPO, with
    TRL's constant); `"none"` does not (Dr. GRPO). A group of equal rewards gives exact zeros.

    Raises:
        ValueError: B is no multiple of `group_size`, or `scale` is unknown.
    """
    if rewards.numel() % group_size:
        raise ValueError(f"{rewards.numel()} rewards do not part into groups of {group_size}")
    if scale not in ("none", "std"):
        raise ValueError(f"scale must be 'none' or 'std', not {scale!r}")
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if scale == "std" and group_size > 1:
        centred = centred / (groups.std(1, keepdim=True) + 1e-4)
    equal = groups.amax(1, keepdim=True) == groups.amin(1, keepdim=True)
    return centred.masked_fill(equal, 0.0).view(-1)


def leave_one_out_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Reward minus the mean of the *other* rollouts of its prompt (Kool et al. 2019). [B] -> [B].

    Raises:
        ValueError: groups of one rollout have no others.
    """
    if group_size < 2:
        raise ValueError("a leave-one-out baseline needs at least 2 rollouts a prompt")
    return group_advantages(rewards, group_size, "none") * group_size / (group_size - 1)


def policy_gradient_loss(
    logps: Tensor, advantages: Tensor, mask: Tensor, total: float | Tensor | None = None
) -> Tensor:
    """REINFORCE: minus its gradient is an unbiased estimate of grad E[reward] (utility, Eq. 4).

    -mean over answers of A * sum over tokens of log pi: a sum, because dividing by the length
    would change whose gradient it is. `logps`, `mask` [B, T]; `advantages` [B]; `total` is the
    number of answers of the whole batch.
    """
    whole = blank(mask, logps)[0].sum(1)
    return -(advantages.detach() * whole).sum() / (len(logps) if total is None else total)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of each next-token distribution in nats: [..., V] -> [...]."""
    logps = torch.log_softmax(logits, -1)
    return -(logps.exp() * logps.clamp(min=torch.finfo(logps.dtype).min)).sum(-1)
