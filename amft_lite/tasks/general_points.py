"""General Points: make a target number from a hand of cards.

The game is that of Chu et al., "SFT Memorizes, RL Generalizes" (arXiv 2501.17161; environment
LeslieTrue/SFTvsRL, gym_cards/envs/general_points_oneline.py). Two things are ours: the target is
part of the prompt in the lite game, and the answer spells its arithmetic out step by step.

A prompt is ``10 10 10 ; 24 : J 3 8 |`` - the values of J, Q and K (the *rule*), the target, the
cards. An answer is ``10 3 8 10 * 3 = 30 30 - 8 = 22``: the values as read, then one step a line of
arithmetic, each step using up two numbers and giving one. Training knows the rule J=Q=K=10 only;
the split `ood_rule` asks for 11, 12, 13.

Every result here is exact (integers and `fractions.Fraction`), nothing is evaluated as code, and
grading takes time linear in the answer.

Left out: pictures, suits (the split `ood_visual` is reserved for them) and the original's
revision turns (an answer is graded once; evaluation reports attempts@5 without feedback).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache

from amft_lite.tasks import Demonstration, Example, Reward

FACES = ("J", "Q", "K")
RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", *FACES)
OPERATORS = ("+", "-", "*", "/")
SEPARATORS = ("=", ";", ":", "|")
ID_RULE = (10, 10, 10)
OOD_RULE = (11, 12, 13)
LIMIT = 99  #: the largest number an expert's step may produce; numbers are single tokens

#: What an answer can be, and what the original game pays for it (`reward: shaped`). The original
#: adds faults up (range -6 to 5) and pays +1 for a formula that only lacks its last bracket; here
#: an answer is paid once, for its first fault, and a missing bracket is a fault. It also compares
#: floating-point numbers, so 3,3,8,8 can never be won there; here arithmetic is exact.
SHAPED_REWARDS = {
    "correct": 5.0,
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
class Verdict:
    """The grade of one answer: its outcome (one of `OUTCOMES`) and the number it reached."""

    outcome: str
    value: Fraction | None = None

    @property
    def correct(self) -> bool:
        return self.outcome == "correct"


@dataclass(frozen=True)
class Step:
    """`left operator right = result`."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


def apply(left: Fraction | int, operator: str, right: Fraction | int) -> Fraction | None:
    """Exact arithmetic; None for a division by zero."""
    if operator == "+":
        return Fraction(left + right)
    if operator == "-":
        return Fraction(left - right)
    if operator == "*":
        return Fraction(left * right)
    return Fraction(left) / right if right else None


# --- solving -------------------------------------------------------------------------------------


