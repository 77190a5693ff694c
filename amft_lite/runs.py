"""A run on disk: start it, keep it, go on with it, read it back.

    config.yaml      every setting, resolved
    provenance.json  versions, commit, machine in words
    metrics.jsonl    one line a step
    curve.jsonl      held-out success along the way
    evaluations.json success at the three measured moments
    checkpoints/     the newest few; enough to continue to the same weights bit for bit
    model/           the trained policy, in `transformers` layout
    summary.json     success before, after warm-up and at the end; n and interval with each
    report.html      the figures, in one file that opens offline

Left out: what is computed (`amft_lite.loop`) and how it is drawn (`amft_lite.report`).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from amft_lite import checkpoint
from amft_lite.config import ConfigError, RunConfig, build, read_file, to_yaml
from amft_lite.evaluation import Evaluation, answers, evaluate
from amft_lite.files import RunError, read_json, read_lines, to_json, write_text
from amft_lite.loop import AMFT
from amft_lite.models import DATA, base_folder, load_policy, with_words
from amft_lite.provenance import provenance
from amft_lite.sampling import check_model
from amft_lite.tasks import (
    REGISTRY,
    Completion,
    Example,
    Task,
    baselines_of,
    groups_word,
    load_task,
    new_words,
    notes_of,
    reported_splits,
)

#: All that a run writes; `--overwrite` removes nothing else.
CONTENTS = (
    *("config.yaml", "provenance.json", "metrics.jsonl", "curve.jsonl", "evaluations.json"),
    *("summary.json", "report.html", "checkpoints", "model"),
)
PHASES = ("base", "warm-up", "final")


class Interrupted(Exception):
    """The run was asked to stop and has saved itself."""


@dataclass
class Progress:
    """What a progress display is told: after each step, and around each evaluation."""

    step: int
    steps: int
    facts: dict[str, Any]
    success: float | None = None  #: newest held-out success


def read_policy(folder: Path, error: type[ValueError]):
    """`load_policy`, with one sentence for whatever can be wrong with a folder of weights."""
    try:
        return load_policy(folder)
    except Exception as fault:  # transformers, tokenizers and safetensors each raise their own
        first = str(fault).strip().splitlines()[0] if str(fault).strip() else ""
        raise error(
            f"the model in {folder} cannot be read ({type(fault).__name__}: {first[:120]})."
        ) from None


def load_base(config: RunConfig, task: Task):
    """Policy and tokenizer a run starts from; `new_words` of the task that the base lacks are added
    to it, untrained.

    Raises:
        ConfigError: there is no model at that place, or it cannot speak of the task.
    """
    folder = Path(config.base) if config.base else base_folder(config.task)
    if config.base and not folder.exists() and (DATA / "bases" / config.base).is_dir():
        folder = DATA / "bases" / config.base
    if not (folder / "config.json").is_file():
        if not REGISTRY[config.task].pretraining:
            raise ConfigError(
                f"base: no tiny model in {folder}, and no recipe for one of {config.task}; name a "
                f"folder by --set base=FOLDER, or a real model by --set model=NAME."
            )
        named = re.search(r"-seed(\d+)$", folder.name)  # as `pretrain --seed N` calls it
        seed = f" --seed {named[1]}" if named else ""
        raise ConfigError(
            f"base: no model in {folder}; `amft-lite pretrain --task {config.task}{seed} --out "
            f"{folder}` trains one, or name another folder by --set base=FOLDER."
        )
    policy, tokenizer = read_policy(folder, ConfigError)
    try:
        check_model(policy)
    except ValueError as error:
        raise ConfigError(f"base: {folder}: {error}.") from None
    if not task.vocabulary():
        raise ConfigError(
            f"task: {config.task} is for real models, not for a tiny policy with a vocabulary of "
            f"its own; name one by --set model=NAME."
        )
    unknown = [word for word in task.vocabulary() if word not in tokenizer.get_vocab()]
    if unknown and set(unknown) <= set(new_words(task)):
        try:
            return with_words(policy, tokenizer, unknown, config.seed)
        except ValueError as error:
            raise ConfigError(f"base: {folder}: {error}.") from None
    if unknown:
        unknown = [word for word in unknown if word not in new_words(task)]
        raise ConfigError(
            f"base: the model in {folder} does not know the words {' '.join(unknown[:5])} of "
            f"{config.task}; `amft-lite pretrain --task {config.task}` trains one that does."
        )
    return policy, tokenizer


def check_folder(folder: Path, overwrite: bool) -> None:
    """Can a run begin there? What a run leaves that was killed before it began is nothing.

    Raises:
        RunError: something is there that is no run, or a run that is not to be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out needs a folder.")
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if all(name == ".lock" or name.endswith(".partial") for name in found):
        return
    try:
        settings = read_file(folder / "config.yaml")
        if "method" not in settings:
            raise ConfigError("no settings of a run")
        build(settings)
    except ConfigError:  # other programs call their settings so, too
        raise RunError(f"{folder} is not empty and holds no run; name another --out.") from None
    if not overwrite:
        raise RunError(
            f"{folder} already holds a run; go on with it by --resume, replace it by "
            f"--overwrite, or name another --out."
        )


