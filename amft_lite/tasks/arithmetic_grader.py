"""Grading of `arithmetic`: the last box of any text, read as one word; nothing is evaluated.

An answer ends in ``boxed 46``. What counts is the last ``boxed`` of the text and the one word
after it, which must end the text: a whole number in its one plain form (no sign but a minus, no
leading zeros) or a letter A-D, as the question asks. So the question copied into the
box (``boxed 3 + 4``) is malformed, whatever it would come to. The steps before the box are not
read: as with the rewards of real maths training, a right box after false steps is paid.

Grading takes time linear in the text.

Left out: LaTeX, fractions, units and equal values of different form (`amft_lite.tasks.math_grader`
has them, for real models).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from amft_lite.tasks import Example
from amft_lite.tasks.arithmetic_problems import LETTERS

BOX = "boxed"
DRAFT = "answer"  #: how the base usually announces its result; not paid
MAX_TOKENS = 64
MAX_CHARACTERS = 16 * MAX_TOKENS  #: before the text is cut into words at all

OUTCOMES = (
    "correct",
    "wrong_value",  # a number or letter, as was asked for, but another one
    "wrong_kind",  # a number where a letter was asked for, and the like
    "malformed_box",  # nothing, several words, or no known word after the last box
    "no_box",
    "too_long",  # refused unread
)
_NUMBER = re.compile(r"0|-?[1-9][0-9]*")  # ASCII digits


@dataclass(frozen=True)
class Question(Example):
    """An example of the task: its family, the expert's steps, the one right word."""

    family: str
    steps: tuple[str, ...]
    answer: str


def kind(word: str) -> str | None:
    """number or letter; None for any other word."""
    if _NUMBER.fullmatch(word):
        return "number"
    return "letter" if word in LETTERS else None


def boxed_word(text: str, marks: tuple[str, ...] = (BOX,)) -> tuple[str | None, str]:
    """(word, fault): the one word after the last of `marks`, or None and the fault's name."""
    if len(text) > MAX_CHARACTERS:
        return None, "too_long"
    words = [word for word in re.split(r"[ \t\r\n]+", text) if word]
    if len(words) > MAX_TOKENS:
        return None, "too_long"
    places = [place for place, word in enumerate(words) if word in marks]
    if not places:
        return None, "no_box"
    box = words[places[-1] + 1 :]
    return (box[0], "") if len(box) == 1 and kind(box[0]) else (None, "malformed_box")


def grade(text: str, question: Question, draft: bool = False) -> str:
    """The outcome of an answer, one of `OUTCOMES`; `draft` takes the base's mark for a box too."""
    word, fault = boxed_word(text, (BOX, DRAFT) if draft else (BOX,))
    if word is None:
        return fault
    if word == question.answer:
        return "correct"
    return "wrong_value" if kind(word) == kind(question.answer) else "wrong_kind"
