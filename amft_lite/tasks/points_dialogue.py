"""General Points with a verifier that speaks: after a wrong answer it says why, and asks again.

As in the original (LeslieTrue/SFTvsRL, gym_cards: five graded answers), what was said stays, the
verifier's reason is added to it, and a right answer ends the game at once. A reply is the number
that was reached where there is one, the outcome in one word, and the question once more (ours: a
tiny model knows only how to go on from a question):

    22 wrong_value 10 10 10 ; 24 : J 3 8 |

The shipped base has never seen a second question. Its second answers are nearly all without form
at first, so that a short run learns the first answer and gains nothing by further ones.

Left out: which number or step was at fault, which the original names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amft_lite.tasks import Completion, Reward
from amft_lite.tasks.points_grader import SHAPED_REWARDS, Hand, Verdict, verify

#: What can be wrong with an answer in steps about written cards, each a word of the verifier's.
FEEDBACK = ("wrong_value", "wrong_arithmetic", "misread", "wrong_number", "unused_number", "syntax",
            "illegal", "too_long")  # fmt: skip


def feedback(verdict: Verdict, hand: Hand) -> str:
    """What the verifier says of an answer that was not right."""
    reached = "" if verdict.value is None else f"{verdict.value} "
    return f"{reached}{verdict.outcome} {hand.prompt}"


@dataclass
class Game:
    """A game in progress: `verdicts` has one for each answer so far."""

    hand: Hand
    tries: int
    shaped: bool = False
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.won or len(self.verdicts) == self.tries

    @property
    def won(self) -> bool:
        return bool(self.verdicts) and self.verdicts[-1].correct

    def answer(self, text: str) -> str | None:
        """Take an answer, any text; what the verifier says, None when the game is over.

        Raises:
            ValueError: it is over already.
        """
        if self.over:
            raise ValueError("this game is over")
        self.verdicts.append(verify(text, self.hand))
        return None if self.over else feedback(self.verdicts[-1], self.hand)

    @property
    def reward(self) -> Reward:
        """Won or not; shaped: the original's rewards of all answers, added.

        There an answer is a step of an episode, and one call after the last graded answer costs 1
        more. The reason is the last answer's outcome.
        """
        reason = self.verdicts[-1].outcome if self.verdicts else "unfinished"
        value = float(self.won)
        if self.shaped:
            paid = sum(SHAPED_REWARDS[verdict.outcome] for verdict in self.verdicts)
            value = paid - (self.over and not self.won)
        return Reward(value, reason, self.won)


def played(hand: Hand, answers: Completion, tries: int, shaped: bool = False) -> Game:
    """The game that these answers made; those after its end do not count. A text is one answer."""
    game = Game(hand, tries, shaped)
    for text in [answers] if isinstance(answers, str) else answers:
        if game.over:
            break
        game.answer(text)
    return game
