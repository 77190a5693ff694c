"""Dialogues on TRL: GRPOTrainer whose rollouts are talks with an episode, turn by turn.

TRL takes a rollout of several turns through its `rollout_func`, with a mask of the policy's own
tokens (`env_mask`, in its batches `tool_mask`). Its loss, its token counts and `answers_of` read
that mask; attention covers both sides.

Left out: vLLM, whose sampler would have to be called once a turn; pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from trl.data_utils import is_conversational
from trl.models import unwrap_model_for_generation

from amft_lite.dialogues import Speech, SpeechError, Turns, sample_dialogues
from amft_lite.tasks import Episode
from amft_lite.trainer_batches import padded
from amft_lite.trainer_inputs import TrainerInputError
from amft_lite.trainer_value_head import ValueHeadTrainer

#: Makes a row's episode; called once a rollout with the row's columns.
MakeEpisode = Callable[[dict[str, Any]], Episode]


class DialogueTrainer(ValueHeadTrainer):
    """GRPOTrainer until `episode` is set; then every rollout is a dialogue with the row's episode,
    which also grades it.

    `args` has max_completion_length, of one answer, and max_episode_tokens, of both sides.
    """

    episode: MakeEpisode | None = None
    _asked: Sequence[dict[str, Any]] = ()  #: the rows that TRL is about to sample for
    _grades: Sequence[float] = ()  #: of what was sampled last
    _own: Tensor | None = None  #: [B, T], 1 on the policy's own tokens of the micro-batch at work
    _speeches: dict[bool, Speech]

    def speech(self, chat: bool) -> Speech:
        """How turns are spelled, in plain text or by the chat template.

        Raises:
            TrainerInputError: the template cannot spell a dialogue.
        """
        known = self.__dict__.setdefault("_speeches", {})
        if chat not in known:
            options = dict(self.chat_template_kwargs or {})
            if getattr(self, "chat_template", None):
                options["chat_template"] = self.chat_template
            try:
                known[chat] = Speech(self._tokenizer, self.eos_token_ids, chat, **options)
            except SpeechError as error:
                raise TrainerInputError(str(error)) from None
        return known[chat]

    # --- sampling --------------------------------------------------------------------------------

    def converse(
        self, rows: Sequence[dict[str, Any]], episode: MakeEpisode
    ) -> tuple[list[list[int]], Turns, list[tuple[str, ...]], list[float]]:
        """A dialogue for every row, by TRL's sampling settings: prompts' ids, what was said, the
        policy's answers as text, and the episodes' rewards."""
        prompts = [row["prompt"] for row in rows]
        speech = self.speech(is_conversational({"prompt": prompts[0]}))
        episodes = [episode(row) for row in rows]
        answers: list[list[str]] = [[] for _ in rows]

        def speak(row: int, said: list[int]) -> list[int] | None:
            answers[row].append(speech.heard(said))
            reply = episodes[row].answer(answers[row][-1])
            return None if reply is None else speech.reply(reply, speech.ended(said))

        prompt_ids = self._tokenize_prompts(prompts)[0]
        pad, device = self._tokenizer.pad_token_id, self.accelerator.device
        ids, attention = padded(prompt_ids, pad, "left", device)
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            ) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            turns = sample_dialogues(
                model, self.generation_config, ids, attention, speak, speech.ends,
                self.max_completion_length, self.args.max_episode_tokens,
            )  # fmt: skip
        grades = [_value(made.reward) for made in episodes]
        return prompt_ids, turns, list(map(tuple, answers)), grades

    def _rollout(self, prompts: list, _: Any = None) -> dict[str, Any]:
        """TRL's `rollout_func`: one dialogue a prompt, in the order of the rows."""
        prompt_ids, turns, _, self._grades = self.converse(self._asked, self.episode)
        return {"prompt_ids": prompt_ids, "completion_ids": turns.said, "logprobs": None,
                "env_mask": turns.own}  # fmt: skip

    def episode_reward(self, completions: list, **_: Any) -> list[float]:
        """TRL's reward function: what the episodes said."""
        return list(self._grades)

    def _generate_and_score_completions(self, inputs):
        self._asked = inputs
        return super()._generate_and_score_completions(inputs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's; for the time of it `_own` is this micro-batch's mask."""
        self._own = inputs.get("tool_mask")
        try:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self._own = None


def _value(reward: Any) -> float:
    """A number, or a `tasks.Reward`."""
    return float(getattr(reward, "value", reward))
