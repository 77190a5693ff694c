"""Write what the stored results say into the pages: verdicts into data/claims.yaml, the ledger into
README.md, tables of studies into data/studies/README.md (`make results`).

A table is found by its head, in the section that its study begins. The words around tables are
written by hand: read them again when numbers have moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from amft_lite import claims, tables
from amft_lite.files import write_text
from amft_lite.models import DATA
from amft_lite.results import shipped

README = DATA.parent / "README.md"
PAGE = DATA / "studies" / "README.md"
# words -> part of a regime's name
HALVES = {"experts right": "clean", "half wrong": "wrong"}
BASES = {"base 1": "base-1", "base 2": "base-2"}


def parted(study: str, parts: dict[str, str] = HALVES) -> dict[str, list[str]]:
    """Regimes by what their names contain."""
    names = tables.regimes_of(shipped(study))
    return {f"test: {words}": [r for r in names if part in r] for words, part in parts.items()}


def tables_of_the_page() -> Iterator[tuple[str, str]]:
    """(study, table) of each table that is made."""
    for study, arms in {
        "regimes": ("amft_full-equal", "amft"),
        "confirm": ("amft_full-equal", "amft"),
        "learning": ("amft_full", "amft_full-equal"),
        "one_rate": ("amft_full-equal", "amft", "cut_low"),
        "robustness": ("amft_full-equal", "amft", "amft-5e-4"),
    }.items():
        groups = parted(study, HALVES | (BASES if study == "robustness" else {}))
        yield study, tables.markdown(shipped(study))
        for arm in arms:
            yield study, tables.differences_markdown(shipped(study), arm, [], groups)
    each = {regime: [regime] for regime in tables.regimes_of(shipped("confirm"))}
    made = tables.differences_markdown(shipped("confirm"), "amft_full-equal", ["test"], each)
    yield "confirm", made
    yield "oracle", tables.stages_markdown(shipped("oracle"))
    shown = ["test", "test, greedy", "ood_choice", "ood_words"]
    result = shipped("second_task")
    yield "second_task", tables.markdown(result, [*shown[:3], "ood_length", "ood_words"])
    for arm in ("amft_full-equal", "amft"):
        made = tables.differences_markdown(result, arm, shown, parted("second_task"))
        yield "second_task", made


def replaced(text: str, table: str, section: str = "") -> str:
    """`text` with the table of the same head, the first one in `section`, made `table`.

    Raises:
        ValueError: there is none.
    """
    head, begin = table.split("\n", 1)[0], text.find(section)
    stop = text.find("\n## ", begin + 1) if section else -1
    start = text.find(f"\n{head}\n", begin, stop if stop >= 0 else None) + 1
    if begin < 0 or not start:
        raise ValueError(f"no table of the head {head!r} stands in {section!r}")
    end = text.find("\n\n", start)
    return text[:start] + table + (text[end + 1 :] if end >= 0 else "")


def pages() -> dict[Path, str]:
    """path -> its text, as the stored results have it."""
    page = PAGE.read_text(encoding="utf-8")
    for study, table in tables_of_the_page():
        page = replaced(page, table, f"## {study}: ")
    readme = replaced(README.read_text(encoding="utf-8"), claims.markdown())
    return {PAGE: page, README: readme}


if __name__ == "__main__":
    claims.write()
    for path, text in pages().items():
        write_text(path, text)
