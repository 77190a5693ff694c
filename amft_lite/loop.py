"""Algorithm 1 of AMFT in plain torch: the file to read first.

     1-2  warm up: W steps of SFT; H* is the policy's entropy at their end
     3    then, step by step:
     4      g_SFT  the gradient of L_SFT on a batch of demonstrations
     5      g_RL   the gradient of L_RL on fresh rollouts
     7      grad U every K steps, from fresh rollouts of validation prompts
     8-9    mu     from the rule
    11-12   a step along (1 - mu) g_RL + mu g_SFT; with GAE also one of the value head

(Line numbers as in second-hand notes of arXiv 2508.06944.) The two gradients are kept apart: the
meta-gradient needs them so, and it is free, as they are two backward passes anyway.

Left out: files, progress bars and evaluation (`amft_lite.runs`); several processes and large
models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from amft_lite import objectives
from amft_lite.batches import (
    Batch,
    encode,
    generator,
    graded_rollouts,
    refuse_leaks,
    shuffled_passes,
)
from amft_lite.config import RunConfig
from amft_lite.gate import rises
from amft_lite.meta_gradient import (
    Reduce,
    adam_state,
    clip_by_norm,
    cosine,
    flatten,
    mix,
    norm,
    unflatten_into,
)
from amft_lite.methods import resolve
from amft_lite.models import completion_logits, hidden_states, token_logps
from amft_lite.pairs import imitate_instead, in_group_loss, join_groups
from amft_lite.tasks import Example, Task
from amft_lite.weighting import Signals


class ValueHead(nn.Module):
    """The critic phi: a small network on the policy's last hidden states [..., width] -> [...].

    The states are detached, so its loss trains phi alone and the policy's gradient stays L_RL's.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        nn.init.normal_(self.layers[0].weight, std=width**-0.5, generator=generator)
        nn.init.zeros_(self.layers[0].bias)
        nn.init.zeros_(self.layers[2].weight)  # it starts by predicting 0 everywhere
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.layers(states.detach()).squeeze(-1)


