"""The child process in which math-verify runs; started by `math_grader`, never imported by it.

A line in is a JSON list of [right answer, given answer] pairs of LaTeX; a line out is `equal`,
`unequal` or `stopped`. Every line is judged in a fork of its own, with limits on processor time,
wall time and memory that the kernel enforces: whatever sympy does with a hostile expression ends
there, no thread or signal handler of the training process is involved (math-verify's own time
limits need SIGALRM and the main thread), and no verdict depends on what was graded before.

Only math-verify's LaTeX reader is used: its other one hands text to Python's `eval`.

Left out: deciding what may be asked at all (`math_grader` does that first), and Windows.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys

CPU_SECONDS = 1.0
WALL_SECONDS = 5.0  # for a machine so busy that a second of processor time takes longer
MEMORY_BYTES = 2 << 30

WARM_UP = [
    [r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"],
    [r"x^{2}+2x+1", r"(x+1)^{2}"],
    [r"(-\infty,3]\cup[4,5)", r"[4,5)\cup(-\infty,3]"],
    [r"2\pi r", r"\pi r\cdot2"],
]
VERDICTS = {0: "equal", 1: "unequal"}


def all_equal(pairs: list[list[str]]) -> bool:
    """Whether math-verify takes every given answer for the right one of its pair."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=-1)]

    def read(latex: str):
        return parse(
            f"${latex}$",  # without dollars math-verify reads most LaTeX as nothing
            extraction_config=config,
            extraction_mode="first_match",
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )

    for right, given in pairs:
        gold, answer = read(right), read(given)
        if not gold or not answer or not verify(gold, answer, timeout_seconds=None):
            return False
    return True


def judge(pairs: list[list[str]]) -> None:
    """In the fork: leave with the verdict as exit status, or be ended by a limit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the parent reads verdicts here, nothing else
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # their signals end the process, no matter
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)  # where it is; no handler is installed
    try:
        status = 0 if all_equal(pairs) else 1
    except BaseException:  # what cannot be read (RecursionError and MemoryError too) is not equal
        status = 1
    os._exit(status)


def main() -> None:
    """Answer lines until the input closes."""
    logging.disable(logging.CRITICAL)
    all_equal(WARM_UP)  # imports and parser tables, once for all forks: 0.1 s an answer otherwise
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; a closed pipe ends us
    with contextlib.suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            judge(json.loads(line))
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)  # negative: ended by a signal
        print(VERDICTS.get(code, "stopped"), flush=True)


if __name__ == "__main__":
    main()
