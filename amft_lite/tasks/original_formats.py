"""Files of the original environments, read as problems of ours; for people who have those files.

`read_routes`: V-IRL's ``route_infos.json``. Its form is that of the public program that writes it
and of a public example (VIRL-Platform/VIRL, tools/tasks/collect_benchmark/collect_vln_routes.py and
data/tourist): a list of routes and a number, or one route alone. Read of a route are

    start_place.relocated_geocode        [latitude, longitude]
    route_results.geocode_list           [latitude, longitude] of every crossing, the end included
    init_heading                         degrees; missing or 0: drawn, as in the original
    milestone_info                       a text with a block for each leg, of which are read
        "landmarks"                      "No landmark nearby", "NAME is on your SIDE", and of the
                                         last "The destination NAME is on your SIDE"
        "to_next_intersection_heading"   "298 (northwest)"

`read_points`: the demonstrations of General Points (SFTvsRL_Data, gp-l/data.json). The file itself
could not be seen; the form is that of a public program that reads it (XiaofengLin7/
debunking-sft-generalization, process_gp_l.py): a list of entries (or of lists of them), each with
`conversations`, of which the turn `from: gpt` holds as its `value` the answer, JSON or nearly so
(single quotes, a last comma). An answer alone, with its three keys, is an entry too.

Where routes differ from the original's: angles are wrapped, so that 350 to 10 degrees is a turn
slightly right (there: left); a landmark's name is one word, ``MoMA_Design_Store``; the points of a
leg are drawn once, not each time, and are at least one, where the original also asks for street
views near by. Where hands differ: formulas that leave the whole numbers 0..99 have no answer in
steps and are left out.

Left out: street views, and prompts in the originals' sentences.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amft_lite.tasks import Demonstration
from amft_lite.tasks.cards import RANKS
from amft_lite.tasks.city import COMPASS, SIDES, turn_word, wrapped
from amft_lite.tasks.general_points import (
    ID_RULE,
    OOD_RULE,
    card_values,
    group_name,
    prompt_text,
)
from amft_lite.tasks.navigation import Journey, Navigation, Stage, journey_of
from amft_lite.tasks.points_grader import Hand, from_json, verify_formula

#: Words of directions and answers, which a landmark must not be taken for.
TAKEN = {"forward", "stop", "turn", "go", "reach", "intersection", "see", "nothing", "wrong",
         "not_allowed", *COMPASS, *SIDES, "slightly_left", "slightly_right"}  # fmt: skip
MAX_LEGS, MAX_NAME = 50, 100  #: a longer name would leave an answer no room
FIELD = re.compile(r'^\s*"(\w+)":\s*"(.*)",?\s*$')
SIDE = re.compile(rf"(.+) is on your ({'|'.join(side.replace('_', ' ') for side in SIDES)})")


class _Fault(ValueError):
    """What is wrong with an entry; `_told` adds where."""


def load(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it cannot be read, is no JSON, or holds NaN or an infinite number.
    """

    def refuse(word: str) -> None:
        raise _Fault(f"it holds {word}, which is no number")

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except _Fault as fault:
        raise ValueError(f"{path}: {fault}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and huge integers too
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path} is not valid JSON{line}") from None


def _get(entry: Any, *keys: str) -> Any:
    """`entry[key][key]...`"""
    for place, key in enumerate(keys):
        if not isinstance(entry, dict) or key not in entry:
            raise _Fault(f"the field {'.'.join(keys[: place + 1])} is missing")
        entry = entry[key]
    return entry


# --- routes --------------------------------------------------------------------------------------


def read_routes(path: str | Path, split: str = "test", turns: str = "compass") -> list[Journey]:
    """The routes of a ``route_infos.json``, put into our words; `turns` is compass or relative.

    Raises:
        ValueError: the file, an entry or a field is not as it must be; all three are named.
    """
    content = load(path)
    if isinstance(content, list) and len(content) == 2 and isinstance(content[0], list):
        content = content[0]  # [routes, number of the last destination]
    entries = content if isinstance(content, list) else [content]
    if not entries:
        raise ValueError(f"{path} holds no route")
    return [_told(path, number, _journey, e, split, turns) for number, e in enumerate(entries)]


