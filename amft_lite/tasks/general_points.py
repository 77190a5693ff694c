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

With `vision` the cards are pictures (`amft_lite.tasks.cards`), black suits, and the prompt has
``<card>`` in their place; the answer names them first: ``J 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22``
The split `ood_visual` shows red suits, never trained on.

With `tries` above 1 the game is a dialogue: after a wrong answer a verifier says what was wrong and
asks again (`amft_lite.tasks.points_dialogue`; the original has five tries). By default an answer is
graded once, and evaluation reports attempts@5 without feedback.

Left out: the verifier in the game with pictures.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

from amft_lite.tasks import Completion, Demonstration, Reward, Sight, in_passes, one_of
from amft_lite.tasks.cards import HEIGHT, RANKS, WIDTH
from amft_lite.tasks.points_dialogue import FEEDBACK, Game, played
from amft_lite.tasks.points_grader import (
    OUTCOMES,
    SHAPED_REWARDS,
    Hand,
    PictureHand,
    Verdict,
    cards_read,
    from_json,
    parse,
    to_json,
    verify,
    verify_formula,
)
from amft_lite.tasks.points_solver import LIMIT, OPERATORS, Step, next_steps, solutions, solve

__all__ = [
    "FACES",
    "ID_RULE",
    "LIMIT",
    "OOD_RULE",
    "OPERATORS",
    "OUTCOMES",
    "RANKS",
    "SEPARATORS",
    "SHAPED_REWARDS",
    "GeneralPoints",
    "Hand",
    "PictureHand",
    "Step",
    "Verdict",
    "card_values",
    "from_json",
    "group_name",
    "instruction",
    "next_steps",
    "parse",
    "prompt_text",
    "solutions",
    "solve",
    "to_json",
    "verify",
    "verify_formula",
]

PICTURE = "<card>"  #: the word whose place in a prompt a card's picture takes
FACES = ("J", "Q", "K")
BLACK_SUITS, RED_SUITS = ("S", "C"), ("H", "D")
SEPARATORS = ("=", ";", ":", "|")
ID_RULE = (10, 10, 10)
OOD_RULE = (11, 12, 13)


def card_values(cards: Sequence[str], rule: tuple[int, int, int]) -> tuple[int, ...]:
    """What `cards` are worth when J, Q, K are worth `rule`."""
    worth = {"A": 1, **dict(zip(FACES, rule, strict=True))}
    return tuple(worth[card] if card in worth else int(card) for card in cards)


def prompt_text(cards: Sequence[str], target: int, rule: tuple[int, int, int]) -> str:
    """``10 10 10 ; 24 : J 3 8 |``."""
    return f"{rule[0]} {rule[1]} {rule[2]} ; {target} : {' '.join(cards)} |"


def picture_hand(facts: dict[str, Any], suits: Sequence[str], view: int) -> PictureHand:
    """The hand with its cards shown instead of written."""
    prompt = prompt_text([PICTURE] * len(facts["cards"]), facts["target"], facts["rule"])
    return PictureHand(**facts | {"prompt": prompt}, suits=tuple(suits), view=view)


def instruction(hand: Hand) -> str:
    """The game and our form of an answer in words, for models that were not raised on its prompts;
    the prompt itself, without its pictures' places, comes last.

    As in the original, the rule for J, Q and K is told; its answers are JSON (`to_json`), ours
    spell the arithmetic out.
    """
    j, q, k = hand.rule
    where = "in the picture" if isinstance(hand, PictureHand) else "below"
    form = f"J 3 8 | {j} 3 8 | " if isinstance(hand, PictureHand) else f"{j} 3 8 "
    parts = "the cards from left to right, their values" if "|" in form else "their values"
    asked = " ".join(hand.prompt.replace(PICTURE, " ").split())
    return (
        f"There are {len(hand.cards)} playing cards {where}. J counts {j}, Q counts {q}, K counts "
        f"{k}, A counts 1, any other card its number. Use the value of every card exactly once, "
        f"and + - * / as you need them, to make {hand.target}; every result on the way must be a "
        f"whole number from 0 to {LIMIT}. Answer with one line and nothing else: {parts}, then the "
        f"steps. For the cards J 3 8 and the number {3 * j - 8} that is: "
        f"{form}{j} * 3 = {3 * j} {3 * j} - 8 = {3 * j - 8}\n{asked}"
    )


def group_name(values: Iterable[int]) -> str:
    """The name of a value multiset: ``3-8-10``."""
    return "-".join(map(str, sorted(values)))


