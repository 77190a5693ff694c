"""The arithmetic of General Points: exact solving, and the expert's steps.

Two solvers: `solve` finds every formula over the rationals, as the original game's does;
`solutions` finds what the demonstrations may say, whole steps from 0 to 99.

Left out: cards and rules; numbers come in as numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache

OPERATORS = ("+", "-", "*", "/")
LIMIT = 99  #: the largest number an expert's step may produce; numbers are single tokens


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
