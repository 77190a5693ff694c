"""The families of problems of `arithmetic`: how one is drawn, worked out step by step, and named.

All numbers are whole and lie in 0..99 (those of `products` in 0..199: there are too few others),
intermediate results too, so that each is one token.
A problem's `group` forgets what does not matter for its solution (the order of summands and
factors, the name of the unknown, the wrong options), and splits share no group.

The families are those of reasoning-gym (Apache-2.0) by name and kind; nothing is copied from it.

Left out: negative numbers, brackets, division but in equations, word problems.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LIMIT, PRODUCT_LIMIT = 99, 199
OPERATORS = ("+", "-", "*", "/")
UNKNOWNS = ("x", "y", "z")
LETTERS = ("A", "B", "C", "D")
EXTREMES = ("largest", "smallest")
LEGS = {"hens": 2, "dogs": 4, "ants": 6, "spiders": 8}


@dataclass(frozen=True)
class Problem:
    """One problem: its question, what a split may not share, the expert's steps, the answer."""

    family: str
    question: str
    group: str
    steps: tuple[str, ...]
    answer: str


def worked(left: int, operator: str, right: int) -> tuple[str, int]:
    """One step and its result: (``48 + 7 = 55``, 55). Division is of exact quotients only."""
    result = {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "/": left // max(right, 1),
    }[operator]
    return f"{left} {operator} {right} = {result}", result