class Run:
    """One run folder."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        try:
            self.task = load_task(config.task, reward=config.reward, **config.task_options())
        except ValueError as error:
            raise ConfigError(f"task: {error}.") from None
        self.main_split = reported_splits(self.task)[0]
        self.lock_file = None

    def lock(self) -> None:
        """Keep other processes out of the folder, until this one ends in whatever way.

        Raises:
            RunError: another process is in it.
        """
        if self.lock_file is None:
            self.lock_file = open(self.folder / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is working in {self.folder}; wait for it.") from None

    # --- opening ---------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, config: RunConfig, overwrite: bool = False) -> Run:
        """Begin a run in a folder that is new, empty, or (with `overwrite`) an older run.

        Raises:
            RunError: something else is there.
            ConfigError: the base or the task does not work with these settings.
        """
        check_folder(folder, overwrite)
        run = cls(folder, config)
        run.check_start()  # fails before anything is touched
        folder.mkdir(parents=True, exist_ok=True)
        run.lock()
        check_folder(folder, overwrite)  # again: another process may have begun in it
        for name in reversed(CONTENTS):  # config.yaml, by which a run is known, goes last
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).unlink(missing_ok=True)
        write_text(folder / "config.yaml", to_yaml(config))
        write_text(folder / "provenance.json", to_json(run.made_with(), indent=2) + "\n")
        return run

    def made_with(self) -> dict[str, str]:
        """Versions, commit and machine, for provenance.json."""
        return provenance()

    def note_resumption(self, on_message: Callable[[str], None]) -> None:
        """Add to provenance.json with what the run goes on, where that is not what it had."""
        path, now = self.folder / "provenance.json", self.made_with()
        made = read_json(path) or {}
        before = [made, *made.get("resumed", [])][-1]
        if changed := [k for k in now if k != "date" and before.get(k, now[k]) != now[k]]:
            on_message(
                f"Made with another {', '.join(changed)} from here on; an uninterrupted run may "
                f"have had other numbers."
            )
            made["resumed"] = [*made.get("resumed", []), now]
            write_text(path, to_json(made, indent=2) + "\n")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run.

        Raises:
            RunError: there is none.
        """
        if not (folder / "config.yaml").is_file():
            raise RunError(f"{folder} holds no run (it has no config.yaml).")
        try:
            return cls(folder, build(read_file(folder / "config.yaml")))
        except ConfigError as error:
            raise RunError(f"{folder / 'config.yaml'} cannot be used: {error}") from None

    def check_start(self) -> None:
        """Raise ConfigError where these settings have nothing to start from."""
        load_base(self.config, self.task)

    # --- reading ---------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "metrics.jsonl")

    @property
    def curve(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "curve.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        """None while the run is not finished."""
        return read_json(self.folder / "summary.json")

    def load(self) -> None:
        """The trained policy of a finished run, ready for `evaluate`.

        Raises:
            RunError: there is none yet, or it cannot be read.
        """
        if not (self.folder / "model").is_dir():
            raise RunError(f"{self.folder} has no trained model yet; finish it with --resume.")
        self.policy, self.tokenizer = read_policy(self.folder / "model", RunError)

    # --- training --------------------------------------------------------------------------------

    def train(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_message: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Start, or go on from the newest whole checkpoint; returns the summary.

        `stop` is asked after every step; when it says so the run saves itself and raises
        Interrupted.
        """
        self.lock()
        state, damaged = checkpoint.load_newest(self.checkpoints)
        if state:
            self.check_settings(state["settings"])
        if self.summary and (self.folder / "model" / "config.json").is_file():
            return self.summary
        self.phases()  # a damaged file of results is better known now than at the end
        c = self.config
        torch.set_num_threads(c.threads)
        self.policy, self.tokenizer = load_base(c, self.task)
        try:
            self.loop = AMFT(self.policy, self.tokenizer, self.task, c)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        for path in damaged:
            on_message(f"{path} is damaged and is left out.")
        if state:
            self.loop.load_state_dict(state["loop"])
            on_message(f"Going on after step {self.loop.step} of {c.steps}.")
            self.note_resumption(on_message)
        kept = self.keep_until(self.loop.step)
        success = kept[-1][self.main_split]["mean"] if kept else None

        def measure() -> None:
            nonlocal success
            on_progress(Progress(self.loop.step, c.steps, {"phase": "evaluating"}, success))
            success = self.measure_curve()

        if self.loop.step == 0 and not kept:
            self.evaluate_phase("base")
            if c.eval_every:
                measure()
        if self.loop.step == c.warmup_steps == 0:
            self.evaluate_phase("warm-up")
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as log:
            while self.loop.step < c.steps:
                start = time.perf_counter()
                facts = self.loop.train_step()
                facts["seconds"] = round(time.perf_counter() - start, 4)
                log.write(to_json(facts) + "\n")
                log.flush()
                step = self.loop.step
                on_progress(Progress(step, c.steps, facts, success))
                if step == c.warmup_steps:
                    self.evaluate_phase("warm-up")
                if c.eval_every and step % c.eval_every == 0 and step < c.steps:
                    measure()
                if step % c.save_every == 0 or step == c.steps:
                    os.fsync(log.fileno())
                    self.save()
                if stop() and step < c.steps:
                    self.save()
                    raise Interrupted
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """Evaluate, and write what others read."""
        self.evaluate_phase("final")
        measured = {point["step"] for point in self.curve}
        if self.config.eval_every and self.step not in measured:
            self.measure_curve()
        checkpoint.save_model(self.folder / "model", self.policy, self.tokenizer)
        return self.write_summary()

    def write_summary(self) -> dict[str, Any]:
        """summary.json, from what the other files hold."""
        lines = self.metrics
        mixed = [line["mu"] for line in lines if line["phase"] != "warm-up"]
        totals = {
            "training_rollout_tokens": sum(line.get("rollouts_tokens", 0) for line in lines),
            "validation_rollout_tokens": sum(line.get("validation_tokens", 0) for line in lines),
            "training_seconds": round(sum(line["seconds"] for line in lines), 1),
            "mean_mu": sum(mixed) / len(mixed) if mixed else None,  # after warm-up
            "final_mu": lines[-1]["mu"],
            "meta_movement": sum(abs(line.get("mu_meta") or 0.0) for line in lines),
        }
        summary = {
            "method": self.config.method,
            "seed": self.config.seed,
            "steps": self.config.steps,
            "groups": groups_word(self.task),
            "notes": dict(notes_of(self.task)),
            "baselines": self.baselines(),
            "splits": {p: self.phases().get(p) for p in PHASES},
            **totals,
        }
        self.write("summary.json", to_json(summary, indent=2) + "\n")
        return summary

    def baselines(self) -> dict[str, dict[str, float]]:
        """words -> split -> the share of one without sense, over the split's whole problems."""
        splits = reported_splits(self.task)
        return {
            words: {split: share(self.task.prompts(split)) for split in splits}
            for words, share in baselines_of(self.task).items()
        }

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.loop.step

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def save(self) -> None:
        state = {"settings": asdict(self.config), "loop": self.loop.state_dict()}
        checkpoint.save(self.checkpoints, self.loop.step, state, self.config.keep_checkpoints)

    def check_settings(self, made_with: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint of other settings than config.yaml's.

        Raises:
            RunError: they differ; the first difference is named.
        """
        for key, value in asdict(self.config).items():
            made = made_with.get(key, getattr(type(self.config), key))  # older than the setting
            if made != value:
                raise RunError(
                    f"the checkpoints in {self.folder} were made with {key} = {made}, but its "
                    f"config.yaml says {value}; put that back to go on."
                )

    def keep_until(self, step: int) -> list[dict[str, Any]]:
        """Drop logged lines after `step` (a killed run is ahead of its checkpoint).

        Raises:
            RunError: steps before it are missing.
        """
        logged = {line["step"] for line in self.metrics}
        missing = [number for number in range(step) if number not in logged]
        if missing:
            raise RunError(
                f"{self.folder / 'metrics.jsonl'} lacks step {missing[0]}, which the checkpoint "
                f"has behind it; put it back, or start a new run."
            )
        for name, first in (("metrics.jsonl", step), ("curve.jsonl", step + 1)):
            path = self.folder / name
            kept = [line for line in read_lines(path) if line["step"] < first]
            if path.is_file():
                write_text(path, "".join(to_json(line) + "\n" for line in kept))
        return kept

    # --- measuring -------------------------------------------------------------------------------

    def evaluate(self, split: str, prompts: int, samples: int, greedy: bool = True) -> Evaluation:
        """Grade the policy as it is now."""
        return evaluate(self.policy, self.tokenizer, self.task, split, prompts, samples, greedy)

    def answer(self, example: Example) -> Completion:
        """One completion, to look at: the likeliest."""
        return answers(self.policy, self.tokenizer, self.task, [example], 1, 0.0, 0)[0][0]

    def phases(self) -> dict[str, Any]:
        """phase -> split -> what was measured."""
        return read_json(self.folder / "evaluations.json") or {}

    def evaluate_phase(self, phase: str) -> None:
        c = self.config
        result = {
            split: self.evaluate(split, c.eval_prompts, c.eval_samples).summary()
            for split in reported_splits(self.task)
        }
        text = to_json({**self.phases(), phase: result}, indent=2)
        self.write("evaluations.json", text + "\n")

    def measure_curve(self) -> float:
        """A quick look at held-out success; returns that on the first split."""
        point: dict[str, Any] = {"step": self.step}
        for split in reported_splits(self.task):
            found = self.evaluate(split, self.config.curve_prompts, 4, greedy=False)
            point[split] = asdict(found.success)
        self.write("curve.jsonl", to_json(point) + "\n", append=True)
        return point[self.main_split]["mean"]

    def write(self, name: str, text: str, append: bool = False) -> None:
        """Write a file of the folder whole, or add lines to it."""
        if not append:
            return write_text(self.folder / name, text)
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(text)


def default_folder(config: RunConfig, recipe: str) -> Path:
    """runs/<recipe>-<method>-seed<seed>, numbered where that is taken."""
    stem = f"{recipe}-{config.method}-seed{config.seed}"
    folder, number = Path("runs") / stem, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder
