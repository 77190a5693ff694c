"""The command line: amft-lite run | evaluate | report | pretrain | study | claims | plan |
bench."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from amft_lite.config import (
    FIELDS,
    MODEL_FIELDS,
    ConfigError,
    ModelConfig,
    build,
    named_configs,
    parse_assignments,
    read_file,
)
from amft_lite.methods import METHODS
from amft_lite.terminal import (
    STOPPED,
    console,
    print_summary,
    problems,
    refuse,
    train_with_progress,
)

if TYPE_CHECKING:
    from amft_lite.runs import Run

app = typer.Typer(
    help="""Train, measure and compare AMFT: (1 - mu) L_RL + mu L_SFT with a mu that learns.

    `amft-lite run` alone trains the lite game in about a minute and prints a table.""",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
RECIPE = "lite"  #: what `run` reads where no --config is given


def settings_help() -> str:
    """Every key with its default and what lies above the defaults, for `run --help`."""

    def listing(values: dict) -> str:
        return ", ".join(f"{key}={value}" for key, value in values.items())

    keys, more = (
        listing({f.name: f.default for f in fields.values()}) for fields in (FIELDS, MODEL_FIELDS)
    )
    recipe = read_file(RECIPE)
    method = recipe.get("method", FIELDS["method"].default)
    brought = listing(METHODS[method].defaults) or "none"
    return (
        f"Change a setting, e.g. --set steps=60; may be repeated. Without --config, run reads the "
        f"recipe {RECIPE}, which sets {listing(recipe)}. A method brings its own defaults; those "
        f"of {method}: {brought}. Keys, and their defaults in a recipe that sets nothing: {keys}. "
        f"With `model` also: {more}"
    )


def resumed(out: Path | None, given: dict, config: str | None, overwrite: bool) -> Run:
    """The run in `out`, to go on with as it is. Raises RunError or ConfigError where more is asked
    of it than that."""
    from amft_lite.files import RunError

    if out is None:
        raise RunError("--resume needs --out FOLDER, the run to go on with.")
    if overwrite:
        raise RunError(
            f"--resume goes on with the run in {out} and --overwrite replaces it; give one of them."
        )
    if config is not None:
        raise RunError(
            f"--resume keeps the settings of {out}, so --config {config} would change nothing; "
            f"leave it out, or start a new run without --resume."
        )
    found = open_run(out)
    kept = {"model": ""} | vars(found.config)
    if given.get("model", kept["model"]) != kept["model"]:
        # the two kinds of run differ in their keys, and `build` would speak of those instead
        given = wanted = {"model": given["model"]}
    else:
        wanted = {"model": ""} | vars(build(kept, given))
    changed = [key for key in given if wanted[key] != kept[key]]
    if changed:
        here, asked = (
            "empty" if values[changed[0]] == "" else values[changed[0]] for values in (kept, wanted)
        )
        raise RunError(
            f"--resume keeps the settings of {out}; {changed[0]} is {here} there, not {asked}. "
            f"Start a new run to change it."
        )
    return found


def open_run(folder: Path) -> Run:
    """An existing run, of a tiny policy or of a real model. Raises RunError."""
    from amft_lite.runs import Run
    from amft_lite.trl_run import ModelRun

    found = Run.open(folder)
    return ModelRun(folder, found.config) if isinstance(found.config, ModelConfig) else found


@app.command(epilog=f"Recipes: {', '.join(named_configs())}. Methods: {', '.join(METHODS)}.")
def run(
    config: Annotated[
        str | None,  # None: not given, which --resume has to know
        typer.Option(help=f"A recipe's name, or a YAML file of settings; by default {RECIPE}."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="How mu is chosen (below).")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same numbers.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default a new one under runs/.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=settings_help())
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, to the same weights.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")
    ] = False,
) -> None:
    """Train one policy; ends in a table of success before, after warm-up and at the end.

    Ctrl-C saves and says how to go on.
    """
    from amft_lite.files import RunError
    from amft_lite.report import write_report
    from amft_lite.runs import Run, default_folder
    from amft_lite.trl_run import ModelRun, process_index

    console.quiet = bool(process_index())  # of several processes the first one speaks
    try:
        flags = {k: v for k, v in {"method": method, "seed": seed}.items() if v is not None}
        given = {**flags, **parse_assignments(set_ or [])}
        if resume:
            current = resumed(out, given, config, overwrite)
        else:
            if out is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
                raise RunError(
                    "several processes need to know their one folder: give --out FOLDER."
                )
            name = RECIPE if config is None else config
            settings = build(read_file(name), given)
            folder = out or default_folder(settings, Path(name).stem)
            kind = ModelRun if isinstance(settings, ModelConfig) else Run
            current = kind.create(folder, settings, overwrite)
        summary = train_with_progress(current)
        if process_index():
            return
        write_report([current], current.folder / "report.html")
    except (ConfigError, RunError, FloatingPointError, OSError) as error:
        raise refuse(error) from None
    print_summary(summary)
    console.print(f"Figures: {current.folder / 'report.html'}", soft_wrap=True, markup=False)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    split: Annotated[
        list[str] | None, typer.Option(help="A split; may be repeated. Default: what runs report.")
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=0, max=10**6, help="Problems a split; 0: all of them.")
    ] = 0,
    samples: Annotated[
        int, typer.Option(min=1, max=10**4, help="Answers a problem, temperature 1.")
    ] = 8,
    examples: Annotated[int, typer.Option(min=0, max=1000, help="Also print so many answers.")] = 3,
) -> None:
    """Measure a finished run again: on all problems, on other splits, with more answers."""
    import torch

    from amft_lite.files import RunError
    from amft_lite.report import cell
    from amft_lite.tasks import groups_word, reported_splits, retold

    try:
        current = open_run(folder)
        if not isinstance(current.config, ModelConfig):  # as in training, where it knows no threads
            torch.set_num_threads(current.config.threads)
        current.load()
        unit = groups_word(current.task).split()[-1]
        table = Table("split", "success", "greedy", "attempts@5", "problems", unit)
        for name in split or reported_splits(current.task):
            found = current.evaluate(name, prompts, samples).summary()
            table.add_row(
                name, cell(found["success"]), cell(found.get("greedy")),
                cell(found.get("attempts_at_5")), str(found["prompts"]),
                str(found["success"]["n"]),
            )  # fmt: skip
            for question, share in found.get("readings", {}).items():
                table.add_row(f"  {question}", cell(share), "-", "-", "", "")
            console.print(f"{name}: {json.dumps(found['outcomes'])}", style="dim")
        console.print(table)
        for example in current.task.prompts((split or [current.main_split])[0], examples, 1):
            text = current.answer(example)
            reason = current.task.reward(example, text).reason
            said = retold(current.task, example, text)
            console.print(f"{example.prompt} {said[0][0]}   [{reason}]", markup=False)
            for words, own in said[1:]:  # of a dialogue
                console.print(f"    {'' if own else '> '}{words}", markup=False)
    except (RunError, ValueError, OSError) as error:
        raise refuse(error) from None


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run, or several.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; default: report.html in the (first) run.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Also write each figure as a PNG to this folder.")
    ] = None,
) -> None:
    """Draw one run, or several side by side, into one HTML file that opens offline."""
    from amft_lite.files import RunError
    from amft_lite.report import write_pictures, write_report
    from amft_lite.runs import Run

    default = "report.html" if len(folders) == 1 else "comparison.html"
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise refuse(f"--out must be a file in a folder that exists, not {out}.")
    try:
        runs = [Run.open(folder) for folder in folders]
        path = write_report(runs, out or folders[0] / default)
        drawn = write_pictures(runs, pictures) if pictures else []
    except (RunError, ImportError, ValueError, OSError) as error:
        raise refuse(error) from None
    for written in (path, *drawn):
        console.print(f"Written: {written}", soft_wrap=True, markup=False)


@app.command()
def pretrain(
    size: Annotated[str, typer.Option(help="0.2M (shipped), 0.8M or 2.7M.")] = "0.2M",
    out: Annotated[Path | None, typer.Option(help="Folder; default under runs/bases/.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    format_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of texts in the form that is paid.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0, max=10**12)] = 0,
    task: Annotated[str, typer.Option(help="general_points, arithmetic, navigation, ...")] = (
        "general_points"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a base in --out.")
    ] = False,
) -> None:
    """Train a base model on a task's own texts, and print its bands.

    format_share decides how sparse the reward is at the start: the base can do more than it is
    paid for.
    """
    import torch

    from amft_lite.pretrain import bands, recipe, save_base, timed_log, whole_or_not
    from amft_lite.pretrain import pretrain as train

    # a recipe may stop early on a longer schedule; who says how many steps gets so many
    changes = {} if steps is None else {"steps": steps, "stop": 0}
    try:
        config = recipe(size, task, seed=seed, format_share=format_share, **changes)
    except ValueError as error:
        raise refuse(f"{error}.") from None
    folder = out or Path("runs") / "bases" / f"{task}-{size}{f'-seed{seed}' if seed else ''}"
    if folder.exists() and not folder.is_dir():
        raise refuse(f"{folder} is a file; --out needs a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "recipe.json").is_file():
            raise refuse(f"{folder} is not empty and holds no base; name another --out.")
        if not overwrite:
            raise refuse(f"{folder} holds a base; --overwrite replaces it, or name another --out.")
    from rich.progress import Progress as Bar

    torch.set_num_threads(1)
    log, note = timed_log()
    try:
        with whole_or_not(folder, overwrite) as beside, Bar(console=console) as bar:
            job = bar.add_task("base", total=config.last)

            def on_step(step: int, loss: float) -> None:
                note(step, loss)
                bar.update(job, completed=step + 1, description=f"loss {loss:.3f}")

            model, tokenizer = train(config, on_step=on_step)
            found = bands(model, tokenizer, config)
            save_base(beside, model, tokenizer, config, log, found)
    except OSError as error:
        raise refuse(error) from None
    except KeyboardInterrupt:
        console.print(f"Stopped; nothing was written to {folder}.", soft_wrap=True, markup=False)
        raise typer.Exit(STOPPED) from None
    for name, value in found.items():
        console.print(f"{name}: {value}")
    console.print(f"Written: {folder}", soft_wrap=True, markup=False)


def listed(text: str) -> list[str]:
    """``a,b`` as a list."""
    return [word.strip() for word in text.split(",") if word.strip()]


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A name, or a YAML grid; none: a list.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of cells; default runs/study-NAME.")] = (
        None
    ),
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Cells at a time, a thread each.")] = 2,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep cells of --out, and committed ones not begun anew there."
        ),
    ] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no cell after so many hours.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first so many seeds.")] = None,
    methods: Annotated[
        str, typer.Option(help="Only these arms, or all arms of a method, parted by commas.")
    ] = "",
    regimes: Annotated[str, typer.Option(help="Only these regimes, parted by commas.")] = "",
) -> None:
    """Compare methods over regimes and seeds. Without a NAME: list the studies.

    Every cell is a file, written whole: a killed study loses the cells in progress, and --resume
    trains what is missing. Trained anew, a committed study's cells are checked against its bands.
    """
    from amft_lite import results, study_tables, tables
    from amft_lite import study as studies

    try:
        if not name:
            for known in studies.grid_names():
                console.print(f"{known}: {' '.join(studies.read_grid(known).question.split())}")
            return
        result = studies.run_study(
            name, out, jobs, resume, max_hours, seeds, listed(methods), listed(regimes), console
        )
        study_tables.print_result(result, console)
        anew = results.begun_anew(out or studies.folder_of(name))
        result["cells"] = [cell for cell in result["cells"] if studies.key(cell) in anew]
        packaged = name in studies.grid_names() and result["cells"]
        stored = results.shipped_or_none(name) if packaged else None
        if stored and not result["cells"][0].get("candidate"):
            strays, checked = tables.outside_bands(result, stored)
            for line in strays:
                console.print(f"Outside the stored band: {line}", style="yellow")
            console.print(
                f"{checked} of {len(result['cells'])} cells have a band of at least 3 committed "
                f"seeds; {checked - len(strays)} lie in it."
            )
    except (studies.StudyError, ConfigError, ImportError, OSError) as error:
        raise refuse(error) from None
    except KeyboardInterrupt:
        console.print("Stopped; finished cells are kept. Go on with the same command and --resume.")
        raise typer.Exit(STOPPED) from None


@app.command()
def claims(
    check: Annotated[
        bool, typer.Option("--check", help="Recompute all verdicts; exit code 1 if one differs.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write verdicts and numbers into data/claims.yaml.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The README's table.")] = False,
) -> None:
    """What the paper claims, and what came out here: the ledger, from the stored results."""
    from amft_lite import claims as ledger
    from amft_lite.study import StudyError

    if check + write + markdown > 1:
        raise refuse("--check, --write and --markdown are three things; ask for one of them.")
    try:
        if write:
            ledger.write()
            console.print(f"Written: {ledger.PATH}", soft_wrap=True)
            return
        if check:
            wrong = ledger.check()
            for line in wrong:
                problems.print(line, markup=False)
            if wrong:
                raise typer.Exit(1)
            console.print(f"All {len(ledger.read_claims())} rows follow from the stored results.")
        elif markdown:
            typer.echo(ledger.markdown(), nl=False)
        else:
            ledger.print_claims(console)
    except (ledger.ClaimError, StudyError, ImportError, OSError, ValueError) as error:
        raise refuse(error) from None


@app.command()
def plan(
    config: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file, with `model`.")],
    gpus: Annotated[
        int | None, typer.Option(min=1, help="So many GPUs instead of the recipe's `processes`.")
    ] = None,
    card: Annotated[
        float | None, typer.Option(min=0.1, help="GB of one GPU: does it fit? Exit code 1 if not.")
    ] = None,
    device: Annotated[str, typer.Option(help="gpu or cpu.")] = "gpu",
    explain: Annotated[bool, typer.Option("--explain", help="Every formula, filled in.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for run.")
    ] = None,
) -> None:
    """How much memory a run of a real model will take, before a card is rented for it.

    Predicted from shapes, nothing is downloaded; checked against runs on a CPU, not on a GPU.
    """
    from amft_lite.plan import plan as predict
    from amft_lite.plan import print_plan

    if device not in ("gpu", "cpu"):
        raise refuse(f"--device must be gpu or cpu, not {device!r}.")
    try:
        settings = build(read_file(config), parse_assignments(set_ or []))
        if not isinstance(settings, ModelConfig):
            raise ConfigError(
                f"{config} trains a tiny policy, which fits anywhere; plan is for recipes with "
                f"`model`."
            )
        found = predict(settings, gpus, device)
    except (ConfigError, OSError) as error:
        raise refuse(error) from None
    if json_:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        print_plan(found, console, explain)
    if card is not None:
        needed = found.on_card(card)
        fits = "fits" if needed <= card * 1e9 else "does not fit"
        if not json_:
            console.print(f"{needed / 1e9:.1f} GB: {fits} a card of {card:g} GB.")
        if needed > card * 1e9:
            raise typer.Exit(1)


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="sampling: against model.generate; step: AMFTTrainer against TRL; dialogues: "
            "against reading again at every turn; routes: how fast navigation makes them."
        ),
    ],
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Alternating runs; the median counts.")
    ] = None,
) -> None:
    """Measure speed, one thread, as ratios within one run."""
    from amft_lite import benchmarks

    names = ("sampling", "step", "dialogues", "routes")
    known = {name: getattr(benchmarks, name) for name in names}
    if what not in known:
        raise refuse(f"no benchmark is called {what!r}; known: {', '.join(known)}.")
    try:
        known[what](console=console, **({} if repeats is None else {"repeats": repeats}))
    except ImportError as error:
        raise refuse(f"bench {what}: {error}; the extra train brings it.") from None


def main() -> None:
    """Entry point; an unexpected error keeps its traceback."""
    app()


if __name__ == "__main__":
    sys.exit(main())