def in_order(numbers: list[int], operators: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """The steps from left to right over `numbers`, and what they end in."""
    value, steps = numbers[0], []
    for operator, number in zip(operators, numbers[1:], strict=True):
        step, value = worked(value, operator, number)
        steps.append(step)
    return tuple(steps), value


def legal(steps: Iterable[str], highest: int = LIMIT) -> bool:
    """Do all results lie in 0..highest?"""
    return all(0 <= int(step.rsplit(" ", 1)[1]) <= highest for step in steps)


def interleaved(numbers: list[int], operators: list[str]) -> str:
    """``48 + 7 - 9``."""
    tail = [f"{o} {n}" for o, n in zip(operators, numbers[1:], strict=True)]
    return " ".join([str(numbers[0]), *tail])


def chain_sum(rng: random.Random, top: bool, terms: tuple[int, int] = (2, 3)) -> Problem | None:
    """``48 + 7 - 9 ?``: summands of one or two digits; `top`: the most terms, two digits each."""
    count = terms[1] if top else rng.randint(*terms)
    numbers = [rng.randint(1, 9) if not top and rng.random() < 0.5 else rng.randint(10, 99)
               for _ in range(count)]  # fmt: skip
    operators = [rng.choice("+-") for _ in range(count - 1)]
    steps, value = in_order(numbers, operators)
    signed = sorted(f"{o}{n}" for o, n in zip(["+", *operators], numbers, strict=True))
    question = f"{interleaved(numbers, operators)} ?"
    problem = Problem("chain_sum", question, " ".join(signed), steps, str(value))
    return problem if legal(steps) else None


def basic_arithmetic(rng: random.Random, top: bool) -> Problem | None:
    """``7 + 2 * 3 ?``: one product and one summand; `top`: a summand of two digits."""
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(10, 99) if top or rng.random() < 0.5 else rng.randint(1, 9)
    first, sign = rng.random() < 0.5, rng.choice("+-")
    product, p = worked(a, "*", b)
    last, value = worked(p, sign, c) if first else worked(c, sign, p)
    parts = sorted((f"{min(a, b)}*{max(a, b)}", f"{c}")) if sign == "+" else (
        [f"{min(a, b)}*{max(a, b)}", f"{c}"] if first else [f"{c}", f"{min(a, b)}*{max(a, b)}"]
    )  # fmt: skip
    question = f"{a} * {b} {sign} {c} ?" if first else f"{c} {sign} {a} * {b} ?"
    steps = (product, last)
    problem = Problem("basic_arithmetic", question, sign.join(parts), steps, str(value))
    return problem if legal(steps) else None


def simple_equations(rng: random.Random, top: bool) -> Problem | None:
    """``3 * x + 2 = 14 ?``: all numbers but the right-hand side at most 9; `top`: 5 * 5 or more."""
    lowest = 5 if top else 2
    a, x, b = rng.randint(lowest, 9), rng.randint(lowest if top else 1, 9), rng.randint(1, 9)
    unknown, sign = rng.choice(UNKNOWNS), rng.choice("+-")
    right = a * x + b if sign == "+" else a * x - b
    first, product = worked(right, "-" if sign == "+" else "+", b)
    last, _ = worked(product, "/", a)
    left = f"{a} * {unknown} {sign} {b}"
    if sign == "+" and rng.random() < 0.5:
        left = f"{b} + {a} * {unknown}"
    group = f"{a}u{sign}{b}={right}"
    steps = (first, last)
    problem = Problem("simple_equations", f"{left} = {right} ?", group, steps, str(x))
    return problem if 0 <= right <= LIMIT else None


def products(rng: random.Random, top: bool) -> Problem | None:
    """``3 * 4 * 5 ?``: two or three factors; `top`: three."""
    count = 3 if top or rng.random() < 0.5 else 2
    factors: list[int] = []
    while len(factors) < count:  # room is left for a factor of 2 or more to come
        room = PRODUCT_LIMIT // (math.prod(factors) * 2 ** (count - 1 - len(factors)))
        factors.append(rng.randint(2, room))
    rng.shuffle(factors)
    steps, value = in_order(factors, ["*"] * (count - 1))
    group = "*".join(map(str, sorted(factors)))
    question = f"{interleaved(factors, ['*'] * (count - 1))} ?"
    problem = Problem("products", question, group, steps, str(value))
    return problem if legal(steps, PRODUCT_LIMIT) else None


def long_sum(rng: random.Random, top: bool) -> Problem | None:
    """A `chain_sum` of four or five terms."""
    return chain_sum(rng, top, (4, 5))


def extremes(rng: random.Random, top: bool) -> Problem:
    """``largest ; A 14 B 72 C 9 D 33 ?``: the largest or smallest number as one of four letters."""
    asked, numbers = rng.choice(EXTREMES), rng.sample(range(LIMIT + 1), len(LETTERS))
    wanted = max(numbers) if asked == "largest" else min(numbers)
    listed = " ".join(f"{letter} {n}" for letter, n in zip(LETTERS, numbers, strict=True))
    group = f"{asked} of {' '.join(map(str, sorted(numbers)))}"
    answer = LETTERS[numbers.index(wanted)]
    return Problem("extremes", f"{asked} ; {listed} ?", group, (str(wanted),), answer)


def leg_counting(rng: random.Random, top: bool) -> Problem | None:
    """``legs of 3 dogs 2 hens ?``: how many legs a kind has is the base's knowledge."""
    kinds = rng.sample(list(LEGS), 2)
    counts = [rng.randint(1, 9) for _ in kinds]
    (first, a), (second, b) = (worked(n, "*", LEGS[k]) for n, k in zip(counts, kinds, strict=True))
    last, value = worked(a, "+", b)
    animals = [f"{n} {kind}" for n, kind in zip(counts, kinds, strict=True)]
    steps, group = (first, second, last), " ".join(["legs", *sorted(animals)])
    problem = Problem("leg_counting", f"legs of {' '.join(animals)} ?", group, steps, str(value))
    return problem if legal(steps) else None


#: A family draws one problem, or None where a number would leave its range.
Family = Callable[[random.Random, bool], Problem | None]
ID_FAMILIES: dict[str, Family] = {
    "chain_sum": chain_sum,
    "basic_arithmetic": basic_arithmetic,
    "simple_equations": simple_equations,
    "products": products,
}
OOD_FAMILIES: dict[str, Family] = {
    "ood_choice": extremes,
    "ood_length": long_sum,
    "ood_words": leg_counting,
}


def draw(
    family: Family, rng: random.Random, wanted: Callable[[str], bool], top: bool = False
) -> Problem:
    """A problem of `family` whose group is `wanted`, by rejection."""
    while True:
        problem = family(rng, top)
        if problem and wanted(problem.group):
            return problem
