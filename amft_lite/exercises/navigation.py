"""Checks of notebook 07: headings and sides, a walk's reward, its mask, and what walks measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amft_lite.exercises.checking import Exercise, Mistake
from amft_lite.tasks.city import SIDES, side_word, wrapped
from amft_lite.tasks.navigation import SHAPED_REWARDS

# --- turns ----------------------------------------------------------------------------------------


def turn_word(before: int, after: int) -> str:
    """The turn between two headings; half a circle is said to be right."""
    return _word(wrapped(after - before))


def _word(angle: float, slight: float = 45) -> str:
    side = "left" if angle < 0 else "right"
    return f"slightly_{side}" if abs(angle) <= slight else side


def _slight_if_below(before, after):
    angle = wrapped(after - before)
    return _word(angle, 44)


def _half_circle_left(before, after):
    angle = (after - before + 180) % 360 - 180
    return _word(angle)


def _half_wrapped(before, after):
    """Wrapped on one side only: from 350 to 10 it is right, from 10 to 350 it is not."""
    angle = after - before
    return _word(angle + 360 if angle < -180 else angle)


TURN_WORD = Exercise(
    "turn_word",
    turn_word,
    [
        (0, 90), (350, 10), (10, 350), (90, 0), (0, 45), (315, 0), (45, 0), (0, 50), (270, 45),
        (45, 270), (90, 270), (300, 20), (20, 300), (135, 90), (225, 0), (180, 170), (270, 90),
    ],
    [
        Mistake(
            "not wrapped",
            "from 350 to 10 degrees one turns 20 degrees to the right, not 340 to the left: bring "
            "the difference between -180 and 180 before you read it",
            lambda b, a: _word(a - b),
        ),
        Mistake(
            "wrapped on one side",
            "this is right over north one way round and wrong the other: both 350 to 10 and 10 to "
            "350 cross it",
            _half_wrapped,
        ),
        Mistake(
            "wrapped on the other side",
            "from 10 to 350 is handled, from 350 to 10 is not: differences below -180 need 360 "
            "more",
            lambda b, a: _word(a - b - 360 if a - b > 180 else a - b),
        ),
        Mistake(
            "always right",
            "after % 360 a difference is never negative, so no turn is a left one; from 180 up it "
            "is a turn to the left",
            lambda b, a: _word((a - b) % 360),
        ),
        Mistake(
            "mirrored",
            "left and right are exchanged: headings grow clockwise, so *after* minus *before* is "
            "positive to the right",
            lambda b, a: _word(wrapped(b - a)) if wrapped(b - a) != 180 else "right",
        ),
        Mistake(
            "never slight",
            "turns of up to 45 degrees are slightly_left and slightly_right",
            lambda b, a: _word(wrapped(a - b), -1),
        ),
        Mistake(
            "always slight",
            "only turns of up to 45 degrees are slight",
            lambda b, a: _word(wrapped(a - b), 360),
        ),
        Mistake(
            "below 45",
            "a turn of exactly 45 degrees is slight, too",
            _slight_if_below,
        ),
        Mistake(
            "up to 90",
            "a turn of 90 degrees is no slight one; 45 is the most",
            lambda b, a: _word(wrapped(a - b), 90),
        ),
        Mistake(
            "half a circle",
            "half a circle is said to be right: the range is (-180, 180], with 180 in it",
            _half_circle_left,
        ),
        Mistake(
            "size not wrapped",
            "the side is right, but whether the turn is slight is read from the difference before "
            "it was wrapped",
            lambda b, a: (
                ("slightly_" if abs(a - b) <= 45 else "")
                + ("left" if wrapped(a - b) < 0 else "right")
            ),
        ),
        Mistake(
            "before ignored",
            "this is read from the new heading alone; a turn is a *difference* of headings",
            lambda b, a: _word(wrapped(a)),
        ),
    ],
    fallback="not the word for every pair of headings. Try (350, 10): slightly_right; (90, 0): "
    "left; (0, 45): slightly_right",
)  # fmt: skip


# --- sides ----------------------------------------------------------------------------------------


def side_of(heading: int, bearing: int) -> str:
    """Where one who faces `heading` finds what lies at `bearing`."""
    return side_word(heading, bearing)


def _from_four(heading, bearing):
    return ("front", "right", "behind", "left")[(bearing - heading) % 360 // 90]


SIDE_OF = Exercise(
    "side_of",
    side_of,
    [
        (0, 90), (90, 0), (180, 90), (270, 45), (45, 315), (315, 0), (225, 45), (135, 135),
        (90, 225), (0, 315), (270, 135), (45, 180),
    ],
    [
        Mistake(
            "heading ignored",
            "this is where it lies on the map; for a walker it depends on where they face",
            lambda h, b: SIDES[b // 45],
        ),
        Mistake(
            "bearing ignored",
            "this is read from the heading alone",
            lambda h, b: SIDES[h // 45],
        ),
        Mistake(
            "mirrored",
            "left and right are exchanged: take the bearing *minus* the heading (both clockwise)",
            lambda h, b: side_word(b, h),
        ),
        Mistake(
            "added",
            "bearing and heading are added; what counts is how far clockwise it lies *from* where "
            "one faces",
            lambda h, b: SIDES[(h + b) % 360 // 45],
        ),
        Mistake(
            "front and behind exchanged",
            "this is what one sees looking back: front and behind are exchanged",
            lambda h, b: side_word((h + 180) % 360, b),
        ),
        Mistake(
            "not wrapped",
            "the difference is taken without its sign: 270 degrees clockwise is at the left, and "
            "so is -90",
            lambda h, b: SIDES[abs(b - h) // 45],
        ),
        Mistake(
            "shortest angle",
            "the smaller angle between the two says nothing of left and right",
            lambda h, b: SIDES[abs(wrapped(b - h)) // 45],
        ),
        Mistake(
            "four sides",
            "there are eight sides, one for each 45 degrees; between front and right lies "
            "right_front",
            _from_four,
        ),
        Mistake(
            "words of turns",
            "these are the words of turns; something *lies* front, right_front, right, "
            "right_behind, behind, left_behind, left or left_front",
            lambda h, b: _word(wrapped(b - h)),
        ),
        Mistake(
            "one step on",
            "every side is one eighth of a circle too far: a difference of 0 is front, the first "
            "in the list",
            lambda h, b: SIDES[((b - h) // 45 + 1) % 8],
        ),
    ],
    fallback="not the side for every pair. Who faces east (90) has the north (0) at the left; who "
    "faces 270 has 45 at right_behind",
)  # fmt: skip


# --- a walk's reward ------------------------------------------------------------------------------


def walk_reward(outcomes: Sequence[str], points: int, shaped: bool) -> float:
    """The reward of a walk with two tries a point, from the outcomes of its attempts."""
    return _rewarded(outcomes, points, shaped)


def _rewarded(
    outcomes: Sequence[str], points: int, shaped: bool, tries: int = 2, reset: bool = True,
    stops: bool = True, price: Callable[[str], float] = SHAPED_REWARDS.__getitem__,
    end: float = 1.0, binary: bool = False,
) -> float:  # fmt: skip
    """`walk_reward` with one thing changed: `reset` of the count of faults, `stops` at the end."""
    place, faults, total, lost = 0, 0, 0.0, False
    for outcome in outcomes:
        if stops and (lost or place == points):
            break
        total += price(outcome)
        if outcome == "right":
            place, faults = place + 1, faults * (not reset)
        else:
            faults += 1
            lost = lost or faults == tries
    arrived = place == points and not lost
    if binary or not shaped:
        return float(arrived)
    return total - end * (not arrived)


def _priced(outcomes, points, shaped, value):
    arrived = bool(_rewarded(outcomes, points, False))
    return value(arrived) if not shaped else _rewarded(outcomes, points, True)


def _only_rights_counted(outcomes, points, shaped):
    arrived = outcomes.count("right") >= points
    if not shaped:
        return float(arrived)
    return sum(SHAPED_REWARDS[o] for o in outcomes) - (not arrived)


R, W, N, S, P = "right", "wrong", "not_allowed", "syntax", "wrong_place"

WALK_REWARD = Exercise(
    "walk_reward",
    walk_reward,
    [
        (outcomes, points, shaped)
        for outcomes, points in (
            ([R, R, R], 3), ([R, W, R, R], 3), ([W, R, P, R, R], 3), ([R, W, W], 3),
            ([R, W, W, R, R], 3), ([R, R], 3), ([N, R, S, R, W, R], 3), ([R, P, P], 4),
            ([R, R, W, R], 4), ([W, R, R, W, N, R], 4), ([], 2), ([W, W, R, R], 2),
            ([R, R, R, W], 3),
        )
        for shaped in (False, True)
    ],
    [
        Mistake(
            "one try",
            "the first wrong attempt ends the walk here; there are two tries a point",
            lambda o, p, s: _rewarded(o, p, s, tries=1),
        ),
        Mistake(
            "three tries",
            "three wrong attempts at a point end the walk here; the second does",
            lambda o, p, s: _rewarded(o, p, s, tries=3),
        ),
        Mistake(
            "two faults in all",
            "faults are counted over the whole walk; after a right attempt the count begins anew",
            lambda o, p, s: _rewarded(o, p, s, reset=False),
        ),
        Mistake(
            "after the end",
            "attempts after the end of the walk are counted, too: once two tries at a point were "
            "wrong, or the last point was right, the walk is over",
            _only_rights_counted,
        ),
        Mistake(
            "end for free",
            "a walk that ends before its destination costs 1 more when rewards are shaped",
            lambda o, p, s: _rewarded(o, p, s, end=0.0),
        ),
        Mistake(
            "arrival costs",
            "1 is taken off from walks that arrive, too",
            lambda o, p, s: _rewarded(o, p, s) - (s and _rewarded(o, p, False)),
        ),
        Mistake(
            "arrival paid",
            "arriving is paid 1 besides, where not arriving should cost 1",
            lambda o, p, s: _rewarded(o, p, s, end=0.0) + (s and _rewarded(o, p, False)),
        ),
        Mistake(
            "same price",
            "every fault costs 1 here; a wrong action by one who is mistaken about the crossing "
            "(wrong_place) costs 1.5",
            lambda o, p, s: _rewarded(o, p, s, price=lambda x: 1.0 if x == R else -1.0),
        ),
        Mistake(
            "faults for free",
            "only right attempts count in this sum; faults have their price even when the next "
            "try is right",
            lambda o, p, s: _rewarded(o, p, s, price=lambda x: float(x == R)),
        ),
        Mistake(
            "share of points",
            "unshaped, a walk gets 1 or 0: whoever goes half the way has not arrived",
            lambda o, p, s: (
                _rewarded(o, p, True) if s
                else _rewarded(o, p, True, price=lambda x: float(x == R), end=0.0) / p
            ),
        ),
        Mistake(
            "arrival is not success",
            "without shaping, a walk that does not arrive gets 0, not -1",
            lambda o, p, s: _priced(o, p, s, lambda arrived: 1.0 if arrived else -1.0),
        ),
        Mistake(
            "never shaped",
            "`shaped` is not looked at: this is the reward of 0 and 1",
            lambda o, p, s: _rewarded(o, p, s, binary=True),
        ),
        Mistake(
            "always shaped",
            "`shaped` is not looked at: without it a walk gets 1 if it arrives and 0 if not",
            lambda o, p, s: _rewarded(o, p, True),
        ),
        Mistake(
            "last attempt",
            "a walk has not arrived because its last attempt was right: count the points passed",
            lambda o, p, s: float(bool(o) and o[-1] == R) if not s else _rewarded(o, p, True),
        ),
    ],
    fallback="not the walk's reward. [right, wrong, right] with 2 points: 1, shaped 1 - 1 + 1 = 1; "
    "[right, wrong, wrong] with 3 points: 0, shaped 1 - 1 - 1 - 1 = -2",
)  # fmt: skip


# --- what is learned from a dialogue --------------------------------------------------------------


def dialogue_tokens(turns: Sequence[tuple[str, list[int]]], eos: int) -> tuple[list, list]:
    """All that is said, as ids, and 1 where it is the policy's, end-of-text included."""
    return _laid(turns, eos)


