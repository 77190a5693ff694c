"""Grading of General Points: any text gets a verdict, nothing is evaluated, time is linear.

Two forms of answer: steps (`verify`), which our models write, and the JSON answer of the original
game with its infix formula (`verify_formula`, `to_json`, `from_json`).

Left out: the price of an outcome in training (`GeneralPoints.reward` looks it up below).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from amft_lite.tasks import Example
from amft_lite.tasks.cards import RANKS, Card, look
from amft_lite.tasks.points_solver import LIMIT, OPERATORS, Step, apply

#: What an answer can be, and what the original game pays for it (`reward: shaped`). The original
#: adds faults up (range -6 to 5) and pays +1 for a formula that only lacks its last bracket; here
#: an answer is paid once, for its first fault, and a missing bracket is a fault. It also compares
#: floating-point numbers, so 3,3,8,8 can never be won there; here arithmetic is exact.
SHAPED_REWARDS = {
    "correct": 5.0,
    "wrong_cards": -1.5,  # pictures: the cards are not those shown; judged before anything else
    "wrong_value": -1.0,  # a legal formula that misses the target
    "wrong_arithmetic": -1.0,  # a step whose result is false (the original has no steps)
    "misread": -1.5,  # the values are not those of the cards
    "wrong_number": -2.0,  # a number that is not at hand, or is used too often
    "unused_number": -2.0,  # a number left over
    "syntax": -3.0,  # not of the answer's form
    "unbalanced": -3.0,  # a bracket left open, or closed that was never opened
    "illegal": -3.0,  # a word or character outside the game's alphabet
    "too_long": -3.0,  # refused unread
}
OUTCOMES = tuple(SHAPED_REWARDS)
MAX_CHARACTERS = 400  #: about three times the longest right answer of the four-card game

_NUMBER = re.compile(r"0|[1-9][0-9]?")  # 0..99, ASCII digits, no leading zero
_FORMULA_TOKEN = re.compile(r"0(?![0-9])|[1-9][0-9]*|[-+*/()=]")


@dataclass(frozen=True)
class Hand(Example):
    """An example of the game: cards as shown, their values in that order, target, rule."""

    cards: tuple[str, ...]
    values: tuple[int, ...]
    target: int
    rule: tuple[int, int, int]


@dataclass(frozen=True)
class PictureHand(Hand):
    """A hand whose cards are seen, not read: the prompt has `<card>` in their place."""

    suits: tuple[str, ...]
    view: int  #: seeds where each card lies, the light and the noise

    @property
    def deck(self) -> tuple[Card, ...]:
        return tuple(map(Card, self.cards, self.suits))

    def pictures(self) -> np.ndarray:
        return look(self.deck, np.random.default_rng(self.view))


@dataclass(frozen=True)
class Verdict:
    """The grade of one answer: its outcome (one of `OUTCOMES`) and the number it reached."""

    outcome: str
    value: Fraction | None = None

    @property
    def correct(self) -> bool:
        return self.outcome == "correct"


def _words(text: str) -> list[str]:
    """The text cut at ASCII blanks; any other character is part of a word, and judged there."""
    return [word for word in re.split(r"[ \t\r\n]+", text) if word]


def parse(completion: str, cards: int, draft: bool = False) -> tuple[list[int], list[Step]] | str:
    """Read an answer as (values, steps); the name of the fault where it cannot be read.

    `draft` reads the base model's order, ``a b op = c``, in place of the expert's ``a op b = c``.
    """
    if len(completion) > MAX_CHARACTERS:
        return "too_long"
    words = _words(completion)
    if any(not _NUMBER.fullmatch(word) and word not in (*OPERATORS, "=") for word in words):
        return "illegal"
    head, body = words[:cards], words[cards:]
    if len(head) < cards or not all(map(_NUMBER.fullmatch, head)) or len(body) % 5:
        return "syntax"
    steps = []
    for i in range(0, len(body), 5):
        left, second, third, equals, result = body[i : i + 5]
        operator, right = (third, second) if draft else (second, third)
        numbers = all(map(_NUMBER.fullmatch, (left, right, result)))
        if not numbers or operator not in OPERATORS or equals != "=":
            return "syntax"
        steps.append(Step(int(left), operator, int(right), int(result)))
    return [int(word) for word in head], steps


def read_cards(completion: str, cards: int) -> tuple[list[str], str | None] | str:
    """The cards that an answer about pictures names, and the rest of it (None if that is not of
    the form); or the fault's name.

    ``J 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22``: cards, values, steps.
    """
    if len(completion) > MAX_CHARACTERS:
        return "too_long"
    sections = completion.split("|")
    named = _words(sections[0])
    if len(named) != cards or not set(named) <= set(RANKS):
        return "syntax"
    whole = len(sections) == 3 and len(_words(sections[1])) == cards
    return named, " ".join(sections[1:]) if whole else None


def cards_read(hand: Hand, completion: str) -> bool:
    """Does the answer begin with the cards that were shown, whatever else is wrong with it?"""
    return _words(completion[:MAX_CHARACTERS].split("|")[0]) == list(hand.cards)


def verify(completion: str, example: Hand, draft: bool = False) -> Verdict:
    """Grade a step-by-step answer. Any text gets a verdict; time is linear in its length."""
    if isinstance(example, PictureHand):
        found = read_cards(completion, len(example.cards))
        if isinstance(found, str):
            return Verdict(found)
        named, rest = found
        if named != list(example.cards):
            return Verdict("wrong_cards")
        if rest is None:
            return Verdict("syntax")
        completion = rest
    read = parse(completion, len(example.values), draft)
    if isinstance(read, str):
        return Verdict(read)
    values, steps = read
    if values != list(example.values):
        return Verdict("misread")
    at_hand = Counter(values)
    for step in steps:
        at_hand.subtract((step.left, step.right))
        if at_hand[step.left] < 0 or at_hand[step.right] < 0:
            return Verdict("wrong_number")
        if apply(step.left, step.operator, step.right) != step.result:
            return Verdict("wrong_arithmetic")
        at_hand[step.result] += 1
    left_over = list(at_hand.elements())
    if len(left_over) > 1:
        return Verdict("unused_number")
    value = Fraction(left_over[0])
    return Verdict("correct" if value == example.target else "wrong_value", value)


def _evaluate(tokens: Sequence[str]) -> tuple[Fraction | None, list[int | str]] | str:
    """Value and postfix form of an infix formula; the fault's name where it has no such form.

    An operator-precedence parser with an explicit stack: no recursion for hostile text to exhaust.
    The value is None where it divides by zero.
    """
    rank = {"+": 1, "-": 1, "*": 2, "/": 2}
    postfix: list[int | str] = []
    pending: list[str] = []
    operand_next = True
    for token in tokens:
        if token.isdigit():
            if not operand_next:
                return "syntax"
            postfix.append(int(token))
            operand_next = False
        elif token == "(":
            if not operand_next:
                return "syntax"
            pending.append(token)
        elif token == ")":
            if "(" not in pending:
                return "unbalanced"
            if operand_next:
                return "syntax"
            while (top := pending.pop()) != "(":
                postfix.append(top)
        else:
            if operand_next:
                return "syntax"  # also every unary sign
            while pending and pending[-1] != "(" and rank[pending[-1]] >= rank[token]:
                postfix.append(pending.pop())
            pending.append(token)
            operand_next = True
    if operand_next:
        return "syntax"
    if "(" in pending:
        return "unbalanced"
    postfix.extend(reversed(pending))
    stack: list[Fraction | None] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append(Fraction(item))
        else:
            right, left = stack.pop(), stack.pop()
            lost = left is None or right is None
            stack.append(None if lost else apply(left, item, right))
    return stack[0], postfix


def _formula_tokens(text: str) -> list[str] | str:
    """Tokens of a formula, or the fault's name. Only ASCII is in the alphabet."""
    if len(text) > MAX_CHARACTERS:
        return "too_long"
    tokens, place = [], 0
    text = text.strip(" \t\r\n")
    while place < len(text):
        if text[place] in " \t\r\n":
            place += 1
            continue
        match = _FORMULA_TOKEN.match(text, place)
        if match is None or len(match.group()) > 4:  # no card is worth more than four digits
            return "illegal"
        tokens.append(match.group())
        place = match.end()
    return tokens