class AMFT:
    """Algorithm 1, one `train_step` at a time. `policy` is trained in place."""

    def __init__(self, policy: nn.Module, tokenizer: Any, task: Task, config: RunConfig) -> None:
        c = self.config = config
        self.policy, self.tokenizer, self.task = policy, tokenizer, task
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, c.lr, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay
        )
        self.method = resolve(c.method)
        self.rule = self.method.make_rule(c.rule_options())
        self.step = 0
        self.experts_seen: list[tuple[Tensor, Tensor]] = []  # log p and mask, of this step
        self.target_entropy = math.nan  # H*
        self.critic = None
        if c.advantage == "gae":
            self.critic = ValueHead(policy.config.hidden_size, generator(c.seed, "critic", 0))
            self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), c.value_lr)

        # Fixed lists of prompts; each step takes its slice.
        self.train_prompts = task.prompts("train", c.steps * c.prompts_per_step, c.seed)
        meta_steps = -(-(c.steps - c.warmup_steps) // self.rule.every) if self.rule.every else 0
        self.validation_prompts = task.prompts(
            "validation", meta_steps * c.validation_prompts, c.seed
        )
        self.demonstrations = task.demonstrations(c.demonstrations, c.seed)
        experts = [demonstration.example for demonstration in self.demonstrations]
        refuse_leaks(self.train_prompts, self.validation_prompts, experts)
        self.expert_answers = encode(tokenizer, self.demonstrations)

    # --- the algorithm ---------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        """One step of Algorithm 1; returns what happened in it."""
        c, warming = self.config, self.step < self.config.warmup_steps
        facts: dict[str, Any] = {"step": self.step, "phase": "warm-up" if warming else "train"}
        self.experts_seen = []

        if self.step == c.warmup_steps and c.method != "sft":
            self.target_entropy = self.measure_entropy()
        # a loss of weight 0 is not computed: SFT pays for no rollouts, RL for no demonstrations
        planned = 1.0 if warming else self.rule.planned(self.step, c.steps, c.warmup_steps)
        rollouts = self.roll_out(facts) if planned != 1.0 else None
        pairing = self.method.pairs and not warming
        for epoch in range(c.inner_epochs):
            seen = facts if epoch == 0 else {}  # a step's facts are those of its first epoch ...
            grad_sft = grad_rl = None
            if pairing:
                rollouts, experts = self.pair(rollouts, facts)
            elif planned != 0.0:
                experts = self.sft_batch(epoch)
            if planned != 0.0 and experts:
                grad_sft = self.gradient(self.sft_loss, experts, seen)
            if rollouts:
                grad_rl = self.gradient(self.rl_loss, rollouts, seen)
            if epoch == 0:
                facts |= gradient_facts(grad_sft, grad_rl)
                mu = 1.0 if warming else self.new_mu(grad_sft, grad_rl, rollouts, facts)
            self.apply(combined_gradient(grad_sft, grad_rl, mu), seen)
            if rollouts and self.critic:
                self.train_critic(rollouts, seen)
        if rollouts:  # ... but the clip cannot act before the second
            facts["clip_fraction"] = seen["clip_fraction"]
        self.step += 1
        return facts | {"mu": mu, "target_entropy": self.target_entropy}

    def new_mu(
        self,
        grad_sft: Tensor | None,
        grad_rl: Tensor | None,
        rollouts: Batch | None,
        facts: dict,
    ) -> float:
        """Lines 7-9: ask the rule, with a validation gradient where one is due."""
        c, since = self.config, self.step - self.config.warmup_steps
        signals = Signals(
            self.step, c.steps, c.warmup_steps, grad_sft, grad_rl,
            entropy=facts.get("entropy", math.nan), target_entropy=self.target_entropy,
            nll=facts.get("nll", math.nan), share=facts.get("share_imitating", math.nan),
            advantages=rollouts.advantages if rollouts else None, experts=self.experts_seen,
        )  # fmt: skip
        if self.rule.validation and since % self.rule.every == 0:
            signals.adam = adam_state(self.optimizer, c.max_grad_norm)
            number = since // self.rule.every
            if self.rule.validation == "reward":
                reused = rollouts if c.utility_rollouts == "training" else None
                self.measure_utility(number, signals, facts, reused)
            else:  # the released code: cross-entropy on held-out expert answers
                experts = self.task.demonstrations(
                    c.validation_prompts, c.seed * 1_000_003 + number, split="validation"
                )
                signals.grad_validation_nll = self.gradient(
                    self.plain_nll, encode(self.tokenizer, experts), {}
                )
        mu = self.rule.update(signals)
        facts |= {f"mu_{name}": part for name, part in self.rule.parts.items()}
        return mu

    def measure_utility(
        self, number: int, signals: Signals, facts: dict, reused: Batch | None = None
    ) -> None:
        """Line 7: grad U, minus the gradient of the policy-gradient loss on validation prompts
        (or on the `reused` rollouts of training); with `expert_utility` also minus so much of the
        NLL of experts' answers to validation prompts."""
        c, n = self.config, self.config.validation_prompts
        if reused is None:
            prompts = self.validation_prompts[number * n : (number + 1) * n]
            group = c.validation_rollouts
            batch = self.sample(prompts, group, "validation", facts, temperature=1.0)
        else:
            batch, group = reused.rows(slice(None)), c.rollouts_per_prompt
        batch.advantages = objectives.leave_one_out_advantages(batch.rewards, group)
        collapsing = signals.entropy < signals.target_entropy
        loss = partial(self.utility_loss, collapsing=collapsing)
        signals.grad_utility = -self.gradient(loss, batch, facts)
        if c.expert_utility:
            experts = self.task.demonstrations(n, c.seed * 1_000_003 + number, split="validation")
            nll = self.gradient(self.plain_nll, encode(self.tokenizer, experts), facts)
            signals.grad_utility = signals.grad_utility - c.expert_utility * nll
        self.refuse_unless_finite(signals.grad_utility.norm().item(), "grad U")
        signals.influence = self.influence
        pushed = collapsing and self.rule.entropy_form == "gradient"
        signals.informative = bool(batch.advantages.any()) or pushed or c.expert_utility > 0
        u = signals.grad_utility
        facts["validation_reward"] = batch.rewards.mean().item()
        facts["grad_norm_utility"] = u.norm().item()
        facts["cos_utility_sft"] = cosine(u, -signals.grad_sft)  # would a step along SFT help?
        facts["cos_utility_rl"] = cosine(u, -signals.grad_rl)

    def influence(
        self, direction: Tensor, demonstrations: int = 128
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How demonstrations would fare along `direction` [N]: (p, rise of log p, mask), [M, T].

        By a central difference of two forward passes, each about a tenth of an Adam step away.
        """
        n, purpose = len(self.demonstrations), "influence"
        places = shuffled_passes(n, min(n, demonstrations), self.step, self.config.seed, purpose)
        batch = self.expert_answers.rows(places)
        length = self.config.lr * len(direction) ** 0.5 / 10
        p, rise = rises(
            self.parameters,
            lambda: token_logps(self.logits(batch), batch.tokens),
            direction,
            length,
        )
        return p, rise, batch.mask

    def apply(self, grad: Tensor, facts: dict) -> None:
        """Line 12: clip the combined gradient as one, and take the optimiser's step."""
        facts["grad_norm"] = grad.norm().item()
        self.refuse_unless_finite(facts["grad_norm"], "the gradient")
        unflatten_into(clip_by_norm(grad, self.config.max_grad_norm), self.parameters)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def refuse_unless_finite(self, norm: float, words: str) -> None:
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"{words} of step {self.step} is not finite; the policy has diverged, and a "
                f"lower lr (it is {self.config.lr}) may keep it together."
            )

    # --- gradients of the losses -----------------------------------------------------------------

    def gradient(self, loss_of: Callable, batch: Batch, facts: dict) -> Tensor:
        """Flat gradient [N] of a loss over `batch`, in micro-batches that add up exactly.

        `loss_of(rows, whole)` returns the share that `rows` have in the loss of the `whole` batch,
        and a dict of further shares to report.
        """
        size, sums = self.config.micro_batch or len(batch.ids), {}
        for start in range(0, len(batch.ids), size):
            loss, shares = loss_of(batch.rows(slice(start, start + size)), batch)
            loss.backward()
            for name, share in shares.items():
                sums[name] = sums.get(name, 0.0) + share.item()
        grad = flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        self.optimizer.zero_grad()
        facts.update(sums)
        return grad

    def logits(self, batch: Batch) -> Tensor:
        length = batch.tokens.shape[1]
        return completion_logits(self.policy, batch.ids, batch.attention, length, batch.pictures)

    def sft_loss(self, rows: Batch, whole: Batch) -> tuple[Tensor, dict]:
        """Eq. 2; after warm-up with the method's token weights, or its loss of a group's expert."""
        logps, total = token_logps(self.logits(rows), rows.tokens), whole.mask.sum()
        self.experts_seen.append((logps.detach(), rows.mask))
        nll = objectives.sft_loss(logps.detach(), rows.mask, total)
        if rows.advantages is None:
            weights = self.token_weights(logps.detach().exp(), rows.mask)
            loss = objectives.sft_loss(logps, rows.mask, total, weights)
        else:
            kind, entropy = self.method.in_group, self.group_entropy
            loss = in_group_loss(kind, logps, rows, total, entropy)
        return loss, {"sft_loss": loss, "nll": nll}

    def plain_nll(self, rows: Batch, whole: Batch) -> tuple[Tensor, dict]:
        """Eq. 2 as it is: no weights, nothing noted for the rule."""
        logps = token_logps(self.logits(rows), rows.tokens)
        loss = objectives.sft_loss(logps, rows.mask, whole.mask.sum())
        return loss, {"validation_nll": loss}

    def token_weights(self, p: Tensor, mask: Tensor) -> Tensor | None:
        """omega of demonstration tokens of probability p [M, T]: the rule's, or the method's."""
        if self.step < self.config.warmup_steps:
            return None
        if hasattr(self.rule, "token_weight"):
            return self.rule.token_weight(p, mask)
        if self.method.imitation_scale == "rollout":
            return torch.full_like(p, 1 / self.config.rollouts_per_prompt)
        return self.method.token_weight(p, mask) if self.method.token_weight else None

    def rl_loss(self, rows: Batch, whole: Batch) -> tuple[Tensor, dict]:
        """PPO-clip; before the first inner step the old policy is the policy."""
        logits, total = self.logits(rows), whole.mask.sum()
        logps = token_logps(logits, rows.tokens)
        old = logps.detach() if rows.old_logps is None else rows.old_logps
        clip_range = self.config.clip_range
        loss = objectives.ppo_clip_loss(logps, old, rows.advantages, rows.mask, clip_range, total)
        clipped = objectives.clipped_tokens(logps.detach(), old, rows.advantages, clip_range)
        entropy = objectives.token_entropy(logits.detach())
        return loss, {
            "rl_loss": loss,
            "entropy": objectives.masked_mean(entropy, rows.mask, total),
            "clip_fraction": objectives.masked_mean(clipped, rows.mask, total),
        }

    def utility_loss(
        self, rows: Batch, whole: Batch, collapsing: bool = False
    ) -> tuple[Tensor, dict]:
        """-U; with `entropy_form: gradient` -(U + beta min(0, H - H*)).

        The second part has a gradient only while the training rollouts' entropy is below H*
        (`collapsing`). It is that of the entropy at the states these rollouts visit; how a change
        of policy changes the states visited is left out.
        """
        logits = self.logits(rows)
        logps = token_logps(logits, rows.tokens)
        loss = objectives.policy_gradient_loss(logps, rows.advantages, rows.mask, len(whole.ids))
        if self.rule.entropy_form == "gradient" and collapsing:
            entropy = objectives.token_entropy(logits)
            share = objectives.masked_mean(entropy, rows.mask, whole.mask.sum())
            loss = loss - self.config.entropy_beta * share
        return loss, {"validation_loss": loss}

    # --- data ------------------------------------------------------------------------------------

    def demonstrated_places(self) -> Tensor:
        """Which demonstrations belong to this step's first prompts."""
        c = self.config
        paired = round(c.demonstrated_prompts * c.prompts_per_step)
        seed, purpose = c.seed, "demonstrated prompts"
        return shuffled_passes(len(self.demonstrations), paired, self.step, seed, purpose)

    def step_prompts(self) -> list[Example]:
        """This step's prompts; those of demonstrated problems come first."""
        n, places = self.config.prompts_per_step, self.demonstrated_places().tolist()
        fresh = self.train_prompts[self.step * n + len(places) : (self.step + 1) * n]
        return [self.demonstrations[place].example for place in places] + fresh

    def roll_out(self, facts: dict) -> Batch:
        """Line 5: fresh answers to this step's prompts, graded, with advantages."""
        c, n = self.config, self.config.prompts_per_step
        batch = self.sample(self.step_prompts(), c.rollouts_per_prompt, "rollouts", facts)
        groups = batch.rewards.view(n, -1)
        facts["reward"] = batch.rewards.mean().item()
        varied = groups.amax(1) > groups.amin(1)
        facts["groups_with_variance"] = varied.float().mean().item()
        if c.inner_epochs > 1:
            with torch.no_grad():
                batch.old_logps = token_logps(self.logits(batch), batch.tokens)
        if self.critic is None:
            batch.advantages = objectives.group_advantages(
                batch.rewards, c.rollouts_per_prompt, c.advantage_scale
            )
        else:
            self.add_gae(batch)
        return batch

    def pair(self, rollouts: Batch, facts: dict) -> tuple[Batch | None, Batch | None]:
        """Rollouts and demonstrations of the same prompts, as the method takes them together.

        Either the gate replaces some prompts' rollouts by their demonstration, or demonstrations
        join their prompts' groups. `share_imitating` is then mu, `share_applied` the share of all
        prompts where the rule acted.
        """
        c, K = self.config, self.config.rollouts_per_prompt
        places = self.demonstrated_places()
        experts = self.expert_answers.rows(places)
        facts["share_applied"] = len(places) / c.prompts_per_step
        if self.method.prompt_gate:
            own = rollouts.rewards[: len(places) * K].view(-1, K)
            imitated = self.method.prompt_gate(own, c.gate_threshold)
            share = imitated.sum().item() / c.prompts_per_step
            facts |= {"share_imitating": share, "share_applied": share}
            return imitate_instead(rollouts, experts, imitated, K)
        self.group_entropy = self.entropy_of(rollouts) if self.method.in_group == "srft" else None
        shown = [self.demonstrations[place] for place in places.tolist()]
        right = torch.tensor([self.task.reward(d.example, d.completion).value for d in shown])
        facts["share_imitating"] = join_groups(
            rollouts, experts, right, K, c.advantage_scale, self.group_entropy
        )
        return rollouts, experts

    def add_gae(self, batch: Batch) -> None:
        """Advantages and returns of the value head; the reward comes with the last token."""
        c, T = self.config, batch.tokens.shape[1]
        with torch.no_grad():
            batch.states = hidden_states(self.policy, batch.ids, batch.attention, T, batch.pictures)
            values = self.critic(batch.states)
        place = torch.arange(T)
        last = place == (place * batch.mask).amax(1, keepdim=True)  # of the policy's tokens
        rewards = last * batch.rewards.unsqueeze(1)
        batch.advantages, batch.returns = objectives.gae(
            rewards, values, batch.mask, c.gamma, c.gae_lambda
        )

    def train_critic(self, batch: Batch, facts: dict) -> None:
        """Line 12, the gradient step on phi."""
        values = self.critic(batch.states)
        loss = objectives.value_loss(values, values.detach(), batch.returns, batch.mask)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        facts["value_loss"] = loss.item()

    def sample(
        self,
        prompts: Sequence[Example],
        n: int,
        purpose: str,
        facts: dict,
        temperature: float | None = None,
    ) -> Batch:
        """`n` graded answers to every prompt, at the run's temperature unless told otherwise."""
        source = generator(self.config.seed, purpose, self.step)
        heat = self.config.temperature if temperature is None else temperature
        batch = graded_rollouts(self.policy, self.tokenizer, self.task, prompts, n, heat, source)
        facts[f"{purpose}_tokens"] = int(batch.mask.sum())
        return batch

    def sft_batch(self, epoch: int) -> Batch:
        """Line 4: the next demonstrations, in shuffled passes over D_SFT."""
        c, number = self.config, self.step * self.config.inner_epochs + epoch
        places = shuffled_passes(len(self.demonstrations), c.sft_batch, number, c.seed)
        return self.expert_answers.rows(places)

    def measure_entropy(self) -> float:
        """H*: nats a token of the policy's own answers to this step's prompts."""
        batch = self.sample(self.step_prompts(), self.config.rollouts_per_prompt, "entropy", {})
        return self.entropy_of(batch)

    @torch.no_grad()
    def entropy_of(self, batch: Batch) -> float:
        """Mean entropy of the policy where it gave these answers, nats a token."""
        entropy = objectives.token_entropy(self.logits(batch))
        return objectives.masked_mean(entropy, batch.mask).item()

    # --- continuing ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a continued run needs to be the same run."""
        state = {
            "step": self.step,
            "target_entropy": self.target_entropy,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rule": self.rule.state_dict(),
        }
        if self.critic:
            state["critic"] = self.critic.state_dict()
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.target_entropy = state["step"], state["target_entropy"]
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rule.load_state_dict(state["rule"])
        if self.critic:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])


def combined_gradient(grad_sft: Tensor | None, grad_rl: Tensor | None, mu: float) -> Tensor:
    """Eq. 3; a gradient that was not computed has weight 0."""
    if grad_rl is None:
        return grad_sft
    return grad_rl if grad_sft is None else mix(grad_sft, grad_rl, mu)


def gradient_facts(
    grad_sft: Tensor | None, grad_rl: Tensor | None, reduce: Reduce | None = None
) -> dict[str, float]:
    """Norms, and the cosine between the two."""
    both = {"sft": grad_sft, "rl": grad_rl}
    facts = {f"grad_norm_{k}": norm(g, reduce).item() for k, g in both.items() if g is not None}
    if len(facts) == 2:
        facts["cos_sft_rl"] = cosine(grad_sft, grad_rl, reduce)
    return facts