def _splits(values: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to part a sorted tuple in two non-empty sorted tuples, each unordered pair once."""
    places = range(len(values))
    pairs = set()
    for size in range(1, len(values) // 2 + 1):
        for chosen in itertools.combinations(places, size):
            left = tuple(values[i] for i in chosen)
            right = tuple(values[i] for i in places if i not in chosen)
            pairs.add((min(left, right), max(left, right)))
    return pairs


def _combine(left: tuple[int, ...], right: tuple[int, ...]) -> Iterable[tuple]:
    """(value, operator, left value, right value, swapped) over all results of two sub-hands."""
    for a in _expressions(left):
        for b in _expressions(right):
            yield a + b, "+", a, b, False
            yield a * b, "*", a, b, False
            yield a - b, "-", a, b, False
            yield b - a, "-", b, a, True
            if b:
                yield a / b, "/", a, b, False
            if a:
                yield b / a, "/", b, a, True


@cache
def _expressions(values: tuple[int, ...]) -> dict[Fraction, tuple[str, ...]]:
    """Every rational number that uses each of `values` once, with the formulas that give it."""
    if len(values) == 1:
        return {Fraction(values[0]): (str(values[0]),)}
    found: dict[Fraction, dict[str, None]] = {}
    for left, right in sorted(_splits(values)):
        for result in _combine(left, right):
            formulas = found.setdefault(result[0], {})
            formulas.update((f"({formula})", None) for formula in _spelled(left, right, *result))
    return {value: tuple(formulas) for value, formulas in found.items()}


def _spelled(left, right, value, operator, a, b, swapped) -> Iterable[str]:
    """The formulas of one result of `_combine`; equal halves commute, and count once."""
    first, second = (right, left) if swapped else (left, right)
    for x in _expressions(first)[a]:
        for y in _expressions(second)[b]:
            if not (left == right and operator in "+*" and x > y):
                yield f"{x}{operator}{y}"


def solve(values: Sequence[int], target: int) -> list[str]:
    """All formulas over `values` (each used once; + - * /, brackets) worth exactly `target`.

    Rational intermediates are allowed, as in the original: ``8/(3-(8/3))`` solves 3,3,8,8.
    Formulas are sorted; a commuted pair is listed once. [] when there is none.
    """
    values = tuple(sorted(values))
    if len(values) == 1:
        return [str(values[0])] if values[0] == target else []
    formulas: set[str] = set()
    for left, right in _splits(values):
        for result in _combine(left, right):
            if result[0] == target:
                formulas.update(_spelled(left, right, *result))
    return sorted(formulas)


def next_steps(numbers: Sequence[int]) -> list[tuple[Step, tuple[int, ...]]]:
    """The expert's legal moves: steps with a whole result in 0..99, and the numbers they leave."""
    moves = []
    for i, j in itertools.combinations(range(len(numbers)), 2):
        rest = tuple(numbers[k] for k in range(len(numbers)) if k not in (i, j))
        a, b = numbers[i], numbers[j]
        candidates = [Step(a, "+", b, a + b), Step(a, "*", b, a * b)]
        candidates.append(Step(a, "-", b, a - b) if a >= b else Step(b, "-", a, b - a))
        quotients = {(a, b), (b, a)}
        candidates += [Step(x, "/", y, x // y) for x, y in quotients if y and x % y == 0]
        moves += [(step, (*rest, step.result)) for step in candidates if step.result <= LIMIT]
    return sorted(moves, key=lambda move: str(move[0]))


@lru_cache(maxsize=4096)
def solutions(values: tuple[int, ...]) -> dict[int, tuple[tuple[Step, ...], ...]]:
    """target -> every way to reach it in whole, non-negative steps of at most 99.

    `values` must be sorted. This is the expert of the demonstrations; `solve` is the wider one.
    """
    found: dict[int, dict[tuple[Step, ...], None]] = {}

    def walk(numbers: tuple[int, ...], done: tuple[Step, ...]) -> None:
        if len(numbers) == 1:
            found.setdefault(numbers[0], {})[done] = None
            return
        for step, rest in next_steps(numbers):
            walk(rest, (*done, step))

    walk(values, ())
    return {target: tuple(ways) for target, ways in sorted(found.items())}


# --- grading -------------------------------------------------------------------------------------


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


def verify(completion: str, example: Hand, draft: bool = False) -> Verdict:
    """Grade a step-by-step answer. Any text gets a verdict; time is linear in its length."""
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
        "cards": list(example.cards),
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


# --- the task ------------------------------------------------------------------------------------


def card_values(cards: Sequence[str], rule: tuple[int, int, int]) -> tuple[int, ...]:
    """What `cards` are worth when J, Q, K are worth `rule`."""
    worth = {"A": 1, **dict(zip(FACES, rule, strict=True))}
    return tuple(worth[card] if card in worth else int(card) for card in cards)


def prompt_text(cards: Sequence[str], target: int, rule: tuple[int, int, int]) -> str:
    """``10 10 10 ; 24 : J 3 8 |``."""
    return f"{rule[0]} {rule[1]} {rule[2]} ; {target} : {' '.join(cards)} |"


def group_name(values: Iterable[int]) -> str:
    """The name of a value multiset: ``3-8-10``."""
    return "-".join(map(str, sorted(values)))


def _shuffled(groups: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A fixed order that depends on nothing but the values (the same on every machine)."""
    return sorted(groups, key=lambda g: hashlib.sha256(group_name(g).encode()).hexdigest())


class GeneralPoints:
    """The task. `preset="lite"`: three cards, targets 10..50; `"classic"`: four cards, 24."""

    splits = ("train", "validation", "test", "ood_rule")
    _shares = (0.64, 0.14)  # of the multisets: train, validation; the rest is test

    def __init__(self, preset: str = "lite", reward: str = "binary") -> None:
        if preset not in ("lite", "classic"):
            raise ValueError(f"preset must be lite or classic, not {preset!r}")
        if reward not in ("binary", "shaped"):
            raise ValueError(f"reward must be binary or shaped, not {reward!r}")
        self.name = "general_points" if preset == "lite" else "general_points_classic"
        self.cards = 3 if preset == "lite" else 4
        self.targets = tuple(range(10, 51)) if preset == "lite" else (24,)
        self.reward_kind = reward
        self.max_new_tokens = self.cards + 5 * (self.cards - 1) + 1
        self._problems = self._split_problems()

    def _split_problems(self) -> dict[str, list[tuple[tuple[int, ...], int]]]:
        def problems(groups):
            return [(g, t) for g in groups for t in self.targets if t in solutions(g)]

        def solvable(highest):
            hands = itertools.combinations_with_replacement(range(1, highest + 1), self.cards)
            return [g for g in hands if any(t in solutions(g) for t in self.targets)]

        id_groups = _shuffled(solvable(10))
        first = round(self._shares[0] * len(id_groups))
        second = first + round(self._shares[1] * len(id_groups))
        return {
            "train": problems(id_groups[:first]),
            "validation": problems(id_groups[first:second]),
            "test": problems(id_groups[second:]),
            "ood_rule": problems([g for g in solvable(13) if max(g) > 10]),
        }

    def problems(self, split: str) -> list[tuple[tuple[int, ...], int]]:
        """(sorted values, target) of every problem of a split.

        Raises:
            ValueError: the task has no such split.
        """
        if split == "ood_visual":
            raise ValueError("the split ood_visual is reserved for the game with pictures")
        if split not in self._problems:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        return self._problems[split]

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Hand]:
        """Every problem once, or `n` in shuffled passes; card order and ranks are drawn anew."""
        problems = list(self.problems(split))
        rng = random.Random(f"{self.name}/{split}/{seed}")
        n = len(problems) if n is None else n
        hands: list[Hand] = []
        while len(hands) < n:
            rng.shuffle(problems)
            hands += [self._deal(*p, split, rng) for p in problems[: n - len(hands)]]
        return hands

    def _deal(self, values: tuple[int, ...], target: int, split: str, rng: random.Random) -> Hand:
        rule = OOD_RULE if split == "ood_rule" else ID_RULE
        shown = {worth: [] for worth in values}
        for rank, worth in zip(RANKS, card_values(RANKS, rule), strict=True):
            if worth in shown:
                shown[worth].append(rank)
        order = list(values)
        rng.shuffle(order)
        cards = tuple(rng.choice(shown[worth]) for worth in order)
        return Hand(
            prompt=prompt_text(cards, target, rule),
            split=split,
            group=group_name(values),
            key=f"{group_name(values)}>{target}",
            cards=cards,
            values=tuple(order),
            target=target,
            rule=rule,
        )

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """`n` expert answers under the ID rule: a random solution of each of `n` examples.

        Raises:
            ValueError: `split` is not under the ID rule (there are no experts for another rule).
        """
        if split == "ood_rule":
            raise ValueError("demonstrations exist under the training rule only, not for ood_rule")
        rng = random.Random(f"{self.name}/expert/{split}/{seed}")
        demonstrations = []
        for hand in self.prompts(split, n, seed=seed + 1_000_003):  # not the RL prompts' order
            steps = rng.choice(solutions(tuple(sorted(hand.values)))[hand.target])
            text = " ".join([*map(str, hand.values), *map(str, steps)])
            demonstrations.append(Demonstration(hand, text))
        return demonstrations

    def reward(self, example: Hand, completion: str) -> Reward:
        """1 or 0 (Eq. 1 of the paper, second-hand notes), or the original game's table."""
        verdict = verify(completion, example)
        shaped = self.reward_kind == "shaped"
        value = SHAPED_REWARDS[verdict.outcome] if shaped else float(verdict.correct)
        return Reward(value, verdict.outcome, verdict.correct)

    def vocabulary(self) -> list[str]:
        """Numbers 0..99 (cards 2..10 are numbers), A J Q K, operators, separators."""
        return [*map(str, range(LIMIT + 1)), "A", *FACES, *OPERATORS, *SEPARATORS]
