"""The grid of a study: what its YAML file holds, checked before anything is trained, and the cells
that follow from it.

    question   what it is to answer, in a sentence or two
    recipe     settings of every run, by name; `settings` changes them
    regimes    name -> settings: the situations compared
    arms       name -> settings: the methods compared
    seeds      [first, how many]
    splits     split -> [problems, samples] measured at the end; 0 problems are all of them
    curve      take a look every so many steps, too: success on the splits, kept demonstrations
    glance     [problems, samples] of such a look, on each split
    choose     of each arm, candidates to choose among: name -> settings (a study that tunes)
    only       arm -> further candidates of that arm alone
    tuned_by   the study whose choices the arms start from
    family     arm -> the arm of that study whose choice it takes, where they differ
    replay     arm -> the arm whose recorded mu_t it repeats, from the seed before its own (from its
               own seed the run would be the same run); `arm:constant`, `arm:cosine` keep its mean

Left out: training the cells, and their results (`amft_lite.study`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amft_lite.config import (
    CONFIGS,
    ConfigError,
    ModelConfig,
    RunConfig,
    build,
    named_configs,
    read_file,
)

GRIDS = CONFIGS / "studies"
#: What a replayed trace can be made into (`amft_lite.study.reshaped`).
SHAPES = ("", "constant", "cosine")


class StudyError(ValueError):
    """A study that cannot be run as asked; its text is one sentence."""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    """Names become parts of file names, which `--` holds apart."""
    return _text(value) and value != "" and not set(value) & set("/\\\0") and "--" not in value


def _pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and [type(x) for x in value] == [int, int]
        and min(value) >= 0
        and value[1] > 0
    )


def _settings(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_text, value)))


def _named(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(_name(k) and of(v) for k, v in value.items())
    )


def _filled(named: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`name:` with nothing after it is a name without settings."""
    return {name: settings or {} for name, settings in named.items()}


#: field -> (is it so?, how to say it)
FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "question": (_text, "text"),
    "recipe": (_text, "a recipe's name, or a file"),
    "tuned_by": (_text, "a study's name"),
    "settings": (_settings, "`setting: value` lines"),
    "arms": (_named(_settings), "`name: {setting: value, ...}` lines"),
    "regimes": (_named(_settings), "`name: {setting: value, ...}` lines"),
    "choose": (_named(_settings), "`name: {setting: value, ...}` lines"),
    "only": (_named(_named(_settings)), "`arm: {name: {setting: value, ...}}` lines"),
    "splits": (_named(_pair), "`split: [problems, samples]` lines"),
    "seeds": (_pair, "[first, how many], such as [1, 10]"),
    "glance": (_pair, "[problems, samples], such as [200, 4]"),
    "curve": (lambda x: type(x) is int and x >= 0, "a number of steps, 0 for none"),
    "family": (_named(_name), "`arm: arm of the study in tuned_by` lines"),
    "replay": (_named(_text), "`arm: arm` lines, or `arm: arm:constant`, `arm: arm:cosine`"),
}


def check_forms(path: Path, content: dict[str, Any]) -> None:
    """Is every field known, there, and of its form?

    Raises:
        StudyError: a field is unknown, missing, or not of its form.
    """
    if stray := sorted(set(map(str, content)) - set(FORMS)):
        raise StudyError(
            f"{path}: {stray[0]!r} is no key of a study; known: {', '.join(sorted(FORMS))}."
        )
    needed = ("question", "arms", *({"regimes", "splits"} & set(content)))
    if missing := [key for key in needed if not content.get(key)]:
        raise StudyError(f"{path} lacks {missing[0]}.")
    for key, value in content.items():
        is_so, words = FORMS[key]
        if not is_so(value):
            raise StudyError(
                f"{path}: {key} must be {words}, not {value!r}; names are text without / and --."
            )
    if content.get("family") and not content.get("tuned_by"):
        raise StudyError(f"{path}: family says whose choice an arm takes, so it needs tuned_by.")
    for key in ("family", "only"):
        if stray := [arm for arm in content.get(key, {}) if arm not in content["arms"]]:
            raise StudyError(
                f"{path}: {key} names {stray[0]!r}, which is no arm; arms: "
                f"{', '.join(content['arms'])}."
            )
    if content.get("replay") and content.get("seeds", [1, 10])[1] < 2:
        raise StudyError(
            f"{path}: replay takes another seed's mu_t, so it needs two seeds or more."
        )
    for arm, source in content.get("replay", {}).items():
        name, _, shape = source.partition(":")
        if {arm, name} - set(content["arms"]) or shape not in SHAPES:
            raise StudyError(
                f"{path}: replay: {arm} must name arms, as `arm: arm` or with :constant or "
                f":cosine, not {source!r}; arms: {', '.join(content['arms'])}."
            )


