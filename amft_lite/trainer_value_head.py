"""PPO's critic on TRL: GRPOTrainer with advantages by GAE, from a value head outside the model.

The head reads the policy's last hidden states, detached, and trains by its own Adam, as in
`amft_lite.loop`. Inside the model it would break DDP (a parameter without a part in the loss) and
be saved with the policy.

Left out: vision models, and value losses with clipping.
"""

from __future__ import annotations

import torch
from torch import Tensor
from trl import GRPOTrainer

from amft_lite import objectives
from amft_lite.batches import generator
from amft_lite.loop import ValueHead
from amft_lite.trainer_batches import Answers, answers_of, micro_batches


class ValueHeadTrainer(GRPOTrainer):
    """GRPOTrainer until `add_critic` is called; then its advantages are [B, T], by GAE.

    `args` has gamma, gae_lambda and value_lr.
    """

    critic: ValueHead | None = None

    def add_critic(self) -> None:
        """Put a fresh value head beside the model."""
        width = self.model.config.get_text_config().hidden_size
        head = ValueHead(width, generator(self.args.seed, "critic", 0))
        self.critic = head.to(self.accelerator.device)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), self.args.value_lr)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """TRL's; this process's weighted sums [B] are kept. A completion without a grade has 0."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        self._rewards = total[first : first + len(prompts)]
        return rewards

    def _generate_and_score_completions(self, inputs):
        """TRL's; in training with a critic, its batch gets advantages, returns and states."""
        batch = super()._generate_and_score_completions(inputs)
        if self.critic is None or not self.model.training:
            return batch
        answers = answers_of(batch)
        mask, place = answers.mask, torch.arange(answers.mask.shape[1], device=answers.mask.device)
        with torch.no_grad():
            states = self._hidden_states(answers)
            values = self.critic(states)
        last = place == (place * mask).amax(1, keepdim=True)  # of the policy's own tokens
        rewards = last * self._rewards.unsqueeze(1)  # the reward comes with it
        batch["advantages"], batch["returns"] = objectives.gae(
            rewards, values, mask, self.args.gamma, self.args.gae_lambda
        )
        return batch | {"states": states}

    def _hidden_states(self, answers: Answers) -> Tensor:
        """Last hidden states where answers are predicted: [B, T, width]."""
        states = []
        for part in micro_batches(answers, self.args.per_device_train_batch_size):
            output = self.model(
                **part.forward_inputs(),
                use_cache=False,
                output_hidden_states=True,
            )
            states.append(output.hidden_states[-1][:, -part.tokens.shape[1] - 1 : -1].float())
        return torch.cat(states)

    def train_critic(self) -> float:
        """A step of phi on the rollouts of this optimiser step; processes average its gradient."""
        window = self._window()
        masks = [answers_of(batch).mask for batch in window]
        total = self._over_processes(sum(mask.sum() for mask in masks))
        self.critic_optimizer.zero_grad()
        value = 0.0
        for batch, mask in zip(window, masks, strict=True):
            values = self.critic(batch["states"])
            loss = objectives.value_loss(values, values, batch["returns"], mask)
            loss = loss * mask.sum() / total
            loss.backward()
            value += loss.item()
        for p in self.critic.parameters():
            p.grad = self.accelerator.reduce(p.grad, reduction="mean")
        self.critic_optimizer.step()
        return value

    def _window(self) -> list[dict]:
        """TRL's prepared micro-batches of the optimiser step that is being finished."""
        n, size = len(self._buffered_inputs), self.current_gradient_accumulation_steps
        return [self._buffered_inputs[(self._step - size + i) % n] for i in range(size)]

    def _over_processes(self, share: float | Tensor) -> Tensor:
        """Mean over processes, as DDP averages gradients: a sum of this process's divided by the
        mean of all processes' totals is its right share."""
        share = torch.as_tensor(share, dtype=torch.float32, device=self.accelerator.device)
        return self.accelerator.reduce(share, reduction="mean")
