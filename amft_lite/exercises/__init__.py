"""The course's exercises: `names()` lists them, `check(name, fn)` judges a function in place.

    >>> from amft_lite.exercises import check
    >>> check("multiplier", lambda mu: mu)
    ✗ multiplier: this is mu. Divide the whole loss by (1 - mu): what then stands before L_SFT?

Notebooks and the autograder use the same checks. They compare with the package's own functions
(`amft_lite.exercises.checking` says how), so whoever reads the package finds the answers: this is
a course, not an exam. `tests/exercises/` holds wrong and unusual right solutions of each, which
keep the checks honest.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from amft_lite.exercises import (
    controller,
    implicit_rewards,
    losses,
    navigation,
    reproduction,
    scaling,
    training,
    vision,
)
from amft_lite.exercises.checking import Exercise, Mistake, Result, WrongAnswer, judge

__all__ = ["Exercise", "Mistake", "Result", "WrongAnswer", "check", "exercises", "names"]

#: notebook -> its exercises, in order
COURSE: dict[str, tuple[Exercise, ...]] = {
    "01_implicit_rewards": implicit_rewards.EXERCISES,
    "02_sft_and_rl_losses": losses.EXERCISES,
    "03_meta_gradient_controller": controller.EXERCISES,
    "04_amft_run": training.EXERCISES,
    "05_reproduction": reproduction.EXERCISES,
    "06_general_points_vision": vision.EXERCISES,
    "07_navigation": navigation.EXERCISES,
    "08_scaling_up": scaling.EXERCISES,
}


def exercises() -> dict[str, Exercise]:
    """Every exercise by name."""
    return {exercise.name: exercise for part in COURSE.values() for exercise in part}


def names() -> list[str]:
    """The exercises' names, in the order of the notebooks."""
    return list(exercises())


def check(name: str, fn: Callable) -> Result:
    """Is `fn` a solution of the exercise `name`? Answers within a second; never raises for `fn`.

    Raises:
        ValueError: no exercise has that name.
    """
    known = exercises()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"no exercise is called {name!r}; {hint}")
    return judge(known[name], fn)
