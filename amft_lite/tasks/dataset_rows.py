"""Rows of data sets: what one says, where its file is, how a record of it becomes a question.

`amft_lite.tasks.dataset` makes a task of them; the keys of a row are explained in `datasets.yaml`.

Left out: code that comes with a data set (never run), and loading without the package `datasets`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from amft_lite.tasks import Example
from amft_lite.tasks.math_grader import GRADERS, gradable

ROWS = Path(__file__).with_name("datasets.yaml")
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
BOXED_LETTER = r"Please reason step by step, and put the letter of your choice within \boxed{}."
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Source:
    """One row: a data set and how it is read. The keys are explained in `datasets.yaml`."""

    path: str
    question: str
    answer: str
    grader: str
    split: str = "train"
    name: str | None = None
    solution: str = ""
    answer_after: str = ""
    choices: str | tuple[str, ...] = ()
    prompt: str = ""
    instruction: str = ""
    source: str = ""
    license: str = ""
    checked: str = ""

    @staticmethod
    def from_row(row: Any, called: str) -> Source:
        """Check a row of YAML.

        Raises:
            ValueError: it is no mapping, or lacks a key, has an unknown or misshapen one, or names
                an unknown grader.
        """
        known = [f.name for f in dataclasses.fields(Source)]
        if not isinstance(row, Mapping):
            raise ValueError(f"data set {called}: a row is a mapping of keys, not {row!r}")
        if unknown := sorted(map(str, set(row) - set(known))):
            raise ValueError(
                f"data set {called}: unknown keys {', '.join(unknown)}; known: {', '.join(known)}"
            )
        missing = [key for key in ("path", "question", "answer", "grader") if not row.get(key)]
        if missing:
            raise ValueError(f"data set {called}: the keys {', '.join(missing)} are missing")
        values = {key: value for key, value in row.items() if value is not None}
        if isinstance(values.get("choices"), list):
            values["choices"] = tuple(values["choices"])
        for key, value in values.items():
            if not isinstance(value, str) and not (
                key == "choices" and value and all(isinstance(v, str) for v in value)
            ):
                raise ValueError(f"data set {called}: {key} must be text, not {value!r}")
        source = Source(**values)
        if source.grader not in GRADERS:
            raise ValueError(
                f"data set {called}: no grader is called {source.grader!r}; "
                f"known graders: {', '.join(GRADERS)}"
            )
        if source.choices and source.grader != "choice":
            raise ValueError(f"data set {called}: choices go with the grader choice")
        columns = source.choices if isinstance(source.choices, tuple) else ()
        if columns and (source.answer not in columns or not 2 <= len(columns) <= len(LETTERS)):
            raise ValueError(
                f"data set {called}: choices must be 2 to 26 columns, the answer's among them"
            )
        if "{question}" not in (source.prompt or "{question}"):
            raise ValueError(f"data set {called}: the prompt template has no {{question}}")
        return source


@dataclass(frozen=True)
class Question(Example):
    """An example of a data set: its right answer, how it is graded, its row in its source."""

    text: str
    gold: str
    grader: str
    row: int


def read_rows(file: str | Path | None = None) -> dict[str, Any]:
    """The rows of the package, and over them those of a YAML file of yours; paths stay as written,
    but a relative one that exists beside that file is found there.

    Raises:
        ValueError: the file is no YAML mapping of names to rows.
    """
    rows = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    if not file:
        return rows
    file = Path(file)
    try:
        mine = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the data sets of {file} cannot be read ({reason})") from None
    if not isinstance(mine, dict):
        raise ValueError(f"{file} must map names to data sets: name: {{path: ..., question: ...}}")
    for row in mine.values():
        if isinstance(row, dict) and isinstance(row.get("path"), str):
            beside = file.parent / row["path"]
            row["path"] = str(beside) if beside.exists() else row["path"]
    return rows | mine


def question_key(text: str) -> str:
    """The name of a question: a hash that blanks, case, dollars and Unicode forms do not change."""
    plain = re.sub(r"[\s$]+", "", unicodedata.normalize("NFKC", text).casefold())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def open_table(source: Source) -> Any:
    """The rows of a source: a local file or folder, else the hub.

    Raises:
        ModuleNotFoundError: `datasets` is not installed.
        ValueError: nothing is there, or it cannot be read.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ModuleNotFoundError(
            "real data sets need the package datasets; pip install 'amft-lite[train]' brings it"
        ) from None
    path = Path(source.path).expanduser()
    looks_local = path.suffix in FORMATS or source.path.startswith((".", "/", "~"))
    if not path.exists() and looks_local:
        raise ValueError(f"there is no file or folder {source.path}")
    if path.is_file() and path.suffix not in FORMATS:
        raise ValueError(f"{source.path} is no data set; files may be {', '.join(FORMATS)}")
    try:
        if path.is_file():
            return load_dataset(FORMATS[path.suffix], data_files=str(path), split="train")
        return load_dataset(
            str(path) if path.is_dir() else source.path, source.name, split=source.split
        )
    except Exception as error:  # pyarrow, datasets and the hub each raise their own
        cause = error.__cause__ or error
        first = (str(cause).strip().splitlines() or [""])[0][:160]
        hint = "" if path.exists() else "; it is no local file, and the hub must be in reach for it"
        raise ValueError(
            f"the data set {source.path} is empty or cannot be read "
            f"({type(cause).__name__}: {first}){hint}"
        ) from None


