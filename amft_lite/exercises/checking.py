"""How a learner's function is judged: against the definition, then against known mistakes.

An exercise has a reference, a few inputs, and *mistakes*: functions that are wrong in one known way
each, with the sentence that names it. What is compared is the value and, where the exercise says
so, the gradient. A function that differs from the reference but agrees with a mistake everywhere
gets that mistake's sentence; any other gets the first input at which it differs.

Left out: limits on time and memory (the learner runs her own code; graders use a container).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class WrongAnswer(AssertionError):
    """What a graded cell raises. Notebooks show its sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [str(self)]


@dataclass(frozen=True)
class Result:
    """The answer of `check`. `kind` is "right", "stub", or the mistake's short name."""

    name: str
    passed: bool
    kind: str
    message: str

    def require(self) -> Result:
        """Itself if passed; for graded cells.

        Raises:
            NotImplementedError: the function is not written yet.
            WrongAnswer: it is wrong; the text says how.
        """
        if self.kind == "stub":
            raise NotImplementedError(self.message)
        if not self.passed:
            raise WrongAnswer(str(self))
        return self

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.name}: {self.message}"

    __repr__ = __str__


@dataclass(frozen=True)
class Mistake:
    """One way to be wrong: a short name, the sentence for the learner, and the wrong function."""

    kind: str
    message: str
    twin: Callable


@dataclass(frozen=True)
class Exercise:
    """`cases` are tuples of positional arguments; `gradients` names the places (0, 1, ...) of the
    tensor arguments with respect to which gradients are compared as well. `fallback` replaces the
    sentence with numbers where those would say nothing (or too much)."""

    name: str
    reference: Callable
    cases: Sequence[tuple]
    mistakes: Sequence[Mistake]
    gradients: tuple[int, ...] = ()
    fallback: str = ""


#: Largest difference between right answers, relative to the size of the numbers compared.
TOLERANCE = 1e-5


class Unusable(Exception):
    """The function did not give something that can be compared; (kind, message)."""


def _numbers(output: Any) -> list[Tensor]:
    """The output as tensors: a number, a bool, a text, a tensor, an array, or several of them."""
    if isinstance(output, tuple | list):
        parts = [t for part in output for t in _numbers(part)]
        scalars = parts and all(t.dim() == 0 for t in parts)
        return [torch.stack(parts)] if scalars else parts
    if isinstance(output, dict):
        return [t for key in sorted(output) for t in _numbers([str(key), output[key]])]
    if isinstance(output, str):  # texts are only equal or not
        return [torch.tensor(zlib.crc32(output.encode()), dtype=torch.float64)]
    if output is None:
        raise Unusable("no result", "the function returned None; does it end in `return ...`?")
    try:
        numbers = torch.as_tensor(output)
    except (TypeError, ValueError, RuntimeError):
        numbers = None
    if numbers is None or numbers.is_complex():
        kind = type(output).__name__
        raise Unusable("no number", f"the function returned a {kind}, not real numbers")
    return [numbers.to(torch.float64)]


def _copied(x: Any) -> Any:
    """Tensors and plain containers anew; two cases may share one list."""
    if isinstance(x, Tensor):
        return x.clone()
    if type(x) in (list, tuple):
        return type(x)(_copied(part) for part in x)
    return {key: _copied(part) for key, part in x.items()} if type(x) is dict else x


def _unchanged(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor) or isinstance(new, Tensor):
        both = isinstance(old, Tensor) and isinstance(new, Tensor)
        return both and torch.equal(old.nan_to_num(), new.detach().nan_to_num())
    if type(old) in (list, tuple, dict):
        if type(new) is not type(old) or len(new) != len(old):
            return False
        if type(old) is dict:
            return list(old) == list(new) and all(_unchanged(old[key], new[key]) for key in old)
        return all(map(_unchanged, old, new))
    return old is new or bool(old == new)


def observe(fn: Callable, case: tuple, gradients: tuple[int, ...]) -> tuple[list, list]:
    """Values and gradients of `fn` on one case. Arguments are copies, checked to be unchanged.

    Raises:
        Unusable: nothing comparable came back.
        NotImplementedError: the function is a stub.
    """
    given = _copied(list(case))
    for place in gradients:
        given[place].requires_grad_()
    try:
        values = _numbers(fn(*given))
    except (Unusable, NotImplementedError):
        raise
    except Exception as error:  # whatever a learner's function raises is part of the answer
        name, text = type(error).__name__, str(error).split("\n")[0]
        raise Unusable("raises", f"the function raised {name}: {text}") from None
    if not _unchanged(list(case), given):
        raise Unusable("changes its input", "the function changed its input in place; copy it")
    slopes: list[Tensor] = []
    if gradients:
        total = sum((v * _weights(v)).sum() for v in values)
        wanted = [given[place] for place in gradients]
        if isinstance(total, Tensor) and total.requires_grad:
            found = torch.autograd.grad(total, wanted, allow_unused=True)
        else:
            found = [None] * len(wanted)
        slopes = [
            torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)
        ]
    return [v.detach() for v in values], [s.detach().to(torch.float64) for s in slopes]


def _observations(twin: Callable, exercise: Exercise) -> list[tuple | None]:
    """What a known mistake gives on each case; None where it fails."""
    seen: list[tuple | None] = []
    for case in exercise.cases:
        try:
            seen.append(observe(twin, case, exercise.gradients))
        except Unusable:
            seen.append(None)
    return seen


def _weights(values: Tensor) -> Tensor:
    """Unequal weights, so that the gradient of every entry shows."""
    return torch.linspace(1.0, 2.0, values.numel(), dtype=torch.float64).view(values.shape)


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Equal shapes, and numbers equal relative to the largest of them (nan and inf included)."""
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return False
    for x, y in zip(a, b, strict=True):
        finite = y[y.isfinite()]
        scale = finite.abs().max().item() if finite.numel() else 1.0
        if not torch.allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True):
            return False
    return True


def short(tensors: Sequence[Tensor]) -> str:
    """A few numbers of a few tensors, for a message."""
    parts = []
    for t in tensors[:2]:
        numbers = [f"{x:.4g}" for x in t.flatten().tolist()]
        more = ", ..." if len(numbers) > 6 else ""
        shape = f" (shape {list(t.shape)})" if t.dim() else ""
        parts.append(", ".join(numbers[:6]) + more + shape)
    return "; ".join(parts)


def _inputs(case: tuple) -> str:
    return " | ".join(short([x]) if isinstance(x, Tensor) else repr(x)[:60] for x in case)


def judge(exercise: Exercise, fn: Callable) -> Result:
    """The verdict on `fn`; never raises."""

    def result(kind: str, message: str) -> Result:
        return Result(exercise.name, kind == "right", kind, message)

    if not callable(fn):
        return result("no function", f"give the function itself, not {type(fn).__name__}")
    if str(getattr(fn, "__module__", None)).split(".")[0] == "amft_lite":
        return result("borrowed", "this is the package's own function; write yours")
    wanted = [observe(exercise.reference, c, exercise.gradients) for c in exercise.cases]
    found = []
    try:
        for case in exercise.cases:
            found.append(observe(fn, case, exercise.gradients))
    except NotImplementedError:
        return result("stub", "not written yet")
    except Unusable as fault:
        # some mistakes show as an error or a shape that cannot be compared: ask them first
        kind, message = fault.args
        return result(kind, message)

    def agree(a: tuple, b: tuple) -> bool:
        return same(a[0], b[0]) and same(a[1], b[1])

    if all(agree(f, w) for f, w in zip(found, wanted, strict=True)):
        note = "value and gradient are right" if exercise.gradients else "right"
        return result("right", f"{note} on {len(exercise.cases)} inputs")
    twins = [(mistake, _observations(mistake.twin, exercise)) for mistake in exercise.mistakes]
    wrong = [n for n in range(len(found)) if not agree(found[n], wanted[n])]
    best, mistake = 0.0, None
    for candidate, twin in twins:
        hits = [n for n in wrong if twin[n] and agree(found[n], twin[n])]
        everywhere = all(t and agree(f, t) for f, t in zip(found, twin, strict=True))
        score = 2.0 if everywhere else len(hits) / len(wrong) * (wrong[0] in hits)
        if score > best:
            best, mistake = score, candidate
    # Half of the wrong inputs will do: an answer may differ from a known mistake on corner cases.
    if best >= 0.5:
        return result(mistake.kind, mistake.message)
    if all(not v.any() for values, _ in found for v in values):
        return result("zero", "the result is always 0; the formula is still missing")
    if exercise.fallback:
        return result("other", exercise.fallback)
    return result(*_first_difference(exercise, found, wanted))


def _first_difference(exercise: Exercise, found: list, wanted: list) -> tuple[str, str]:
    """Kind and sentence for a mistake that nobody foresaw."""
    for case, (values, slopes), (right, right_slopes) in zip(
        exercise.cases, found, wanted, strict=True
    ):
        if [v.shape for v in values] != [v.shape for v in right]:
            shapes = [" and ".join(str(list(v.shape)) for v in vs) for vs in (values, right)]
            return "shape", f"the result has shape {shapes[0]}; it should have {shapes[1]}"
        if not same(values, right):
            return "value", (
                f"for the inputs {_inputs(case)} the function gives {short(values)}; "
                f"the definition gives {short(right)}"
            )
        if not same(slopes, right_slopes):
            if not any(s.any() for s in slopes) and any(s.any() for s in right_slopes):
                return "no gradient", (
                    "the value is right but carries no gradient: stay with tensors "
                    "(no .item(), .numpy() or detach() on the way)"
                )
            return "gradient", (
                f"the value is right, the gradient is not: for the inputs {_inputs(case)} it is "
                f"{short(slopes)}; the definition's is {short(right_slopes)}"
            )
    raise AssertionError("nothing differs")
