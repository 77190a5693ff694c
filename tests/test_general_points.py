"""General Points against things that do not share its code: another solver, another parser,
counts made another way, answers graded by hand, and hostile text."""

import ast
import functools
import itertools
import operator
import os
import random
import re
import string
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amft_lite.tasks import (
    Demonstration,
    Example,
    Reward,
    Task,
    general_points,
    load_task,
    points_grader,
)
from amft_lite.tasks.general_points import (
    OUTCOMES,
    SHAPED_REWARDS,
    GeneralPoints,
    Hand,
    from_json,
    solutions,
    solve,
    to_json,
    verify,
    verify_formula,
)

PIPS = {"A": 1, **{str(n): n for n in range(2, 11)}}  # what the rule does not touch
ID_RULE, OOD_RULE = (10, 10, 10), (11, 12, 13)
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
WORDS = [*map(str, range(100)), *"AJQK+-*/=;:|"]
PAID = {  # the table of prices, written out once more
    "correct": 5, "wrong_value": -1, "wrong_arithmetic": -1, "misread": -1.5, "wrong_cards": -1.5,
    "wrong_number": -2, "unused_number": -2,
    "syntax": -3, "unbalanced": -3, "illegal": -3, "too_long": -3,
}  # fmt: skip


@pytest.fixture(scope="module")
def lite():
    return load_task("general_points")


@pytest.fixture(scope="module")
def classic():
    return load_task("general_points_classic")


def worth(rule):
    return {**PIPS, **dict(zip("JQK", rule, strict=True))}


def make_hand(values, target):
    cards = tuple("A" if value == 1 else str(value) for value in values)
    prompt = f"10 10 10 ; {target} : {' '.join(cards)} |"
    return Hand(prompt, "train", "a group", "a key", cards, tuple(values), target, ID_RULE)


# --- independent arithmetic -----------------------------------------------------------------------


def multisets(highest, cards):
    return list(itertools.combinations_with_replacement(range(1, highest + 1), cards))


def postfix_shapes(cards):
    """Every bracketing, as a word of n (number) and o (operator) for a stack machine."""
    for word in itertools.product("no", repeat=2 * cards - 1):
        heights = list(itertools.accumulate(1 if kind == "n" else -1 for kind in word))
        if min(heights) == 1 == heights[-1]:
            yield word


def run_stack_machine(shape, numbers, operators):
    """Exact ratios (numerator, denominator) of whole numbers, one entry per hand.

    A division by zero makes the denominator 0, and it stays 0.
    """
    stack, numbers, operators = [], iter(numbers), iter(operators)
    for kind in shape:
        if kind == "n":
            stack.append((next(numbers), 1))
            continue
        (c, d), (a, b), sign = stack.pop(), stack.pop(), next(operators)
        if sign in "+-":
            stack.append((a * d + b * c if sign == "+" else a * d - b * c, b * d))
        else:
            stack.append((a * c, b * d) if sign == "*" else (a * d, b * c * np.not_equal(d, 0)))
    return stack.pop()


def reachable(hands, highest=50):
    """[hand, number]: can orders, brackets and operators make `number` (0..highest) of it?"""
    columns, rows = np.array(hands).T, np.arange(len(hands))
    reached = np.zeros((len(hands), highest + 1), dtype=bool)
    cards = len(columns)
    for shape in postfix_shapes(cards):
        for order in itertools.permutations(columns):
            for operators in itertools.product("+-*/", repeat=cards - 1):
                over, under = run_stack_machine(shape, order, operators)
                quotient = over // np.where(under == 0, 1, under)
                hit = (under != 0) & (quotient * under == over)
                hit &= (quotient >= 0) & (quotient <= highest)
                reached[rows[hit], quotient[hit]] = True
    return reached


