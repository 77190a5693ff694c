"""Dialogues of any causal language model of `transformers`: how they are spelled, how sampled.

`amft_lite.episodes` writes a Llama's forward pass out; here `model.generate` does all the work, in
one call for the whole dialogue. Wherever the task has replied, a logits processor leaves one token
to draw, the reply's next, until it is the policy's turn again. So the cache stays across turns with
every kind of cache that a family has, no row waits for another, there is no padding in the middle,
and adapters, 4-bit weights, top-p and the like need no thought.

A reply is read one token a step, and a row that has ended is computed until the last one has.

Left out: pictures, tools, and what is replied (`amft_lite.tasks`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

#: Words that stand for an answer and a reply while a chat template is looked at.
ANSWER, REPLY = "amftanswer", "amftreply"


class SpeechError(ValueError):
    """A chat template that cannot spell a dialogue; its text is one sentence."""


class Speech:
    """How the turns of a dialogue are spelled as token ids, by policy, task and expert alike.

    An answer ends with a token that the policy says itself. Without a chat template turns are
    parted by a space and by that token, the tokenizer's end-of-text. With one, a reply is a message
    of the user, together with all that the template puts before and behind it; the answer's own end
    is the template's, such as <|im_end|>. `ends` are the tokens that end an answer: that one, and
    `eos_ids`.

    Raises:
        SpeechError: the template does not show an assistant's and a user's message in turn.
    """

    def __init__(
        self, tokenizer: Any, eos_ids: Sequence[int] = (), chat: bool = False, **options: Any
    ) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self.end = tokenizer.eos_token_id
        self._before, self._after = " ", ""
        if chat:
            self._read_template(options, set(eos_ids))
        self.ends = {self.end, *eos_ids}

    def _read_template(self, options: dict[str, Any], eos_ids: set[int]) -> None:
        """What lies between an answer and the next one, around the reply."""
        messages = [
            {"role": "user", "content": "amftprompt"},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": REPLY},
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **options
            )
            _, rest = text.split(ANSWER)
            self._before, self._after = rest.split(REPLY)
        except Exception as fault:  # a template is a program, and may raise what it likes
            line = next(iter(str(fault).splitlines()), "")
            raise SpeechError(
                f"the chat template cannot spell a dialogue, in which messages of user and "
                f"assistant take turns ({type(fault).__name__}: {line[:120]})."
            ) from None
        bare = self._before.lstrip()
        first = self._ids(bare)[:1]
        if first and (first[0] in eos_ids or first[0] in self.tokenizer.all_special_ids):
            self.end = first[0]
            self._before = bare.removeprefix(self.tokenizer.convert_ids_to_tokens(self.end))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answer(self, text: str) -> list[int]:
        """An answer, its end included."""
        return [*self._ids(text if self.chat else f" {text}"), self.end]

    def reply(self, text: str, ended: bool = True) -> list[int]:
        """What is said to an answer; one that was cut off (not `ended`) is ended by the template,
        where there is one."""
        ids = self._ids(self._before + text + self._after)
        return [self.end, *ids] if self.chat and not ended else ids

    def ended(self, ids: Sequence[int]) -> bool:
        """Has this answer an end?"""
        return bool(ids) and ids[-1] in self.ends

    def heard(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its end; other special tokens stay visible."""
        said = ids[:-1] if self.ended(ids) else ids
        text = self.tokenizer.decode(said, skip_special_tokens=False)
        return text if self.chat else text.removeprefix(" ")

    def spell(self, spoken: Sequence[tuple[str, bool]]) -> tuple[list[int], list[int]]:
        """Token ids of turns (text, is it the expert's?) after a prompt, and 1 where they are to be
        learned: the expert's."""
        ids: list[int] = []
        own: list[int] = []
        for text, learned in spoken:
            found = self.answer(text) if learned else self.reply(text)
            ids, own = ids + found, own + [int(learned)] * len(found)
        return ids, own


#: What is said to an answer, as token ids; None ends the dialogue. Called with (row, answer), the
#: answer with its end, if it has one.
Speak = Callable[[int, list[int]], list[int] | None]


class Turns:
    """B dialogues in progress: `said[row]` by whoever, `own[row]` 1 where by the policy."""

    def __init__(
        self, rows: int, speak: Speak, ends: set[int], answer_tokens: int, all_tokens: int
    ) -> None:
        self.speak, self.ends = speak, ends
        self.answer_tokens, self.all_tokens = answer_tokens, all_tokens
        self.said: list[list[int]] = [[] for _ in range(rows)]
        self.own: list[list[int]] = [[] for _ in range(rows)]
        self.over = [False] * rows
        self._answer: list[list[int]] = [[] for _ in range(rows)]
        self._reply: list[list[int]] = [[] for _ in range(rows)]

    def take(self, tokens: Sequence[int]) -> None:
        """One more token of every row; those of rows that are over are dropped."""
        for row, token in enumerate(tokens):
            if self.over[row]:
                continue
            self.said[row].append(token)
            self.own[row].append(int(not self._reply[row]))
            if self._reply[row]:
                self._reply[row].pop(0)
            else:
                self._take_own(row, token)
            if len(self.said[row]) == self.all_tokens:
                self.over[row] = True

    def _take_own(self, row: int, token: int) -> None:
        answer = self._answer[row]
        answer.append(token)
        if token in self.ends or len(answer) == self.answer_tokens:
            reply = self.speak(row, answer)
            self._answer[row], self._reply[row] = [], list(reply or ())
            self.over[row] = reply is None

    def due(self) -> dict[int, int]:
        """The next token of every row whose task is speaking."""
        return {row: reply[0] for row, reply in enumerate(self._reply) if reply}


class _Replies(LogitsProcessor):
    """Where the task speaks, nothing else can be drawn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        due = self.turns.due()
        if due:
            rows, tokens = list(due), list(due.values())
            scores = scores.clone()
            scores[rows] = -torch.inf
            scores[rows, tokens] = 0.0
        return scores


class _Listens(StoppingCriteria):
    """Hands each token on; a row is done when its dialogue is over."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.turns.take(input_ids[:, -1].tolist())
        return torch.tensor(self.turns.over, device=input_ids.device)


def sample_dialogues(
    model: Any,
    settings: GenerationConfig,
    ids: Tensor,
    attention: Tensor,
    speak: Speak,
    ends: set[int],
    max_new_tokens: int,
    max_episode_tokens: int,
) -> Turns:
    """A dialogue from every prompt; ids, attention [B, L], left-padded.

    `settings` say how a token is drawn. An answer ends with one of `ends`, or after
    `max_new_tokens`; a dialogue where `speak` returns None, or after `max_episode_tokens` of both
    sides.
    """
    turns = Turns(len(ids), speak, ends, max_new_tokens, max_episode_tokens)
    settings = copy.deepcopy(settings)
    settings.update(max_new_tokens=max_episode_tokens, eos_token_id=None)
    with torch.no_grad(), _endless(model):
        model.generate(
            input_ids=ids,
            attention_mask=attention,
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Replies(turns)]),
            stopping_criteria=StoppingCriteriaList([_Listens(turns)]),
        )
    return turns


@contextlib.contextmanager
def _endless(model: Any) -> Iterator[None]:
    """`generate` fills in what its settings leave open from the model's own, and would end a text
    with the first answer."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = base.generation_config
    kept, own.eos_token_id = own.eos_token_id, None
    try:
        yield
    finally:
        own.eos_token_id = kept
