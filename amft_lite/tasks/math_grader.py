r"""Grading of written answers: the last ``\boxed{}`` of a text against the right answer.

Four graders: `integer` (digits only), `math` (below), `choice` (a letter), `exact` (the same text).

`math` decides by itself whatever has a plain form - the same LaTeX up to spelling, numbers by exact
value, letters, tuples and sets part by part - and asks math-verify only about what is left, such as
``\frac{\sqrt{3}}{2}`` for ``\frac{3}{2\sqrt{3}}``. math-verify alone would pay for ``\boxed{3+4}``
and ``\boxed{8=7}`` where 7 is right, so a reward made of it teaches to copy the question.

Text of a model is hostile: it is capped, filtered and never evaluated, and math-verify sees it only
in a child process with hard limits (`math_worker`: 1 s of processor time an answer).

Conventions: percent, degree and dollar signs are dropped (``10\%`` is 10, as in the MATH data set);
``1,000`` is 1000 except inside brackets; a fraction must be in lowest terms; a decimal is right
only for a number it equals exactly; `\boxed 7`, without braces, is no box.

Left out: units written as bare letters (``12 cm``), tolerance for rounding, answers outside a box,
looking only behind ``</think>``, and Windows (the limits are those of POSIX).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from amft_lite.tasks import Reward
from amft_lite.tasks.math_text import MAX_CHARACTERS, bare, last_box, normalise, number, parts_of

GRADERS = ("integer", "math", "choice", "exact")

#: Why an answer got its reward. The first two are right, all others wrong.
REASONS = (
    "correct",
    "equivalent",  # math-verify says so
    "no_box",
    "unclosed_box",
    "empty_box",
    "too_long",  # refused unread
    "wrong_value",
    "not_an_integer",
    "not_a_letter",
    "equation",  # x=7, or 8=7, where no equation was asked for
    "expression",  # 3+4 where a number was asked for
    "wrong_shape",  # a pair for a triple, a set for a tuple
    "refused",  # nothing math-verify may be asked about
    "unequal",  # math-verify says so
    "echo",  # equal, but copied from the question
    "stopped",  # math-verify hit a limit
)
MAX_DEPTH = 6  #: of brackets math-verify is asked about
MAX_PARTS = 30  #: of a tuple, set or matrix

_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")
_LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")


def check_grader(grader: str) -> None:
    """Refuse a grader that does not exist, or whose package is missing.

    Raises:
        ValueError: there is no such grader.
        ModuleNotFoundError: `math` without math-verify.
    """
    if grader not in GRADERS:
        raise ValueError(f"no grader is called {grader!r}; known graders: {', '.join(GRADERS)}")
    if grader == "math" and importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError(
            "the grader math needs math-verify; pip install 'amft-lite[maths]' brings it"
        )


def grade(completion: str, gold: str, grader: str = "math", question: str = "") -> Reward:
    """1 or 0 for the last box of `completion`, where `gold` is right; any text gets a verdict.

    `question`, if given, lets `math` refuse an equal expression that was copied from there.

    Raises:
        ValueError, ModuleNotFoundError: as in `check_grader`.
        RuntimeError: the process of math-verify cannot be started (never because of a text).
    """
    if grader not in GRADERS:
        check_grader(grader)
    answer, reason = last_box(completion)
    if reason:
        pass
    elif grader == "integer":
        reason = _integer(answer, gold)
    elif grader == "choice":
        reason = _choice(answer, gold)
    elif grader == "exact":
        reason = "correct" if answer.split() == gold.split() else "wrong_value"
    else:
        reason = _math(answer, gold, question)
    correct = reason in ("correct", "equivalent")
    return Reward(float(correct), reason, correct)


def gradable(gold: str, grader: str) -> bool:
    """Whether an answer that is exactly `gold`, in a box, would be right."""
    if grader == "math" and not normalise(gold):
        return False
    return grade(f"\\boxed{{{gold}}}", gold, grader).reason == "correct"


# --- graders of plain answers --------------------------------------------------------------------


def _integer(answer: str, gold: str) -> str:
    if not _INTEGER.fullmatch(answer):
        return "not_an_integer"
    right = gold.strip()
    if not _INTEGER.fullmatch(right) or len(right) > MAX_CHARACTERS:
        return "wrong_value"
    return "correct" if _whole(answer) == _whole(right) else "wrong_value"


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _choice(answer: str, gold: str) -> str:
    given, right = (_LETTER.fullmatch(bare(normalise(text))) for text in (answer, gold))
    if not given:
        return "not_a_letter"
    same = right and given.group(1).upper() == right.group(1).upper()
    return "correct" if same else "wrong_value"


# --- the grader math -----------------------------------------------------------------------------


def _math(answer: str, gold: str, question: str) -> str:
    given, right = normalise(answer), normalise(gold)
    if not given or not right:
        return "wrong_value"
    judged = _compare(right, given)
    if isinstance(judged, str):
        return judged
    if not judged:
        return "correct"
    verdict = _WORKER.ask(judged)
    if verdict != "equal":
        return verdict
    return "echo" if any(_copies(part, question) for _, part in judged) else "equivalent"


_LOOSE = re.compile(r"\\(?:cdot|times|left|right)|[(){}\[\]+* ]")


def _copies(part: str, question: str) -> bool:
    """Is the part a piece of the question, brackets and the order of its terms aside?"""
    asked, signs = _LOOSE.sub("", normalise(question)), sorted(_LOOSE.sub("", part))
    size = len(signs)
    places = range(len(asked) - size + 1) if size > 2 else ()
    return any(sorted(asked[k : k + size]) == signs for k in places)


def _compare(right: str, given: str) -> str | list[tuple[str, str]]:
    """The pairs only math-verify can judge (none: equal), or the name of the fault."""
    if bare(right) == bare(given):
        return []
    if re.fullmatch(r'"?\(?[A-Z]\)?"?', right):  # a choice, or a set called A
        letters = [re.sub(r'[()"]', "", text) for text in (right, given)]
        return [] if letters[0] == letters[1] else "wrong_value"
    if named := re.fullmatch(r"([a-zA-Z](?:\([a-z]\))?=)([^=]+)", right):  # gold x=7: 7 will do
        return _compare(named[2], given.removeprefix(named[1]))
    value = number(right, reduced=False)
    if value is not None:
        found = number(given)
        if found is None:
            return "equation" if "=" in given else "expression"
        return [] if found == value else "wrong_value"
    if "=" in right or "=" in given:
        return "equation"
    shape, parts = parts_of(right)
    if len(parts) == 1 and shape[0] != r"\{":
        return _question_for_worker(right, given)
    shape_given, parts_given = parts_of(given)
    if shape_given != shape or len(parts) > MAX_PARTS:
        return "wrong_shape"
    if shape[0] in ("", r"\{"):  # order is free: first take away the parts that have their like
        parts, parts_given = _unmatched(parts, parts_given)
    pairs = []
    for pair in zip(parts, parts_given, strict=True):
        judged = _compare(*pair)
        if isinstance(judged, str):
            return judged
        pairs += judged
    return pairs


def _unmatched(right: list[str], given: list[str]) -> tuple[list[str], list[str]]:
    """What is left of both lists, sorted, without the parts that are the same text or number."""
    left, rest = [], list(given)
    for part in right:
        like = next((g for g in rest if _compare_plain(part, g)), None)
        if like is None:
            left.append(part)
        else:
            rest.remove(like)
    return sorted(left), sorted(rest)


def _compare_plain(right: str, given: str) -> bool:
    value = number(right, reduced=False)
    return bare(right) == bare(given) or (value is not None and number(given) == value)


_SAFE = set(r"\frac \sqrt \pi \cdot \times \div \infty \cup \cap \pm \le \ge \{ \}".split())
_ALPHABET = re.compile(r"[0-9a-zA-Z+\-*/^(){}\[\]|<>.,\\ ]+")


def _question_for_worker(right: str, given: str) -> str | list[tuple[str, str]]:
    r"""The pair, if math-verify may see it.

    The answer may use no function (``\sin``, ``\sum``, ``\binom``) that the right answer lacks:
    computing it is what the question asks for. Nor a decimal point: math-verify takes 1.414214 for
    the square root of 2.
    """
    if not all(map(_harmless, (right, given))):
        return "refused"
    commands, known = (set(re.findall(r"\\(?:[a-zA-Z]+|.)", text)) for text in (given, right))
    if commands - known - _SAFE or ("." in given and "." not in right):
        return "refused"
    return [(right, given)]


def _harmless(text: str) -> bool:
    """Short, flat, of few characters, without words, long numbers, or powers of powers."""
    if len(text) > MAX_CHARACTERS or not _ALPHABET.fullmatch(text):
        return False
    words = re.sub(r"\\[a-zA-Z]+", " ", text)
    if re.search(r"[a-zA-Z]{3}|[0-9]{16}", words):  # math-verify reads "even" as e*v*e*n
        return False
    depth = deepest = 0
    exponents: list[int] = []  # depths at which an exponent is open
    above = ""  # what stands in exponents
    for place, character in enumerate(text):
        above += character if exponents else " "
        if character in "({[":
            depth += 1
            deepest = max(deepest, depth)
            if character == "{" and text[place - 1 : place] == "^":
                exponents.append(depth)
        elif character in ")}]":
            if exponents and exponents[-1] == depth:
                exponents.pop()
                if text[place + 1 : place + 2] == "^":
                    return False
            depth -= 1
        elif character == "^" and (exponents or text[place + 1 : place + 2] != "{"):
            return False
    digits = max((len(run) for run in re.findall("[0-9]+", above)), default=0)
    return depth == 0 and deepest <= MAX_DEPTH and digits <= 2


class _Worker:
    """math-verify in a process of its own, started when first asked; any thread may ask."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.owner = 0

    def ask(self, pairs: list[tuple[str, str]]) -> str:
        """equal, unequal or stopped.

        Raises:
            RuntimeError: the process does not run at all.
        """
        with self.lock:
            for _ in range(2):  # someone may have ended the first one
                if answer := self._try(json.dumps(pairs)):
                    return answer
                self.close()
        raise RuntimeError(
            f"the process of math-verify does not run; `{sys.executable} -c 'import math_verify'` "
            f"says why"
        )

    def _try(self, line: str) -> str:
        if self.process is None or self.owner != os.getpid():  # a pipe is not shared with a fork
            check_grader("math")
            self.owner = os.getpid()
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline().strip()
        except OSError:
            return ""
        except BaseException:  # Ctrl-C: the answer still to come would be taken for the next one's
            self.close()
            raise

    def close(self) -> None:
        """End the process; the next question starts another."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):  # what was not written before it died
                    pipe.close()
        self.process = None


_WORKER = _Worker()
atexit.register(_WORKER.close)
