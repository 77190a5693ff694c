"""A prompt's rollouts and its demonstration taken together: gates of prompts, and joint groups.

    imitate_instead    a gate replaces some prompts' rollouts by their demonstration (HPT, SuperRL,
                       DyME)
    join_groups        the demonstration is one more member of its prompt's group (LUFFY, RL-PLUS,
                       SRFT), and `in_group_loss` its loss

Rollouts of the demonstrated prompts come first in a batch, K a prompt. On all other prompts these
methods are RL (SRFT puts its own weights in place of the advantages there, too).

Left out: the formulas (`amft_lite.objectives`) and which method uses which (`amft_lite.methods`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from amft_lite import objectives
from amft_lite.batches import Batch


def imitate_instead(
    rollouts: Batch, experts: Batch, imitated: Tensor, K: int
) -> tuple[Batch | None, Batch | None]:
    """Without the rollouts of `imitated` prompts, and only their demonstrations; None for none.

    `imitated` bool [P] for the P demonstrated prompts, `experts` their P demonstrations.
    """
    kept = torch.ones(len(rollouts.ids), dtype=torch.bool)
    kept[: len(imitated) * K] = ~imitated.repeat_interleave(K)
    return (
        rollouts.rows(kept) if kept.any() else None,
        experts.rows(imitated) if imitated.any() else None,
    )


def join_groups(
    rollouts: Batch, experts: Batch, expert_rewards: Tensor, K: int, scale: str,
    entropy: float | None,
) -> float:  # fmt: skip
    """Write the advantages of joint groups into both batches; returns the experts' token share.

    `expert_rewards` [P]. With an `entropy` (SRFT) the rollouts get SRFT's weights instead of
    advantages.
    """
    P = len(expert_rewards)
    joined, experts.advantages = objectives.joined_advantages(
        rollouts.rewards[: P * K], expert_rewards, K, scale
    )
    if entropy is None:
        rollouts.advantages[: P * K] = joined
    else:
        rollouts.advantages = objectives.srft_advantages(rollouts.rewards, entropy)
    return (experts.mask.sum() / (experts.mask.sum() + rollouts.mask.sum())).item()


def in_group_loss(
    kind: str, logps: Tensor, rows: Batch, total: Tensor, entropy: float | None
) -> Tensor:
    """The loss of demonstrations that are members of their prompts' groups; `total` tokens."""
    given = (rows.advantages, rows.mask)
    if kind == "luffy":
        return objectives.luffy_loss(logps, *given, total)
    if kind == "rl_plus":  # before the first inner step the old policy is the policy
        return objectives.rl_plus_loss(logps, logps.detach(), *given, total)
    return objectives.srft_loss(logps, *given, entropy, total)