def whole_results(a, b):
    results = {a + b, a - b, a * b} | ({a // b} if b and not a % b else set())
    return {result for result in results if 0 <= result <= 99}


def whole_targets(hand):
    """The targets 10..50 of three cards in two whole, non-negative steps of at most 99."""
    reached = set()
    for a, b, c in itertools.permutations(hand):
        for middle in whole_results(a, b):
            reached |= whole_results(middle, c) | whole_results(c, middle)
    return {target for target in reached if 10 <= target <= 50}


def only_ascii_blanks(text):
    return re.sub("[ \t\r\n]+", " ", text).strip(" ")


def right_steps(text, hand, draft=False):
    """Is a step answer right? One pattern for all of it, and a list of numbers to cross off."""
    number, sign = "(0|[1-9][0-9]?)", "([-+*/])"
    operation = f"{number} {sign}" if draft else f"{sign} {number}"
    step, cards = f"{number} {operation} = {number}", len(hand.values)
    match = re.fullmatch(" ".join([number] * cards + [step] * (cards - 1)), only_ascii_blanks(text))
    if len(text) > 400 or not match:
        return False
    words = match.groups()
    at_hand = [int(word) for word in words[:cards]]
    if at_hand != list(hand.values):
        return False
    for a, second, third, result in zip(*[iter(words[cards:])] * 4, strict=True):
        sign, b = (third, second) if draft else (second, third)
        try:
            at_hand.remove(int(a))
            at_hand.remove(int(b))
            if OPERATIONS[sign](Fraction(int(a)), int(b)) != int(result):
                return False
        except (ValueError, ZeroDivisionError):
            return False
        at_hand.append(int(result))
    return at_hand == [hand.target]


def right_formula(text, values, target):
    """Is a formula right? Read by Python's own grammar, cut down to the game's."""
    body, equals, claim = text.partition("=")
    if len(text) > 400 or set(text) - set("0123456789+-*/()= \t\r\n"):
        return False
    if equals and claim.strip() != str(target):
        return False
    signs = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
    used = []

    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            used.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in signs:
            return OPERATIONS[signs[type(node.op)]](value(node.left), value(node.right))
        raise SyntaxError

    try:
        reached = value(ast.parse(" ".join(body.split()), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return False
    return reached == target and sorted(used) == sorted(values)


# --- facts of the game ----------------------------------------------------------------------------


@functools.cache
def makes_24(hand):
    return bool(solve(hand, 24))


@pytest.mark.parametrize(
    ("cards", "hands", "rule", "expected"),
    [
        (3, 455, ID_RULE, 101),
        (3, 455, OOD_RULE, 111),
        (4, 1820, ID_RULE, 1236),
        (4, 1820, OOD_RULE, 1362),  # the game of 24's well-known count
    ],
)
def test_solve_finds_the_known_number_of_hands_that_make_24(cards, hands, rule, expected):
    ranks = list(itertools.combinations_with_replacement(worth(rule), cards))
    values = [tuple(sorted(worth(rule)[rank] for rank in hand)) for hand in ranks]
    solvable = {hand for hand in set(values) if makes_24(hand)}
    assert (len(ranks), sum(hand in solvable for hand in values)) == (hands, expected)


@pytest.mark.parametrize("cards", [3, 4])
def test_solve_is_empty_exactly_where_an_independent_solver_finds_nothing(cards):
    hands = multisets(13, cards)
    truth = reachable(hands)
    pairs = list(itertools.product(range(len(hands)), range(10, 51)))
    if cards == 4:
        # The independent solver itself, on hands known by hand: 5*(5-1/5), 8/(3-8/3), at most 4.
        known = {(1, 5, 5, 5): True, (3, 3, 8, 8): True, (1, 1, 1, 1): False}
        assert {hand: truth[hands.index(hand), 24] for hand in known} == known
        pairs = random.Random(0).sample(pairs, 300)
    assert {bool(truth[pair]) for pair in pairs} == {True, False}
    assert [(hands[i], t) for i, t in pairs if bool(solve(hands[i], t)) != truth[i, t]] == []


@pytest.mark.parametrize("cards", [3, 4])
def test_every_formula_of_solve_is_right_and_graded_so(cards):
    rng, checked = random.Random(1), 0
    while checked < 700:
        values, target = [rng.randint(1, 13) for _ in range(cards)], rng.randint(10, 50)
        for formula in solve(values, target):
            assert right_formula(formula, values, target), formula
            for text in (formula, f"{formula}={target}"):
                assert verify_formula(text, values, target).correct, text
                assert not verify_formula(text, values, target + 1).correct, text
            checked += 1


def test_3_3_8_8_is_won_with_a_fraction_and_in_no_other_way():
    verdict = verify_formula("8/(3-8/3)", (3, 3, 8, 8), 24)
    assert (verdict.outcome, verdict.value) == ("correct", 24)
    assert solve((8, 3, 8, 3), 24) == ["8/(3-(8/3))"]


def commuted(node):
    """The text of a formula's tree with the operands of + and * in alphabetical order."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    sides = [commuted(node.left), commuted(node.right)]
    if isinstance(node.op, ast.Add | ast.Mult):
        sides.sort()
    return f"({sides[0]} {type(node.op).__name__} {sides[1]})"


def all_formulas(values, target):
    """Every formula worth `target`, one of each commuted pair, from the stack machine."""
    found = set()
    for shape in postfix_shapes(len(values)):
        for order in set(itertools.permutations(values)):
            for operators in itertools.product("+-*/", repeat=len(values) - 1):
                over, under = run_stack_machine(shape, order, operators)
                if under == 0 or over != target * under:
                    continue
                stack, numbers, signs = [], iter(order), iter(operators)
                for kind in shape:
                    right = str(next(numbers)) if kind == "n" else stack.pop()
                    left = "" if kind == "n" else f"{stack.pop()}{next(signs)}"
                    stack.append(f"({left}{right})")
                found.add(commuted(ast.parse(stack[0], mode="eval").body))
    return found


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ((10, 3, 8), 22),
        ((6, 6, 6), 6),
        ((1, 2, 3, 4), 24),
        ((2, 2, 3, 3), 30),  # (2+3)*(2*3): equal halves
        ((2, 2, 3, 3), 2),  # (3-2)-(2-3): equal halves that do not commute
    ],
)
def test_solve_lists_every_formula_and_of_a_commuted_pair_one(values, target):
    listed = [commuted(ast.parse(formula, mode="eval").body) for formula in solve(values, target)]
    assert len(set(listed)) == len(listed)
    assert set(listed) == all_formulas(values, target) != set()


def test_lite_has_exactly_the_problems_of_an_independent_enumeration(lite):
    familiar = {(hand, t) for hand in multisets(10, 3) for t in whole_targets(hand)}
    unseen = {(hand, t) for hand in multisets(13, 3) if hand[-1] > 10 for t in whole_targets(hand)}
    assert (len(familiar), len({hand for hand, _ in familiar})) == (1436, 213)
    assert (len(unseen), len({hand for hand, _ in unseen})) == (1439, 235)
    listed = [p for split in ("train", "validation", "test") for p in lite.problems(split)]
    assert sorted(listed) == sorted(familiar)
    assert sorted(lite.problems("ood_rule")) == sorted(unseen)


def test_no_multiset_is_in_two_splits(lite, classic):
    assert lite.splits == ("train", "validation", "test", "ood_rule")
    for task in (lite, classic):
        prompts = [task.prompts(split) for split in task.splits]
        values = [{tuple(sorted(hand.values)) for hand in hands} for hands in prompts]
        groups = [{hand.group for hand in hands} for hands in prompts]  # what others split by
        assert [len(part) for part in groups] == [len(part) for part in values]
        for parts in (values, groups):
            assert all(parts) and sum(map(len, parts)) == len(set.union(*parts))
    sizes = [len({hand for hand, _ in lite.problems(split)}) for split in lite.splits]
    assert all(abs(a - b) <= 5 for a, b in zip(sizes, (140, 30, 50, 235), strict=True)), sizes


# --- the expert, and the JSON form ----------------------------------------------------------------


def test_every_expert_solution_is_right_in_both_forms(lite, classic):
    rng = random.Random(2)
    problems = [problem for split in lite.splits for problem in lite.problems(split)]
    problems += rng.sample(classic.problems("train") + classic.problems("ood_rule"), 15)
    for values, target in problems:
        for steps in solutions(values)[target]:
            hand = make_hand(rng.sample(values, len(values)), target)  # shown in any order
            text = " ".join(map(str, (*hand.values, *steps)))
            assert verify(text, hand).correct and right_steps(text, hand), text
            answer = to_json(text, hand)
            assert answer["cards"] == list(hand.cards) and answer["number"] == list(hand.values)
            assert verify_formula(answer["formula"], values, target).correct, answer
            assert right_formula(answer["formula"], values, target), answer
            assert verify(from_json(answer), hand).correct, answer


def test_json_spells_the_answer_as_the_original_does():
    hand = make_hand((10, 3, 1, 4), 24)
    text = "10 3 1 4 10 - 4 = 6 3 + 1 = 4 6 * 4 = 24"
    answer = {"cards": ["10", "3", "A", "4"], "number": [10, 3, 1, 4]}
    assert to_json(text, hand) == {**answer, "formula": "(10-4)*(3+1)=24"}
    assert from_json({**answer, "formula": "(10-4)*(3+1)"}) == text


def test_an_answer_without_the_other_form_is_refused():
    for text, fault in [
        ("", "syntax"),
        ("J 3 8 10 * 3 = 30 30 - 8 = 22", "illegal"),
        ("10 3 8", "left over"),
        ("10 3 8 10 * 3 = 30", "left over"),
        ("10 3 8 9 * 3 = 27 27 - 8 = 19", "9 is not at hand"),
    ]:
        with pytest.raises(ValueError, match=fault):
            to_json(text, make_hand((10, 3, 8), 22))
    answer = {"cards": ["3", "3", "8", "8"], "number": [3, 3, 8, 8]}
    with pytest.raises(ValueError, match="formula"):
        from_json(answer)
    # A fraction, a negative number, one above 99, a division by zero, and three unreadable ones.
    for formula in ("8/(3-8/3)", "3-8+3+8", "8*8*3+3", "8/(3-3)+8", "(3+3+8+8", "3+3+8\u00d78", ""):
        with pytest.raises(ValueError):
            from_json({**answer, "formula": formula})
    for formula in ("1234", "200-190"):  # nor may a number that a step takes be above 99
        with pytest.raises(ValueError, match="from 0 to 99"):
            from_json({**answer, "formula": formula})


# --- answers graded by hand -----------------------------------------------------------------------

HAND, RIGHT = make_hand((10, 3, 8), 22), "10 3 8 10 * 3 = 30 30 - 8 = 22"
FIVES = make_hand((5, 5, 8), 8)  # 5 - 5 gives a zero to divide by
STEP_ANSWERS = [
    ("correct", HAND, RIGHT),
    ("correct", HAND, "10 3 8 3 * 10 = 30 30 - 8 = 22"),
    ("correct", HAND, "\n 10 3 8\n10 * 3 = 30\n30 - 8 = 22 \n"),
    ("correct", FIVES, "5 5 8 5 / 5 = 1 1 * 8 = 8"),
    ("correct", FIVES, "5 5 8 5 - 5 = 0 0 + 8 = 8"),
    ("wrong_value", HAND, "10 3 8 10 + 3 = 13 13 + 8 = 21"),
    ("wrong_value", FIVES, "5 5 8 5 - 5 = 0 0 / 8 = 0"),
    ("wrong_arithmetic", HAND, "10 3 8 10 + 3 = 14 14 + 8 = 22"),
    ("wrong_arithmetic", HAND, "10 3 8 10 + 3 = 13 13 + 8 = 22"),
    ("wrong_arithmetic", HAND, "10 3 8 3 - 8 = 5 5 + 10 = 15"),
    ("wrong_arithmetic", HAND, "10 3 8 10 / 3 = 3 3 * 8 = 24"),  # no remainder is dropped
    ("wrong_arithmetic", FIVES, "5 5 8 5 - 5 = 0 8 / 0 = 8"),  # division by zero
    ("wrong_arithmetic", FIVES, "5 5 8 5 - 5 = 0 8 / 0 = 0"),
    ("misread", HAND, "3 8 10 10 * 3 = 30 30 - 8 = 22"),
    ("misread", HAND, "11 3 8 11 + 3 = 14 14 + 8 = 22"),
    ("misread", HAND, "22 22 22"),  # constants
    ("misread", HAND, "11 11 0 11 + 11 = 22 22 + 0 = 22"),
    ("wrong_number", HAND, "10 3 8 11 + 11 = 22 22 + 0 = 22"),
    ("wrong_number", HAND, "10 3 8 10 + 10 = 20 20 + 3 = 23"),  # 10 twice in one step
    ("wrong_number", HAND, "10 3 8 10 + 3 = 13 13 + 10 = 23"),  # ... and in two
    ("wrong_number", FIVES, "5 5 8 5 + 5 = 10 10 + 5 = 15"),  # the third 5 of two
    ("wrong_number", HAND, RIGHT + " 22 + 0 = 22"),
    ("unused_number", HAND, "10 3 8"),
    ("unused_number", make_hand((10, 3, 8), 30), "10 3 8 10 * 3 = 30"),
    ("syntax", HAND, ""),
    ("syntax", HAND, " \n\t "),
    ("syntax", HAND, "22"),
    ("syntax", HAND, "= 22"),
    ("syntax", HAND, "10 * 3 = 30 30 - 8 = 22"),
    ("syntax", HAND, "10 3 8 10 * 3 - 8 = 22"),
    ("syntax", HAND, "10 3 8 10 * 3 = 30 30 - 8 ="),
    ("syntax", HAND, RIGHT + " 22"),
    ("syntax", HAND, "10 3 8 - 10 = 30 30 - 8 = 22"),  # unary sign
    ("syntax", HAND, "10 3 8 10 = 3 = 30 30 - 8 = 22"),
    ("illegal", HAND, "= 24 ;"),
    ("illegal", HAND, "=22"),
    ("illegal", HAND, HAND.prompt),  # echo
    ("illegal", HAND, f"{HAND.prompt} {RIGHT}"),
    ("illegal", HAND, "J 3 8 10 * 3 = 30 30 - 8 = 22"),
    ("illegal", HAND, "10 3 8 ( 10 * 3 = 30 30 - 8 = 22"),  # unclosed bracket
    ("illegal", HAND, "10 3 8 3 - 8 = -5 -5 + 10 = 5"),
    ("illegal", HAND, "10 3 8 10 * 3 = +30 30 - 8 = 22"),
    ("illegal", HAND, "10 03 8 10 * 3 = 30 30 - 8 = 22"),
    ("illegal", HAND, "10 3 8 10 * 3 = 30 30 - 8 = 022"),
    ("illegal", FIVES, "5 5 8 5 - 5 = 00 0 + 8 = 8"),
    ("illegal", HAND, "10 3 8 10 * 3 = 30 30 - 8 = 22.0"),
    ("illegal", HAND, "10 3 8 10 * 3 = 3_0 30 - 8 = 22"),
    ("illegal", HAND, "\u0661\u0660 3 8 10 * 3 = 30 30 - 8 = 22"),  # Arabic-Indic 10
    ("illegal", HAND, "10 3 8 10 * \uff13 = 30 30 - 8 = 22"),  # fullwidth 3
    ("illegal", HAND, "10 3 8 10 * 3 = 30 30 - 8 = 2\u00b2"),  # superscript 2
    ("illegal", HAND, "10 3 8 10 \u00d7 3 = 30 30 \u2212 8 = 22"),
    ("illegal", HAND, "10 3 8 10 * 3 = " + "9" * 300),
    ("illegal", make_hand((10, 10, 50), 50), "10 10 50 10 * 10 = 100 100 - 50 = 50"),
    ("illegal", HAND, RIGHT + "\x00"),
    ("too_long", HAND, RIGHT + " " * 400),
    ("too_long", HAND, " ".join([RIGHT] * 20)),
]
FORMULAS = [  # for 4, 6, 1, 10 and the target 24
    ("correct", "10*(4-1)-6"),
    ("correct", " ( ( 10 ) ) * ( 4 - 1 )\n- 6 = 24 "),
    ("wrong_value", "10+4+6+1"),
    ("wrong_value", "10+4+6+1=24"),
    ("wrong_value", "10*(4-1)-6=25"),  # the formula is right, its claim is not
    ("wrong_value", "1/(10-6-4)"),  # division by zero
    ("wrong_value", "1/(10-6-4)=24"),
    ("wrong_number", "24"),  # constants
    ("wrong_number", "12+12=24"),
    ("wrong_number", "10+10+4+1"),  # 10 twice, no 6, not 24: three faults, one price
    ("wrong_number", "10*(4-1)-6*1"),
    ("wrong_number", "10*(4-1)-6+0"),
    ("wrong_number", "9999*4-6-1"),
    ("wrong_number", "24/(10-10)"),
    ("unused_number", "6*4"),
    ("unused_number", "6*4*1=24"),
    ("syntax", ""),
    ("syntax", " \n"),
    ("syntax", "=24"),
    ("syntax", "()"),
    ("syntax", "((((((((("),
    ("syntax", "10 4 6 1"),
    ("syntax", "10(4-1)-6"),
    ("syntax", "-6+10*(4-1)"),  # unary signs
    ("syntax", "+10*(4-1)-6"),
    ("syntax", "10*(4-1)-+6"),
    ("syntax", "10*(4-1)-"),
    ("syntax", "10**(4-1)-6"),
    ("syntax", "10//(4-1)-6"),
    ("syntax", "1 0*(4-1)-6"),
    ("syntax", "10*(4-1)-6="),
    ("syntax", "10*(4-1)-6==24"),
    ("syntax", "10*(4-1)-6=24=24"),
    ("syntax", "10*(4-1)-6=(24)"),
    ("syntax", "10*(4-1)-6=2 4"),
    ("unbalanced", "(10*(4-1)-6"),
    ("unbalanced", "(10*(4-1)-6=24"),  # the original pays this +1
    ("unbalanced", "10*(4-1)-6)"),
    ("unbalanced", "10*(4-1))-6("),
    ("unbalanced", ")("),
    ("illegal", "\u0661\u0660*(4-1)-6"),
    ("illegal", "10*(\uff14-1)-6"),
    ("illegal", "10*(4-1)-6\u00b2"),
    ("illegal", "10\u00d7(4\u22121)\u22126"),
    ("illegal", "10*(4-1)-6\u00a0"),
    ("illegal", "10*(4-A)-6"),
    ("illegal", "10.0*(4-1)-6"),
    ("illegal", "1e1*(4-1)-6"),
    ("illegal", "10*(4-1)-6;"),
    ("illegal", "010*(4-1)-6"),  # leading zeros
    ("illegal", "10*(04-1)-6"),
    ("illegal", "10*(4-1)-6=024"),
    ("illegal", "99999"),
    ("illegal", "9" * 300),
    ("illegal", "10 10 10 ; 24 : 4 6 A 10 |"),  # echo
    ("illegal", "__import__('os')"),
    ("too_long", "10*(4-1)-6" + " " * 400),
    ("too_long", "9" * 401),
]


def names(answers):
    return [f"{outcome}: {ascii(text)[:30]}" for outcome, *_, text in answers]


def test_every_outcome_has_an_answer_graded_by_hand_and_a_price():
    reached = {outcome for outcome, *_ in [*STEP_ANSWERS, *FORMULAS]}
    assert reached == set(OUTCOMES) - {"wrong_cards"}  # test_vision.py has that one
    assert SHAPED_REWARDS == PAID


@pytest.mark.parametrize(("outcome", "hand", "text"), STEP_ANSWERS, ids=names(STEP_ANSWERS))
def test_a_step_answer_pays_for_its_first_fault_only(outcome, hand, text, lite):
    right = outcome == "correct"
    assert verify(text, hand).outcome == outcome
    assert right_steps(text, hand) == right
    assert lite.reward(hand, text) == Reward(float(right), outcome, right)
    shaped = GeneralPoints(reward="shaped").reward(hand, text)
    assert shaped == Reward(PAID[outcome], outcome, right)


@pytest.mark.parametrize(("outcome", "text"), FORMULAS, ids=names(FORMULAS))
def test_a_formula_gets_the_name_of_its_first_fault_only(outcome, text):
    verdict = verify_formula(text, (4, 6, 1, 10), 24)
    assert (verdict.outcome, verdict.correct) == (outcome, outcome == "correct")
    assert right_formula(text, (4, 6, 1, 10), 24) == verdict.correct


def test_three_faults_are_paid_once(classic):
    # 10 twice, the 6 left over, 25 for 24: -2, where adding up would give -5.
    hand, answer = make_hand((4, 6, 1, 10), 24), "4 6 1 10 10 + 10 = 20 20 + 4 = 24 24 + 1 = 25"
    assert classic.reward(hand, answer) == Reward(0.0, "wrong_number", False)
    shaped = load_task("general_points_classic", reward="shaped")
    assert shaped.reward(hand, answer) == Reward(-2.0, "wrong_number", False)


@pytest.mark.parametrize(
    ("formula", "values", "value"),
    [
        ("10-4-3", (3, 4, 10), 3),
        ("10-(4-3)", (3, 4, 10), 9),
        ("12/3/2", (2, 3, 12), 2),
        ("12/3*2", (2, 3, 12), 8),
        ("2+3*4", (2, 3, 4), 14),
        ("(2+3)*4", (2, 3, 4), 20),
        ("2*3-4/8", (2, 3, 4, 8), Fraction(11, 2)),
        ("2-3", (2, 3), -1),
        ("2/(3-3)", (2, 3, 3), None),
    ],
)
def test_a_formula_is_worth_what_school_arithmetic_says(formula, values, value):
    assert verify_formula(formula, values, 99).value == value


# --- hostile text ---------------------------------------------------------------------------------


def assert_graded(text, hand):
    """Every reader names a verdict, "correct" exactly where another grader agrees."""
    formula = verify_formula(text, hand.values, hand.target)
    expert, draft = verify(text, hand), verify(text, hand, draft=True)
    assert {formula.outcome, expert.outcome, draft.outcome} <= PAID.keys(), ascii(text)
    right = [
        right_formula(text, hand.values, hand.target),
        right_steps(text, hand),
        right_steps(text, hand, draft=True),
    ]
    assert [formula.correct, expert.correct, draft.correct] == right, (ascii(text), hand.values)
    return any(right)


def redrafted(completion):
    """An expert's answer in the draft's order."""
    return re.sub(r"([-+*/]) (\d+) =", r"\2 \1 =", completion)


def damaged(words, rng, spare):
    """Up to two words of a right answer dropped, doubled, swapped or replaced."""
    words = list(words)
    for _ in range(rng.randrange(3)):
        i, j = rng.randrange(len(words)), rng.randrange(len(words))
        match rng.randrange(4):
            case 0 if len(words) > 1:
                del words[i]
            case 1:
                words.insert(i, words[j])
            case 2:
                words[i], words[j] = words[j], words[i]
            case _:
                words[i] = rng.choice(spare)
    return " ".join(words)


def test_100_000_random_strings_are_graded_and_only_right_ones_rewarded(lite):
    rng = random.Random(3)
    experts = []
    for demonstration in lite.demonstrations(200, seed=3):
        steps = demonstration.completion.split()
        draft = redrafted(demonstration.completion).split()
        formula = to_json(demonstration.completion, demonstration.example)["formula"]
        formula = re.findall(r"\d+|\D", formula)
        experts += [(demonstration.example, words) for words in (steps, draft, formula)]
    unlikely = "\u0661\u0660\uff13\u00b2\u00bd\u216b\u2212\u00d7\u00a0\u2028\u200b\x00\x1c\ud800"
    characters = [string.printable, "0123456789 =+-*/()", "0123456789 =+-*/()" + unlikely]
    rewarded = 0
    for i in range(100_000):
        hand, words = experts[i // 5 % len(experts)]
        match i % 5:
            case 0:
                text = damaged(words, rng, [*map(str, hand.values), *"+-*/=()", *unlikely])
            case 1:
                text = " ".join(rng.choices([*words, *"()"], k=rng.randrange(20)))
            case 2:
                text = rng.choice(["", " "]).join(rng.choices(WORDS, k=rng.randrange(20)))
            case 3:
                text = "".join(rng.choices(characters[i % 3], k=rng.choice([3, 30, 500])))
            case _:
                text = "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(9)))
        rewarded += assert_graded(text, hand)
    assert 4000 < rewarded < 16_000  # the damaged answers are a fair mix


NUMBERS = st.sampled_from(["10", "3", "8", "22", "30", "0", "99", "100"])
SIGNS = st.sampled_from("+-*/")
STEPS = st.tuples(NUMBERS, SIGNS, NUMBERS, st.just("="), NUMBERS).map(" ".join)
NESTED = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, SIGNS, inner).map("".join),
        st.tuples(st.just("("), inner, st.just(")")).map("".join),
    ),
    max_leaves=30,
)
HOSTILE = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*WORDS, "(", ")"]), max_size=40).map(" ".join),
    st.lists(st.sampled_from([*WORDS, "(", ")"]), max_size=40).map("".join),
    st.lists(STEPS, max_size=4).map(lambda steps: " ".join(["10 3 8", *steps])),
    st.tuples(NESTED, st.sampled_from(["", "=22", "=", ")", "(", "=22="])).map("".join),
)


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(HOSTILE)
@example("10*3-8=22")
@example("(" * 400)
def test_made_up_garbage_is_graded_and_only_right_answers_rewarded(text):
    assert_graded(text, HAND)


PIECES = ["9", "0", "(", ")", " ", "=", "\n1", "1+", "(1-", "\u0661", "a", RIGHT + " ", "10*3-8+"]


@pytest.mark.parametrize("piece", PIECES, ids=ascii)
def test_a_megabyte_is_answered_within_a_second(piece, lite):
    text = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    assert lite.reward(HAND, text).reason == "too_long"
    assert verify(text, HAND, draft=True).outcome == "too_long"
    assert verify_formula(text, HAND.values, HAND.target).outcome == "too_long"
    assert time.perf_counter() - start < 1


def test_deep_brackets_do_not_recurse(monkeypatch):
    monkeypatch.setattr(points_grader, "MAX_CHARACTERS", 10**6)  # or length alone would refuse
    deep = 20_000

    def outcome(text):
        return verify_formula(text, HAND.values, HAND.target).outcome

    assert outcome("(" * deep + "10*3-8" + ")" * deep) == "correct"
    assert outcome("(" * deep + "10*3-8" + ")" * (deep - 1)) == "unbalanced"
    assert outcome("10-(" * deep + "1" + ")" * deep) == "wrong_number"
    assert outcome("(" * deep) == "syntax"


# --- prompts and demonstrations -------------------------------------------------------------------


def assert_shown_honestly(hand, rule, split):
    shown = hand.prompt.split()
    assert shown == [*map(str, rule), ";", str(hand.target), ":", *hand.cards, "|"]
    assert (hand.rule, hand.split) == (rule, split)
    assert hand.values == tuple(worth(rule)[card] for card in hand.cards)


def test_prompts_show_the_problem_and_only_ood_rule_shows_another_rule(lite):
    for split in lite.splits:
        rule = OOD_RULE if split == "ood_rule" else ID_RULE
        hands = lite.prompts(split)
        for hand in hands:
            assert_shown_honestly(hand, rule, split)
        listed = [(tuple(sorted(hand.values)), hand.target) for hand in hands]
        assert sorted(listed) == sorted(lite.problems(split))  # each problem once
        assert len({hand.key for hand in hands}) == len(hands)
        assert all(hand.group == general_points.group_name(hand.values) for hand in hands)
        assert {card for hand in hands for card in hand.cards} == set(worth(rule))
    # Under the other rule every hand has a face card, or nothing would be new.
    assert all(set("JQK") & set(hand.cards) for hand in lite.prompts("ood_rule"))


def test_a_group_is_named_by_its_values_in_any_order():
    names = {general_points.group_name(order) for order in itertools.permutations((10, 3, 8))}
    assert names == {"3-8-10"}


def test_prompts_are_drawn_in_shuffled_passes(lite):
    size = len(lite.problems("validation"))
    keys = [hand.key for hand in lite.prompts("validation", 2 * size + 7)]
    passes = keys[:size], keys[size : 2 * size], keys[2 * size :]
    assert len(keys) == 2 * size + 7
    assert [len(set(part)) for part in passes] == [size, size, 7]
    assert passes[0] != passes[1] and passes[0] != sorted(passes[0])
    assert lite.prompts("validation", 0) == []
    assert lite.prompts("validation", 9, seed=1) == lite.prompts("validation", 9, seed=1)
    assert lite.prompts("validation", 9, seed=1) != lite.prompts("validation", 9, seed=2)


def test_demonstrations_are_right_and_from_training_multisets_under_the_id_rule(lite, classic):
    for task in (lite, classic):
        training = {values for values, _ in task.problems("train")}
        for demonstration in task.demonstrations(1500):
            hand, text = demonstration.example, demonstration.completion
            assert_shown_honestly(hand, ID_RULE, "train")
            assert tuple(sorted(hand.values)) in training
            assert verify(text, hand).correct and right_steps(text, hand), text
            assert len(text.split()) + 1 == task.max_new_tokens  # with end-of-text
            if task is lite:
                assert len((demonstration.prompt + " " + text).split()) + 1 <= 24
            assert set((demonstration.prompt + " " + text).split()) <= set(task.vocabulary())


def test_the_vocabulary_is_the_games_words_once_each(lite, classic):
    assert sorted(lite.vocabulary()) == sorted(classic.vocabulary()) == sorted(WORDS)


def test_demonstrations_follow_their_seed(lite):
    assert lite.demonstrations(50, seed=4) == GeneralPoints().demonstrations(50, seed=4)
    four, five = (lite.demonstrations(50, seed=seed) for seed in (4, 5))
    assert [d.example.key for d in four] != [d.example.key for d in five]
    answers = {}  # the expert has more than one way
    for seed in range(4):
        for demonstration in lite.demonstrations(900, seed=seed):
            steps = demonstration.completion.split(" ", 3)[3]
            answers.setdefault(demonstration.example.key, set()).add(steps)
    assert max(map(len, answers.values())) > 1


def test_draws_do_not_depend_on_the_hash_seed_of_the_process():
    program = (
        "from amft_lite.tasks.general_points import GeneralPoints, solve\n"
        "task = GeneralPoints()\n"
        "print(task.demonstrations(300), task.prompts('ood_rule', 30), solve((1, 2, 3, 4), 24))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1 and len(printed.pop()) > 10_000


def test_there_are_no_demonstrations_for_another_rule_or_for_pictures(lite):
    with pytest.raises(ValueError, match="ood_rule"):
        lite.demonstrations(1, split="ood_rule")
    for ask in (lite.prompts, lite.problems, lambda split: lite.demonstrations(1, split=split)):
        with pytest.raises(ValueError, match="ood_visual belongs to the game with pictures"):
            ask("ood_visual")
        with pytest.raises(ValueError, match="train, validation, test, ood_rule"):
            ask("tests")


def test_draft_order_and_expert_order_exclude_each_other(lite):
    draft = "10 3 8 10 3 * = 30 30 8 - = 22"
    assert verify(RIGHT, HAND).correct and verify(draft, HAND, draft=True).correct
    assert verify(draft, HAND).outcome == verify(RIGHT, HAND, draft=True).outcome == "syntax"
    for demonstration in lite.demonstrations(300):
        hand, expert = demonstration.example, demonstration.completion
        draft = redrafted(expert)
        assert verify(draft, hand, draft=True).correct and not verify(draft, hand).correct
        assert verify(expert, hand).correct and not verify(expert, hand, draft=True).correct
    # The order of the operands still matters.
    assert verify("10 3 8 10 3 * = 30 8 30 - = 22", HAND, draft=True).outcome == "wrong_arithmetic"


# --- the border -----------------------------------------------------------------------------------


def test_general_points_is_a_task(lite, classic):
    for name, task in (("general_points", lite), ("general_points_classic", classic)):
        assert isinstance(task, Task) and isinstance(task, GeneralPoints)
        assert task.name == name
        assert isinstance(task.prompts("test", 1)[0], Example)
        demonstration = task.demonstrations(1)[0]
        assert isinstance(demonstration, Demonstration)
        reward = task.reward(demonstration.example, demonstration.completion)
        assert reward == Reward(1.0, "correct", True)
    assert not isinstance(object(), Task)


def test_classic_has_four_cards_and_the_target_24_only(classic):
    assert classic.targets == (24,)
    for split in classic.splits:
        hands = classic.prompts(split)
        assert {(len(hand.cards), len(hand.values), hand.target) for hand in hands} == {(4, 4, 24)}


def test_a_wrong_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="general_points, general_points_classic"):
        load_task("general_pints")
    with pytest.raises(ValueError, match="lite or classic"):
        load_task("general_points", preset="heavy")
    with pytest.raises(ValueError, match="binary or shaped"):
        load_task("general_points", reward="dense")


HAND_21 = Hand("", "train", "3-8-10", "3-8-10>21", ("10", "3", "8"), (10, 3, 8), 21, (10, 10, 10))


@pytest.mark.parametrize("blank", ["\u00a0", "\u2028", "\u3000", "\x0b", "\x1c", "\x85"])
def test_only_ascii_blanks_part_words(blank):
    answer = "10 3 8 10 + 3 = 13 13 + 8 = 21"
    assert verify(answer.replace(" ", "\n"), HAND_21).correct
    assert verify(answer.replace(" ", blank), HAND_21).outcome == "illegal"


def test_a_false_step_has_no_formula():
    """10 + 3 = 14 would turn into (10+3)+8=21, which is right."""
    answer = "10 3 8 10 + 3 = 14 14 + 8 = 22"
    assert verify(answer, HAND_21).outcome == "wrong_arithmetic"
    with pytest.raises(ValueError, match="10 \\+ 3 = 14 is false"):
        to_json(answer, HAND_21)


@pytest.mark.parametrize(
    ("number", "formula"),
    [([10, 3, 8], "10*3-8=99"), ([10, 3, 8], "10*3-8=os.system"), (None, "10+3+8"), (5, "10+3+8"),
     (["x"], "10+3+8"), ([True, 3, 8], "1+3+8"), ([10, 3, 100], "10+3+8")],
)  # fmt: skip
def test_from_json_takes_nothing_on_trust(number, formula):
    with pytest.raises(ValueError):
        from_json({"cards": ["10", "3", "8"], "number": number, "formula": formula})
