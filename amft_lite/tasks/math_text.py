r"""Reading written answers: the last box, one spelling of LaTeX, plain numbers, parts of tuples.

Everything here is linear in the text or works on texts of at most 200 characters; nothing is
evaluated.

Left out: deciding whether an answer is right (`math_grader`).
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_CHARACTERS = 200  #: of an answer in its box

_BOX = r"\boxed{"


def last_box(text: str) -> tuple[str, str]:
    r"""(content of the last ``\boxed{}``, "") or ("", the fault's name); linear in the text."""
    start = text.rfind(_BOX)
    if start < 0:
        return "", "no_box"
    start += len(_BOX)
    depth, place = 1, start
    while place < len(text):
        if place - start > MAX_CHARACTERS:
            return "", "too_long"
        character = text[place]
        if character == "\\":
            place += 1  # an escaped brace is no brace
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                content = text[start:place].strip()
                return content, "" if content else "empty_box"
        place += 1
    return "", "unclosed_box"


# --- one spelling for what LaTeX can write in many ------------------------------------------------

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\S", re.DOTALL)
_DROPPED = {
    *r"\left \right \big \Big \bigl \bigr \Bigl \Bigr \displaystyle \quad \qquad \degree".split(),
    *[r"\,", r"\;", r"\:", r"\!", "\\ ", "\\\n", r"\%", r"\$", "%", "$", "~", "°"],
}
_RENAMED = {
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac"),
    **dict.fromkeys(
        r"\textbf \textit \textrm \mathrm \mathbf \mathit \mbox \operatorname".split(), r"\text"
    ),
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\leq": r"\le", r"\geq": r"\ge",
}  # fmt: skip


def normalise(text: str) -> str:
    r"""One spelling of an answer, without blanks, units and signs: ``\frac{1}{2}``, ``x^{2}``.

    Words (``\text{even}``) come out in double quotes.
    """
    tokens = [_RENAMED.get(t, t) for t in _TOKEN.findall(text) if t not in _DROPPED]
    parts = []
    for token in tokens:
        if token[0].isalpha() and parts and re.fullmatch(r"\\[a-zA-Z]+", parts[-1]):
            parts.append(" ")  # \pi r is not \pir
        parts.append(token)
    out = "".join(parts).replace('"', "").replace("{,}", ",")
    out = re.sub(r"\\text ?\{([^{}]*)\}", r'"\1"', out)
    out = re.sub(r"\^(?:\{\\circ\}|\\circ(?![a-z]))", "", out)
    out = re.sub(r"\\frac ?([0-9a-zA-Z])", r"\\frac{\1}", out)
    out = re.sub(r"(\\frac\{[^{}]*\})([0-9a-zA-Z])", r"\1{\2}", out)
    out = re.sub(r"\\sqrt ?([0-9a-zA-Z])", r"\\sqrt{\1}", out)
    out = re.sub(r"\^([0-9a-zA-Z])", r"^{\1}", out)
    out = re.sub(r'(?<=[0-9}])"[^"]*"(?:\^\{[0-9]\})?$', "", out)  # 12\text{ cm}^2
    return out.removesuffix(".")


def bare(text: str) -> str:
    """The text without the quotes around its words."""
    return text.replace('"', "")


_DECIMAL = r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
_PLAIN = re.compile(_DECIMAL)
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_POWER_OF_TEN = re.compile(
    _DECIMAL + r"(?:[eE]([+-]?[0-9]{1,3})|\\(?:times|cdot)10\^\{([+-]?[0-9]{1,3})\})"
)
_FRACTION = re.compile(r"([+-]?)(?:\\frac\{([+-]?[0-9]+)\}\{([0-9]+)\}|([0-9]+)/([0-9]+))")


def number(text: str, reduced: bool = True) -> Fraction | None:
    r"""The exact value of a normalised plain number, None for anything else.

    Plain: ``-12``, ``0.5``, ``1,000``, ``3e8``, ``3\times10^{8}``, a fraction (in lowest terms and
    not whole, if `reduced`: ``14/2`` may be the question).
    """
    if len(text) > MAX_CHARACTERS:
        return None
    if _PLAIN.fullmatch(text):
        return Fraction(text.removesuffix("."))
    if _THOUSANDS.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if match := _POWER_OF_TEN.fullmatch(text):
        power = int(match[2] or match[3])
        return Fraction(match[1].removesuffix(".")) * Fraction(10) ** power
    if match := _FRACTION.fullmatch(text):
        over, under = int(match[2] or match[4]), int(match[3] or match[5])
        if under == 0:
            return None
        value = Fraction(over, under)
        if reduced and (under == 1 or value.denominator != under):
            return None
        return -value if match[1] == "-" else value
    return None


_OPEN_CLOSE = {"(": ")", "[": "]", r"\{": r"\}"}
_MATRIX = re.compile(r"\\begin\{([a-zA-Z]*matrix)\}(.*)\\end\{\1\}", re.DOTALL)


def parts_of(text: str) -> tuple[tuple[str, ...], list[str]]:
    r"""((brackets and separators), [parts]) of a tuple, interval, set, list or matrix.

    One part: `text` is none of these, or a part of it is empty, as in ``(1,)``.
    """
    if not text:
        return ("whole",), [text]
    if matrix := _MATRIX.fullmatch(text):
        cells = re.split(r"(&|\\\\)", matrix[2])
        return ("matrix", *cells[1::2]), cells[::2] if len(cells) > 1 else [text]
    tokens = re.findall(r"\\[a-zA-Z]+ ?|\\.|.", text, re.DOTALL)
    first, last = tokens[0], tokens[-1]
    bracketed = len(tokens) > 2 and first in _OPEN_CLOSE and last in _OPEN_CLOSE.values()
    inner = tokens[1:-1] if bracketed else tokens
    depth, parts = 0, [""]
    for token in inner:
        if token in ("(", "[", r"\{", "{"):
            depth += 1
        elif token in (")", "]", r"\}", "}"):
            depth -= 1
            if depth < 0:  # (1,2)\cup(3,4): the first bracket does not belong to the last
                return ("whole",), [text]
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    shape = (first, last) if bracketed else ("", "")
    return ((*shape, str(len(parts))), parts) if all(parts) else (("whole",), [text])