def _read_formula(text: str) -> tuple[Fraction | None, list[int | str], int | None] | str:
    """(value, postfix form, number claimed after `=`) of a formula, or the fault's name."""
    tokens = _formula_tokens(text)
    if isinstance(tokens, str):
        return tokens
    claimed = None
    if "=" in tokens:
        tail = tokens[tokens.index("=") + 1 :]
        tokens = tokens[: tokens.index("=")]
        if len(tail) != 1 or not tail[0].isdigit():
            return "syntax"
        claimed = int(tail[0])
    read = _evaluate(tokens)
    return read if isinstance(read, str) else (*read, claimed)


def verify_formula(text: str, values: Sequence[int], target: int) -> Verdict:
    """Grade the formula of the original's JSON answer.

    Grammar: whole numbers in ASCII digits, ``+ - * /``, brackets, no unary signs, an optional
    trailing ``=target``. Exact: ``8/(3-8/3)`` is 24. An answer has one outcome, its first fault.
    """
    read = _read_formula(text)
    if isinstance(read, str):
        return Verdict(read)
    value, postfix, claimed = read
    used = Counter(item for item in postfix if isinstance(item, int))
    if used - Counter(values):
        return Verdict("wrong_number", value)
    if Counter(values) - used:
        return Verdict("unused_number", value)
    right = value == target and claimed in (None, target)
    return Verdict("correct" if right else "wrong_value", value)