def read_question(source: Source, row: Mapping[str, Any], number: int, split: str) -> Question:
    """One row as an example.

    Raises:
        ValueError: a field is missing, empty or of a kind that is no text, or the answer is none of
            the choices.
    """
    text = read_text(source, row, source.question, number, "user").strip()
    options: list[str] = []
    if source.choices:
        options, gold = _options(source, row, number, question_key(text))
    else:
        gold = _answer(source, row, number)
    listed = "\n".join(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))
    template = source.prompt or ("{question}\n\n{choices}" if options else "{question}")
    default = BOXED_LETTER if source.grader == "choice" else BOXED
    # replace, not format: questions and boxes are full of braces
    prompt = "".join(
        {"{question}": text, "{choices}": listed}.get(part, part)
        for part in re.split(r"(\{question\}|\{choices\})", template)
    )
    prompt += f"\n\n{source.instruction or default}"
    key = question_key(text + "".join(sorted(options)))
    return Question(prompt, split, key, key, text, gold, source.grader, number)


def choice_columns(source: Source) -> list[str]:
    """The columns that hold the options."""
    return [source.choices] if isinstance(source.choices, str) else list(source.choices)


def _value(source: Source, row: Mapping[str, Any], column: str, number: int) -> Any:
    """The field `a.b` of a row, or the column that is really called so."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{source.path}, row {number}: there is no field {column!r}")
        value = value[part]
    return value


def read_text(source: Source, row: Mapping[str, Any], column: str, number: int, role: str) -> str:
    """A field that is text, or a chat: then the last message of `role`."""
    value = _value(source, row, column, number)
    if isinstance(value, list) and value and all(isinstance(m, Mapping) for m in value):
        said = [m.get("content") for m in value if m.get("role") == role]
        value = said[-1] if said else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{source.path}, row {number}: {column} must be text (or messages, one by the {role}), "
            f"not {str(value)[:60]!r}"
        )
    return value


def _answer(source: Source, row: Mapping[str, Any], number: int) -> str:
    """The right answer as text; whole floats lose their .0, lists of texts are joined."""
    value = _value(source, row, source.answer, number)
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        value = ", ".join(value)
    elif isinstance(value, list):
        value = read_text(source, row, source.answer, number, "assistant")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{source.path}, row {number}: the answer {source.answer} must be text or a number, "
            f"not {str(value)[:60]!r}"
        )
    if source.answer_after:
        if source.answer_after not in value:
            raise ValueError(
                f"{source.path}, row {number}: {source.answer} has no {source.answer_after!r}, "
                f"after which the answer should stand"
            )
        value = value[value.rindex(source.answer_after) + len(source.answer_after) :]
    value = value.strip()
    if len(value) > 2 and value[0] == value[-1] == "$" and "$" not in value[1:-1]:
        value = value[1:-1].strip()
    if source.grader != "math" and not gradable(value, source.grader):
        raise ValueError(
            f"{source.path}, row {number}: the grader {source.grader} cannot grade the answer "
            f"{value[:60]!r}; choose another grader"
        )
    return value


def _options(
    source: Source, row: Mapping[str, Any], number: int, key: str
) -> tuple[list[str], str]:
    """(texts of the options in the order shown, letter of the right one)."""
    if isinstance(source.choices, tuple):  # the right one comes first: mix, always the same way
        columns = list(source.choices)
        random.Random(key).shuffle(columns)
        options = [read_text(source, row, column, number, "user").strip() for column in columns]
        return options, LETTERS[columns.index(source.answer)]
    answer = str(_value(source, row, source.answer, number)).strip()
    value = _value(source, row, source.choices, number)
    if isinstance(value, Mapping):  # ARC: {text: [...], label: [...]}
        options, labels = list(value.get("text") or []), list(value.get("label") or [])
    else:
        options, labels = list(value or []), list(LETTERS)
    options = [str(option).strip() for option in options]
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{source.path}, row {number}: {len(options)} choices; 2 to 26 can be")
    if answer in labels[: len(options)]:
        return options, LETTERS[labels.index(answer)]
    if options.count(answer.strip()) == 1:
        return options, LETTERS[options.index(answer.strip())]
    raise ValueError(
        f"{source.path}, row {number}: the answer {answer[:60]!r} is none of the choices"
    )