# --- the grid and its cells -----------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """What is compared; see the module's docstring for the fields."""

    name: str
    question: str
    arms: dict[str, dict[str, Any]]
    regimes: dict[str, dict[str, Any]] = field(default_factory=lambda: {"lite": {}})
    recipe: str = "lite"
    settings: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, list[int]] = field(
        default_factory=lambda: {"test": [0, 8], "ood_rule": [200, 4]}
    )
    seeds: tuple[int, int] = (1, 10)
    curve: int = 0
    glance: list[int] = field(default_factory=lambda: [200, 4])
    choose: dict[str, dict[str, Any]] = field(default_factory=dict)
    only: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tuned_by: str = ""
    family: dict[str, str] = field(default_factory=dict)
    replay: dict[str, str] = field(default_factory=dict)

    def candidates(self, arm: str) -> dict[str, dict[str, Any]]:
        """What is tried of an arm: name -> settings; without tuning one nameless candidate."""
        return {**self.choose, **self.only.get(arm, {})} or {"": {}}

    def arms_called(self, name: str) -> list[str]:
        """The arm of that name; else the arms of the method of that name (`fixed`: all constants).

        Raises:
            StudyError: there is none.
        """
        if name in self.arms:
            return [name]
        found = [
            arm for arm, settings in self.arms.items()
            if {**self.settings, **settings}.get("method") == name
        ]  # fmt: skip
        if not found:
            raise StudyError(f"{self.name} has no arm {name!r}; known: {', '.join(self.arms)}.")
        return found

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds[0], self.seeds[0] + self.seeds[1]))


def grid_names() -> list[str]:
    """Studies that come with the package."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def read_grid(name: str | Path) -> Grid:
    """The grid of that name, or in that YAML file.

    Raises:
        StudyError: there is none, or it has keys or settings that do not exist.
    """
    path = GRIDS / f"{name}.yaml" if str(name) in grid_names() else Path(name)
    if not path.is_file():
        raise StudyError(f"no study is called {str(name)!r}; known: {', '.join(grid_names())}.")
    content = read_file(path)
    check_forms(path, content)
    for name in {"arms", "regimes", "choose"} & set(content):
        content[name] = _filled(content[name])
    if "only" in content:
        content["only"] = {arm: _filled(tried) for arm, tried in content["only"].items()}
    content["settings"] = content.get("settings") or {}
    if "seeds" in content:
        content["seeds"] = tuple(content["seeds"])
    grid = Grid(path.stem, **content)
    try:
        recipe = read_file(grid.recipe)
    except ConfigError as error:
        raise StudyError(f"{path}: {error}") from None
    for cell in itertools.islice(combinations(grid, grid.seed_list[:1]), 10_000):
        try:
            config = config_of(grid, cell, recipe)
        except ConfigError as error:
            raise StudyError(f"{path}, {cell['arm']} in {cell['regime']}: {error}") from None
        if cell["arm"] in grid.replay and config.method != "replay":
            raise StudyError(
                f"{path}: replay: {cell['arm']} is of the method {config.method}, which takes no "
                f"trace; its method must be replay."
            )
        if isinstance(config, ModelConfig):
            raise StudyError(
                f"{path}, {cell['arm']}: a study trains the tiny policies, not {config.model}; "
                f"take a recipe without `model`."
            )
    return grid


def config_of(grid: Grid, cell: dict[str, Any], recipe: dict[str, Any]) -> RunConfig:
    """What a cell is trained with; a replayed trace comes when it runs, and is anything here.

    Raises:
        ConfigError: settings that do not exist or contradict.
    """
    trace = {"trace": "0.5"} if cell["arm"] in grid.replay else {}
    return build(recipe, cell["settings"], trace)


def combinations(
    grid: Grid, seeds: Sequence[int], chosen: dict[str, dict[str, Any]] | None = None
) -> Iterator[dict[str, Any]]:
    for seed, regime, arm in itertools.product(seeds, grid.regimes, grid.arms):
        for candidate, settings in grid.candidates(arm).items():
            cell = {"arm": arm, "regime": regime, "seed": seed}
            if candidate:
                cell["candidate"] = candidate
            # what tuning chose wins over the study's settings, an arm's own over everything
            cell["settings"] = {
                **grid.settings, **grid.regimes[regime], **(chosen or {}).get(arm, {}), **settings,
                **grid.arms[arm], "seed": seed,
            }  # fmt: skip
            yield cell


def plan_cells(grid: Grid, seeds: Sequence[int], chosen: dict[str, dict[str, Any]]) -> list[dict]:
    """Every cell, seeds outermost; `chosen`: arm -> settings that tuning found.

    Of cells with equal settings the first one stays (candidates that an arm overrules).
    """
    cells, seen = [], set()
    for cell in combinations(grid, seeds, chosen):
        same = (cell["arm"], cell["regime"], json.dumps(cell["settings"], sort_keys=True))
        if same not in seen:
            seen.add(same)
            cells.append(cell)
    return cells


def key(cell: dict[str, Any]) -> tuple[str, str, int, str]:
    """What tells cells of one study apart."""
    return cell["arm"], cell["regime"], cell["seed"], cell.get("candidate", "")


def file_name(cell: dict[str, Any]) -> str:
    arm, regime, seed, candidate = key(cell)
    return f"{regime}--{arm}{f'--{candidate}' if candidate else ''}--{seed}.json"


def how(grid: Grid) -> dict[str, Any]:
    """What of a grid all its cells share; a cell that was made otherwise is not of it.

    A recipe in a file counts by its settings, for those may change under its name. One of the
    package counts by its name: what its defaults were, the cell's commit says.
    """
    recipe = grid.recipe if grid.recipe in named_configs() else read_file(grid.recipe)
    return {"recipe": recipe, "splits": grid.splits, "curve": grid.curve, "look": grid.glance}