# --- the original's JSON form --------------------------------------------------------------------


def to_json(completion: str, example: Hand) -> dict:
    """The answer as the original's three keys: cards, number, formula (from the steps).

    Raises:
        ValueError: the answer has no such form (the outcome is named).
    """
    cards = list(example.cards)
    if isinstance(example, PictureHand):
        found = read_cards(completion, len(cards))
        if isinstance(found, str) or found[1] is None:
            fault = found if isinstance(found, str) else "syntax"
            raise ValueError(f"this answer cannot be written as JSON: {fault}")
        cards, completion = found
    read = parse(completion, len(example.values))
    if isinstance(read, str):
        raise ValueError(f"this answer cannot be written as JSON: {read}")
    values, steps = read
    terms = [(value, str(value)) for value in values]
    for step in steps:
        if apply(step.left, step.operator, step.right) != step.result:
            raise ValueError(f"this answer cannot be written as JSON: {step} is false")
        sides = []
        for number in (step.left, step.right):
            place = next((i for i, term in enumerate(terms) if term[0] == number), None)
            if place is None:
                raise ValueError(f"this answer cannot be written as JSON: {number} is not at hand")
            sides.append(terms.pop(place)[1])
        terms.append((step.result, f"({sides[0]}{step.operator}{sides[1]})"))
    if len(terms) > 1 or not steps:
        raise ValueError("this answer cannot be written as JSON: numbers are left over")
    result, formula = terms[0]
    return {
        "cards": cards,
        "number": values,
        "formula": f"{formula[1:-1]}={result}",
    }


def from_json(answer: dict) -> str:
    """The step-by-step answer of a JSON answer; the inverse of `to_json` up to the steps' order.

    Raises:
        ValueError: a key is missing, or the formula needs more than whole numbers from 0 to 99.
    """
    missing = [key for key in ("cards", "number", "formula") if key not in answer]
    if missing:
        raise ValueError(f"a JSON answer needs cards, number and formula; missing: {missing}")
    numbers = answer["number"]
    if not isinstance(numbers, list) or not all(
        type(n) is int and 0 <= n <= LIMIT for n in numbers
    ):
        raise ValueError(f"number must be a list of whole numbers from 0 to {LIMIT}")
    read = _read_formula(str(answer["formula"]))
    if isinstance(read, str):
        raise ValueError(f"the formula {answer['formula']!r} cannot be read: {read}")
    if read[2] not in (None, read[0]):
        raise ValueError(f"the formula {answer['formula']!r} does not give what it claims")
    steps, stack = [], []
    for item in read[1]:
        if isinstance(item, int):
            if item > LIMIT:
                raise ValueError(f"{item} is no whole number from 0 to {LIMIT}")
            stack.append(item)
            continue
        right, left = stack.pop(), stack.pop()
        result = apply(left, item, right)
        if result is None or result.denominator != 1 or not 0 <= result <= LIMIT:
            raise ValueError(f"{left}{item}{right} is no whole number from 0 to {LIMIT}")
        steps.append(Step(left, item, right, int(result)))
        stack.append(int(result))
    return " ".join([*map(str, numbers), *map(str, steps)])