def _laid(
    turns: Sequence[tuple[str, list[int]]], eos: int,
    ends: Callable[[str, int], bool] | None = None,
    learned: Callable[[str, int], bool] | None = None, end_learned: bool = True,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Whose turns end with end-of-text, and which are learned: functions of (who, place)."""
    ends = ends or (lambda who, place: who == "policy")
    learned = learned or (lambda who, place: who == "policy")
    ids: list[int] = []
    mask: list[int] = []
    for place, (who, said) in enumerate(turns):
        ids += said
        mask += [int(learned(who, place))] * len(said)
        if ends(who, place):
            ids.append(eos)
            mask.append(int(learned(who, place) and end_learned))
    return ids, mask


def _own(turns):
    return [place for place, (who, _) in enumerate(turns) if who == "policy"]


def _one_for_each_turn(turns, eos):
    ids, _ = _laid(turns, eos)
    return ids, [int(who == "policy") for who, _ in turns]


_TURNS = [
    [("policy", [5, 6, 7]), ("task", [8, 9]), ("policy", [5, 4]), ("task", [8]), ("policy", [6])],
    [("policy", [4])],
    [("policy", [4, 4, 5]), ("task", [9, 9, 9, 8]), ("policy", [7, 7])],
    [("policy", [6, 5]), ("task", [8, 8]), ("policy", []), ("task", [9]), ("policy", [3, 4])],
]

DIALOGUE_TOKENS = Exercise(
    "dialogue_tokens",
    dialogue_tokens,
    [(turns, 1) for turns in _TURNS],
    [
        Mistake(
            "no end-of-text",
            "answers lack their end-of-text: without it the policy never learns to stop and let "
            "the task speak",
            lambda t, e: _laid(t, e, ends=lambda who, place: False),
        ),
        Mistake(
            "end not learned",
            "end-of-text is there but has mask 0: ending an answer is the policy's own doing, so "
            "it is learned",
            lambda t, e: _laid(t, e, end_learned=False),
        ),
        Mistake(
            "everyone ends",
            "the task's turns end with end-of-text, too; only answers of the policy do",
            lambda t, e: _laid(t, e, ends=lambda who, place: True),
        ),
        Mistake(
            "one end",
            "end-of-text stands at the end of the dialogue only; each answer of the policy has one",
            lambda t, e: _laid(t, e, ends=lambda who, place: place == len(t) - 1),
        ),
        Mistake(
            "everything learned",
            "what the task said has mask 1: the policy would learn to speak for the task",
            lambda t, e: _laid(t, e, learned=lambda who, place: True),
        ),
        Mistake(
            "turned round",
            "the mask is 1 on what the task said, and 0 on what the policy said",
            lambda t, e: _laid(t, e, learned=lambda who, place: who != "policy"),
        ),
        Mistake(
            "first answer",
            "only the first answer is learned from; all of the policy's are",
            lambda t, e: _laid(t, e, learned=lambda who, place: place == _own(t)[0]),
        ),
        Mistake(
            "last answer",
            "only the last answer is learned from; all of the policy's are",
            lambda t, e: _laid(t, e, learned=lambda who, place: place == _own(t)[-1]),
        ),
        Mistake(
            "task left out",
            "the task's words are left out of the ids; they get mask 0, but the policy must read "
            "them",
            lambda t, e: _laid([turn for turn in t if turn[0] == "policy"], e),
        ),
        Mistake(
            "one for each turn",
            "the mask has a number for each turn; it needs one for each token",
            _one_for_each_turn,
        ),
    ],
    fallback="not ids and mask as they should be. [('policy', [5, 6]), ('task', [8])] with eos 1: "
    "[5, 6, 1, 8] and [1, 1, 1, 0]",
)


# --- first tries ----------------------------------------------------------------------------------


def first_tries(attempts: Sequence[tuple[int, bool]], kinds: Sequence[str], kind: str) -> float:
    """Of the points of one kind that were met, the share that was right at the first try."""
    first: dict[int, bool] = {}
    for point, right in attempts:
        if kinds[point] == kind:
            first.setdefault(point, right)
    return sum(first.values()) / len(first)


def _by_point(attempts, kinds, kind, pick, all_points=False):
    by: dict[int, list[bool]] = {}
    for point, right in attempts:
        if all_points or kinds[point] == kind:
            by.setdefault(point, []).append(right)
    return sum(pick(found) for found in by.values()) / len(by)


def _all_tries(attempts, kinds, kind):
    found = [right for point, right in attempts if kinds[point] == kind]
    return sum(found) / len(found)


def _first_firsts(attempts, kinds, kind, divide):
    first: dict[int, bool] = {}
    for point, right in attempts:
        first.setdefault(point, right)
    return sum(right for point, right in first.items() if kinds[point] == kind) / divide(first)


_WALKS = [
    ([(0, False), (0, True), (1, True), (2, True), (3, False), (3, False)], "tfftffs"),
    ([(0, True), (1, False), (1, True), (2, False), (2, True), (3, True)], "tfts"),
    ([(0, False), (0, False), (1, True), (2, False), (2, True), (3, True), (4, True), (5, True)],
     "tftfts"),
    ([(0, True), (1, True), (2, True), (3, False), (3, True), (4, False), (4, False)], "tffttffs"),
]  # fmt: skip
_KINDS = {"t": "turn", "f": "forward", "s": "stop"}

FIRST_TRIES = Exercise(
    "first_tries",
    first_tries,
    [
        (attempts, [_KINDS[letter] for letter in letters], kind)
        for attempts, letters in _WALKS
        for kind in ("turn", "forward")
    ],
    [
        Mistake(
            "all attempts",
            "second tries are counted as well; of each point only its first attempt counts",
            _all_tries,
        ),
        Mistake(
            "last attempt",
            "the *last* attempt at each point is taken; after feedback it is easier. Take the "
            "first",
            lambda a, ks, k: _by_point(a, ks, k, lambda found: found[-1]),
        ),
        Mistake(
            "rights over attempts",
            "first tries that were right are divided by the number of all attempts at such points; "
            "divide by the points met",
            lambda a, ks, k: _first_firsts(
                a, ks, k, lambda first: sum(ks[point] == k for point, _ in a)
            ),
        ),
        Mistake(
            "points never met",
            "points that were never met are in the denominator; divide by those that were asked",
            lambda a, ks, k: _first_firsts(a, ks, k, lambda first: ks.count(k)),
        ),
        Mistake(
            "all kinds",
            "points of every kind are counted, which forwards dominate; take those of `kind`",
            lambda a, ks, k: _by_point(a, ks, k, lambda found: found[0], all_points=True),
        ),
        Mistake(
            "share of all points",
            "divided by all points met; divide by those of this kind",
            lambda a, ks, k: _first_firsts(a, ks, k, len),
        ),
        Mistake(
            "first of all",
            "only the first attempt of the whole walk at such a point is looked at; take the first "
            "attempt at *each*",
            lambda a, ks, k: float(next(right for point, right in a if ks[point] == k)),
        ),
        Mistake(
            "a count",
            "this is how many were right, not their share",
            lambda a, ks, k: _first_firsts(a, ks, k, lambda first: 1),
        ),
        Mistake(
            "faults counted twice",
            "each wrong try is taken off, so a point that failed twice counts twice; look at the "
            "first attempt alone",
            lambda a, ks, k: 1 - sum(not r for p, r in a if ks[p] == k) / len(
                {p for p, _ in a if ks[p] == k}
            ),
        ),
        Mistake(
            "share wrong",
            "this is the share of first tries that were *wrong*",
            lambda a, ks, k: 1 - first_tries(a, ks, k),
        ),
    ],
    fallback="not the share of first tries. [(0, False), (0, True), (1, True)] with kinds turn, "
    "turn: .5",
)  # fmt: skip


# --- from steps to routes -------------------------------------------------------------------------


def route_success(step_accuracy: float, straight: int, turns: int, tries: int) -> float:
    """Share of routes that arrive if all that is not a turn is right and tries are independent."""
    return _turned(_turn_accuracy(step_accuracy, straight, turns), turns, tries)


def _turn_accuracy(accuracy, straight, turns):
    return (accuracy * (straight + turns) - straight) / turns


def _turned(p, turns, tries):
    return (1 - (1 - p) ** tries) ** turns


ROUTE_SUCCESS = Exercise(
    "route_success",
    route_success,
    [(0.9, 12, 3, 2), (0.9, 12, 3, 1), (0.85, 8, 2, 2), (0.8, 3, 1, 2), (0.92, 9, 2, 3)],
    [
        Mistake(
            "steps for turns",
            "step accuracy is taken for turn accuracy; but all straight steps are right, so every "
            "fault is at a turn: first find how often *turns* are right",
            lambda a, s, t, k: _turned(a, t, k),
        ),
        Mistake(
            "every step a turn",
            "every step is taken to fail as often as the others; here only turns fail",
            lambda a, s, t, k: (1 - (1 - a) ** k) ** (s + t),
        ),
        Mistake(
            "steps without tries",
            "this is step accuracy to the power of all steps: only turns fail here, and each point "
            "has several tries",
            lambda a, s, t, k: a ** (s + t),
        ),
        Mistake(
            "one try",
            "only first tries count here; a point is lost when *all* its tries are wrong",
            lambda a, s, t, k: _turned(_turn_accuracy(a, s, t), t, 1),
        ),
        Mistake(
            "all tries right",
            "this asks for every try to be right; one right try is enough",
            lambda a, s, t, k: _turn_accuracy(a, s, t) ** (k * t),
        ),
        Mistake(
            "tries multiplied",
            "the chance of a try is multiplied by their number, which may pass 1; all tries wrong "
            "has the chance (1 - p) ** tries",
            lambda a, s, t, k: (k * _turn_accuracy(a, s, t)) ** t,
        ),
        Mistake(
            "one turn",
            "this is the chance of passing one turn; a route has `turns` of them",
            lambda a, s, t, k: _turned(_turn_accuracy(a, s, t), 1, k),
        ),
        Mistake(
            "turns multiplied",
            "the chances of turns are multiplied by their number; all of them must go well, so "
            "take a power",
            lambda a, s, t, k: t * _turned(_turn_accuracy(a, s, t), 1, k),
        ),
        Mistake(
            "whole walks again",
            "this gives several tries to the whole route; each *point* has its own tries",
            lambda a, s, t, k: 1 - (1 - _turn_accuracy(a, s, t) ** t) ** k,
        ),
        Mistake(
            "faults over straight steps",
            "faults per straight step are taken for faults at turns: there are (1 - accuracy) * "
            "all steps of them, and `turns` places for them",
            lambda a, s, t, k: _turned(1 - (1 - a) * (s + t) / s, t, k),
        ),
        Mistake(
            "share of wrong routes",
            "this is the share of routes that fail",
            lambda a, s, t, k: 1 - _turned(_turn_accuracy(a, s, t), t, k),
        ),
        Mistake(
            "turn accuracy",
            "this is how often a turn is right at the first try; the route has several, with "
            "several tries each",
            lambda a, s, t, k: _turn_accuracy(a, s, t),
        ),
    ],
)

EXERCISES = (TURN_WORD, SIDE_OF, WALK_REWARD, DIALOGUE_TOKENS, FIRST_TRIES, ROUTE_SUCCESS)