def _shuffled(groups: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A fixed order that depends on nothing but the values (the same on every machine)."""
    return sorted(groups, key=lambda g: hashlib.sha256(group_name(g).encode()).hexdigest())


class GeneralPoints:
    """The task. `preset="lite"`: three cards, targets 10..50; `"classic"`: four cards, 24.

    With `vision` the cards are pictures. With `tries` above 1 it is a dialogue: it has `episode`.
    """

    splits = ("train", "validation", "test", "ood_rule")
    groups = "value multisets"
    _shares = (0.64, 0.14)  # of the multisets: train, validation; the rest is test

    def __init__(
        self, preset: str = "lite", reward: str = "binary", wrong_demonstrations: float = 0.0,
        vision: bool = False, tries: int = 1,
    ) -> None:  # fmt: skip
        one_of("preset", preset, "lite", "classic")
        one_of("reward", reward, "binary", "shaped")
        if tries < 1:
            raise ValueError(f"tries must be at least 1, not {tries}")
        if vision and tries > 1:
            raise ValueError("General Points with pictures has one try, no feedback between tries")
        self.name = "general_points" + "_classic" * (preset == "classic") + "_vision" * vision
        self.vision = vision
        self.cards = 3 if preset == "lite" else 4
        self.targets = tuple(range(10, 51)) if preset == "lite" else (24,)
        self.reward_kind = reward
        self.wrong_demonstrations = wrong_demonstrations
        self.max_new_tokens = self.cards + 5 * (self.cards - 1) + 1
        self._problems = self._split_problems()
        if vision:
            self.splits = (*self.splits, "ood_visual")
            self.sight = Sight(PICTURE, HEIGHT, WIDTH)
            self.readings = {"cards read right": cards_read}
            self.max_new_tokens += self.cards + 2
            self._problems["ood_visual"] = self._problems["test"]
        self.tries = tries
        if tries > 1:
            reply = 9 + self.cards  # number, outcome and the question
            self.max_episode_tokens = tries * self.max_new_tokens + (tries - 1) * reply
            self.new_words = FEEDBACK
            self.readings = {"right at the first try": self._right_at_once}
            self.episode = self._begin  # what makes a task a dialogue

    def _begin(self, example: Hand, to_the_end: bool = False) -> Game:
        """A game with a verifier; it has no other end where it is measured."""
        return Game(example, self.tries, self.reward_kind == "shaped")

    def _right_at_once(self, example: Hand, answers: Completion) -> bool:
        return played(example, answers, 1).won

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
        if split == "ood_visual" and not self.vision:
            raise ValueError("the split ood_visual belongs to the game with pictures")
        if split not in self._problems:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        return self._problems[split]

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Hand]:
        """Every problem once, or `n` in shuffled passes; card order and ranks are drawn anew."""
        problems = self.problems(split)
        rng = random.Random(f"{self.name}/{split}/{seed}")
        drawn = in_passes(problems, len(problems) if n is None else n, rng)
        return [self._deal(*problem, split, rng) for problem in drawn]

    def _deal(self, values: tuple[int, ...], target: int, split: str, rng: random.Random) -> Hand:
        rule = OOD_RULE if split == "ood_rule" else ID_RULE
        shown = {worth: [] for worth in values}
        for rank, worth in zip(RANKS, card_values(RANKS, rule), strict=True):
            if worth in shown:
                shown[worth].append(rank)
        order = list(values)
        rng.shuffle(order)
        cards = tuple(rng.choice(shown[worth]) for worth in order)
        facts = {
            "prompt": prompt_text(cards, target, rule),
            "split": split,
            "group": group_name(values),
            "key": f"{group_name(values)}>{target}",
            "cards": cards,
            "values": tuple(order),
            "target": target,
            "rule": rule,
        }
        if not self.vision:
            return Hand(**facts)
        suits = RED_SUITS if split == "ood_visual" else BLACK_SUITS
        return picture_hand(facts, [rng.choice(suits) for _ in cards], rng.getrandbits(32))

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """`n` expert answers under the ID rule: a random solution of each of `n` examples.

        With `wrong_demonstrations` that share of training experts makes another number than the
        prompt's target; every step of theirs is right arithmetic.

        Raises:
            ValueError: `split` is not under the ID rule (there are no experts for another rule).
        """
        if split == "ood_rule":
            raise ValueError("demonstrations exist under the training rule only, not for ood_rule")
        rng = random.Random(f"{self.name}/expert/{split}/{seed}")
        number_wrong = round(self.wrong_demonstrations * n) if split == "train" else 0
        wrong = set(random.Random(f"{self.name}/wrong/{seed}").sample(range(n), number_wrong))
        demonstrations = []
        hands = self.prompts(split, n, seed=seed + 1_000_003)  # not the RL prompts' order
        for place, hand in enumerate(hands):
            found = solutions(tuple(sorted(hand.values)))
            target = hand.target
            if place in wrong:
                target = rng.choice(sorted(set(found) - {hand.target}))
            text = self.answer(hand, rng.choice(found[target]))
            demonstrations.append(Demonstration(hand, text, place not in wrong))
        return demonstrations

    def answer(self, hand: Hand, steps: Iterable[Step | str]) -> str:
        """The answer that reads these `cards` and `values` right and takes these steps."""
        values, steps = " ".join(map(str, hand.values)), " ".join(map(str, steps))
        if self.vision:
            return f"{' '.join(hand.cards)} | {values} | {steps}"
        return f"{values} {steps}"

    def reward(self, example: Hand, completion: Completion) -> Reward:
        """1 or 0 (Eq. 1 of the paper, second-hand notes), or the original game's table.

        With `tries` above 1 of all answers of a game; one text is one answer.
        """
        if self.tries > 1:
            return played(example, completion, self.tries, self.reward_kind == "shaped").reward
        verdict = verify(completion, example)
        shaped = self.reward_kind == "shaped"
        value = SHAPED_REWARDS[verdict.outcome] if shaped else float(verdict.correct)
        return Reward(value, verdict.outcome, verdict.correct)

    def vocabulary(self) -> list[str]:
        """Numbers 0..99 (cards 2..10 are numbers), A J Q K, operators, separators, feedback."""
        words = [*map(str, range(LIMIT + 1)), "A", *FACES, *OPERATORS, *SEPARATORS]
        words += FEEDBACK if self.tries > 1 else ()
        return [*words, PICTURE] if self.vision else words