def _told(path: str | Path, number: int, read: Any, *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except _Fault as fault:
        raise ValueError(f"{path}, entry {number}: {fault}") from None


def _journey(entry: Any, split: str, turns: str) -> Journey:
    start = _place(_get(entry, "start_place", "relocated_geocode"), "start_place.relocated_geocode")
    where = "route_results.geocode_list"
    crossings = _get(entry, "route_results", "geocode_list")
    if not isinstance(crossings, list) or not 1 <= len(crossings) <= MAX_LEGS:
        raise _Fault(f"{where} must be a list of 1 to {MAX_LEGS} places")
    places = [start, *(_place(x, f"{where}[{number}]") for number, x in enumerate(crossings))]
    milestones = _milestones(_get(entry, "milestone_info"))
    if len(milestones) != len(crossings):
        raise _Fault(f"milestone_info has {len(milestones)} legs, {where} {len(crossings)}")
    name = "virl:" + "-".join(f"{latitude:.6f},{longitude:.6f}" for latitude, longitude in places)
    rng = random.Random(name)
    heading = entry.get("init_heading", 0)
    if type(heading) is not int or not 0 <= heading < 360:
        raise _Fault("init_heading must be a whole number from 0 to 359")
    heading = heading or rng.randrange(360)
    stages = []
    for number, (milestone, a, b) in enumerate(
        zip(milestones, places, places[1:], strict=False), 1
    ):
        after = milestone.heading
        # 0 is no turn; the original says "slightly left" then
        word = "slightly_left" if wrapped(after - heading) == 0 else turn_word(heading, after)
        if number == len(milestones) and not milestone.seen:
            raise _Fault("milestone_info: the last landmarks must name the destination")
        stages.append(Stage(word, milestone.compass, _points(a, b, rng), milestone.seen))
        heading = after
    return journey_of(stages, name, split, turns)


def _place(value: Any, field: str) -> tuple[float, float]:
    numbers = isinstance(value, list) and [type(x) in (int, float) for x in value] == [True] * 2
    if not numbers or not (abs(value[0]) <= 90 and abs(value[1]) <= 180):
        raise _Fault(f"{field} must be [latitude, longitude] in degrees")
    return float(value[0]), float(value[1])


def _points(a: tuple[float, float], b: tuple[float, float], rng: random.Random) -> int:
    """How many points lie on a leg: every fifth of it with probability 1/2, if more than 8 m from
    both ends (numbers of the original), at least one (ours)."""
    north = math.radians(b[0] - a[0])
    east = math.radians(b[1] - a[1]) * math.cos(math.radians((a[0] + b[0]) / 2))
    metres = 6_371_000 * math.hypot(north, east)
    kept = [rng.random() < 0.5 for _ in range(4)]
    far = [min(i, 5 - i) / 5 * metres > 8 for i in range(1, 5)]
    return max(1, sum(k and f for k, f in zip(kept, far, strict=True)))


@dataclass(frozen=True)
class _Milestone:
    seen: str
    heading: int
    compass: str


def _milestones(text: Any) -> list[_Milestone]:
    if not isinstance(text, str):
        raise _Fault("milestone_info must be text")
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        if line.strip() == "{":
            found.append({})
        elif (match := FIELD.match(line)) and found:
            found[-1][match[1]] = match[2]
    if len(found) > MAX_LEGS:
        raise _Fault(f"milestone_info has more than {MAX_LEGS} legs")
    return [_milestone(block, f"milestone_info, leg {n}") for n, block in enumerate(found, 1)]


def _milestone(block: dict[str, str], where: str) -> _Milestone:
    for key in ("landmarks", "to_next_intersection_heading"):
        if key not in block:
            raise _Fault(f"{where}: the field {key} is missing")
    said = block["to_next_intersection_heading"]
    match = re.fullmatch(r"([0-9]{1,3}) \((\w+)\)", said)
    heading = int(match[1]) if match else 360
    if heading >= 360 or match[2] != COMPASS[round(heading / 45) % 8]:
        raise _Fault(f"{where}: {said[:40]!r} is no heading such as '298 (northwest)'")
    said = block["landmarks"]
    if said == "No landmark nearby":
        return _Milestone("", heading, match[2])
    sight = SIDE.fullmatch(said)
    name = one_word(sight[1].removeprefix("The destination ")) if sight else ""
    if not 0 < len(name) <= MAX_NAME:
        raise _Fault(f"{where}: {said[:60]!r} does not say on which side which landmark is")
    return _Milestone(f"{name} {sight[2].replace(' ', '_')}", heading, match[2])


def one_word(name: str) -> str:
    """A landmark's name as one word: ``MoMA Design Store`` is ``MoMA_Design_Store``; a word of the
    task's own gets a last ``_``; what has no letters and digits is empty."""
    word = re.sub(r"[\W_]+", "_", name).strip("_")
    return f"{word}_" if word in TAKEN or word.isdigit() else word


class NavigationOnFile(Navigation):
    """Navigation on the routes of a file: `shares` of them are train, validation and test, in an
    order that is shuffled once; the rest, with left and right as actions, is ood_rule.

    Landmarks are words that no base of ours has; `new_words` lets a run add them, untrained.
    """

    splits = ("train", "validation", "test", "ood_rule")

    def __init__(
        self, routes: str | Path, shares: tuple[float, float, float] = (0.6, 0.1, 0.15),
        **options: Any,
    ) -> None:  # fmt: skip
        """Raises ValueError as `read_routes` does, where shares are none, and for `vision`."""
        if options.get("vision"):
            raise ValueError("routes on file have no map to draw pictures of; vision must be off")
        super().__init__(**options)
        if not (min(shares) >= 0 and sum(shares) <= 1 + 1e-9):
            raise ValueError(f"shares must be three, at least 0 and 1 together, not {shares}")
        found = list({journey.group: journey for journey in read_routes(routes)}.values())
        other = {journey.group: journey for journey in read_routes(routes, turns="relative")}
        random.Random("navigation/file").shuffle(found)
        ends = [round(sum(shares[:n]) * len(found)) for n in range(4)]
        parts = [found[a:b] for a, b in itertools.pairwise(ends)]
        parts.append([other[journey.group] for journey in found[ends[-1] :]])
        self._journeys = {
            split: [replace(journey, split=split) for journey in part]
            for split, part in zip(self.splits, parts, strict=True)
        }
        self._longest = max(len(journey.points) for journey in found)
        words = {word for journey in found for word in journey.prompt.split()}
        self.new_words = tuple(sorted(words - set(super().vocabulary())))

    @property
    def max_episode_tokens(self) -> int:
        return self._longest * self.tries * (self.max_new_tokens + 7)

    def journeys(self, split: str) -> list[Journey]:
        """Raises ValueError where the task has no such split, or no route in it."""
        if not self._journeys.get(split):
            having = ", ".join(name for name, found in self._journeys.items() if found)
            raise ValueError(f"no route of the file is in {split!r}; there are some in {having}")
        return self._journeys[split]

    def vocabulary(self) -> list[str]:
        return [*super().vocabulary(), *self.new_words]


# --- General Points ------------------------------------------------------------------------------


def read_points(path: str | Path, target: int = 24) -> tuple[list[Demonstration], int]:
    """The demonstrations of a file of answers with the keys cards, number and formula, and how many
    were left out because our steps cannot say them.

    The rule is read from the numbers: J, Q and K as 10, or as 11, 12 and 13.

    Raises:
        ValueError: the file, an entry or a field is not as it must be; all three are named.
    """
    content = load(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} must hold a list of answers")
    entries = [x for e in content for x in (e if isinstance(e, list) else [e])]
    read = [_told(path, number, _demonstration, e, target) for number, e in enumerate(entries)]
    return [d for d in read if d is not None], read.count(None)


def _demonstration(entry: Any, target: int) -> Demonstration | None:
    answer = _answer(entry)
    cards, numbers, formula = (_get(answer, key) for key in ("cards", "number", "formula"))
    if not isinstance(cards, list) or not 2 <= len(cards) <= 6:
        raise _Fault("cards must be a list of 2 to 6 cards")
    cards = [str(card) if type(card) is int else card for card in cards]
    if strange := [card for card in cards if card not in RANKS]:
        raise _Fault(f"cards: {str(strange[0])[:20]!r} is none of {' '.join(RANKS)}")
    rules = [rule for rule in (ID_RULE, OOD_RULE) if list(card_values(cards, rule)) == numbers]
    if not rules or any(type(number) is not int for number in numbers):
        raise _Fault("number must be what the cards count, J Q K as 10 10 10 or 11 12 13")
    if not isinstance(formula, str):
        raise _Fault("formula must be text")
    verdict = verify_formula(formula, numbers, target)
    if not verdict.correct:
        raise _Fault(f"formula: {formula[:60]!r} does not make {target} ({verdict.outcome})")
    rule, values = rules[0], tuple(numbers)
    hand = Hand(
        prompt_text(cards, target, rule), "train" if rule == ID_RULE else "ood_rule",
        group_name(values), f"{group_name(values)}>{target}", tuple(cards), values, target, rule,
    )  # fmt: skip
    try:
        steps = from_json({"cards": cards, "number": numbers, "formula": formula})
    except ValueError:
        return None  # on its way are fractions, or numbers below 0 or above 99
    return Demonstration(hand, steps)


def _answer(entry: Any) -> dict[str, Any]:
    """The answer of an entry: of its turn `from: gpt`, or the entry itself."""
    if not isinstance(entry, dict):
        raise _Fault("it must be an object")
    if "conversations" not in entry:
        return entry
    turns = entry["conversations"]
    said = [t for t in turns if isinstance(t, dict)] if isinstance(turns, list) else []
    said = [turn.get("value") for turn in said if turn.get("from") == "gpt"]
    if len(said) != 1 or not isinstance(said[0], str):
        raise _Fault("conversations must have one turn from gpt, with a text as its value")
    for read in _readings(said[0]):
        if isinstance(read, dict):
            return read
    raise _Fault("conversations: the answer is no JSON with cards, number and formula")


def _readings(text: str) -> Iterator[Any]:
    """The text as JSON, and as a Python literal: single quotes and a last comma are let pass."""
    for read in (json.loads, ast.literal_eval):
        try:
            yield read(text[:2000].strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
