"""Files of a run or a study: written whole or not at all, in standard JSON, read back with care."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


class RunError(ValueError):
    """A run folder that cannot be used as asked; its text is one sentence."""


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or is not there."""
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError:  # a full disk
        with suppress(OSError):
            beside.unlink()
        raise


def to_json(value: Any, **options: Any) -> str:
    """Standard JSON: numbers that are not finite become null."""

    def clean(x: Any) -> Any:
        if isinstance(x, float) and not math.isfinite(x):
            return None
        if isinstance(x, dict):
            return {k: clean(v) for k, v in x.items()}
        return [clean(v) for v in x] if isinstance(x, list | tuple) else x

    return json.dumps(clean(value), allow_nan=False, **options)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; a last line cut off by a crash is left out.

    Raises:
        RunError: another line is no record of a step.
    """
    if not path.is_file():
        return []
    *whole, _cut_off = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict) or "step" not in record:
            raise RunError(f"{path}, line {number} is no record of a step; restore or remove it.")
        records.append(record)
    return records


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file of a run; None if it is not there.

    Raises:
        RunError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged; remove it, and --resume measures again what it can.")
    return content
