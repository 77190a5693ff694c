"""A run of a real model: the run folder of `amft_lite.runs`, trained by `AMFTTrainer`.

`amft-lite run` comes here where a config names a `model`. The folder has the same files, so that
`report` and `--resume` read it alike; checkpoints are those of `transformers`, in checkpoints/.
Under torchrun or accelerate every process calls `train`; the first one writes.

A task with pictures runs with a vision-language model: `self.tokenizer` is then its processor, a
prompt is the game in words and one picture of the whole hand, which is drawn when it is looked at
(in 25 ms; thousands of them at once would fill the memory).

A task that is a dialogue becomes the trainer's `episode`; where there is a chat template, its
replies are messages of the user.

Left out: evaluation on several machines.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from amft_lite.checkpoint import disk_errors
from amft_lite.config import ConfigError, ModelConfig
from amft_lite.evaluation import Evaluation, graded
from amft_lite.files import RunError
from amft_lite.provenance import provenance
from amft_lite.real_models import STATE, ModelError, find_model, load_model, need
from amft_lite.runs import Interrupted, Progress, Run
from amft_lite.tasks import Completion, Demonstration, Episode, Example, is_dialogue
from amft_lite.tasks.cards import draw_hand
from amft_lite.tasks.general_points import instruction
from amft_lite.trl_recorder import recorder
from amft_lite.trl_settings import trainer_config
from amft_lite.vision_models import SIDE


def process_index() -> int:
    """0 for the process that writes."""
    return int(os.environ.get("RANK", 0))


class ModelRun(Run):
    """A run folder whose policy is a real model. `config` is a ModelConfig."""

    config: ModelConfig
    created = False  #: just now: what may still lie in the folder is an older run's

    @classmethod
    def create(cls, folder: Path, config: ModelConfig, overwrite: bool = False) -> ModelRun:
        """As `Run.create`; of several processes the first one makes the folder."""
        run = cls(folder, config) if process_index() else super().create(folder, config, overwrite)
        run.created = True
        return run

    def made_with(self) -> dict[str, str]:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU)"
        return provenance(("trl", "peft"), gpu)

    def lock(self) -> None:
        if not process_index():
            super().lock()

    def check_start(self) -> None:
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if processes != self.config.processes:
            raise ConfigError(
                f"this run has {processes} processes, its settings say {self.config.processes}; "
                f"start it by torchrun --nproc_per_node {self.config.processes} -m amft_lite, or "
                f"set processes={processes}."
            )
        if self.config.eval_samples < 2:
            raise ConfigError("eval_samples must be at least 2 in runs with `model`.")
        if self.talks:
            self.refuse_dialogues()
        try:
            for package in ("trl", "accelerate", "datasets"):
                need(package, "model", "train")
            if self.config.vllm != "off":
                need("vllm", f"vllm={self.config.vllm}", by="trl[vllm]")
            find_model(self.config.model, self.config.task)
        except ModelError as error:
            raise ConfigError(f"model: {error}") from None

    def refuse_dialogues(self) -> None:
        """What a task that answers back cannot be run with.

        Raises:
            ConfigError: names it.
        """
        c = self.config
        for key, plain in (("vllm", "off"), ("backend", "transformers")):
            if getattr(c, key) != plain:
                raise ConfigError(
                    f"{key} {getattr(c, key)} does not work with {c.task}, which answers back: "
                    f"model.generate writes whole dialogues; {key} must be {plain}."
                )

    # --- training --------------------------------------------------------------------------------

    def train(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_message: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Start, or go on from the newest checkpoint; returns the summary (of the first process).

        Raises:
            ConfigError: the model or the data cannot be used with these settings.
            Interrupted: `stop` said so; the run has saved itself.
        """
        self.lock()
        created, self.created = self.created, False
        if self.summary and not created:
            return self.summary
        self.check_start()
        found, halves = (None, []) if created else self.newest_checkpoint()
        for folder in halves:
            on_message(f"{folder} is not whole (killed while it was written?) and is passed over.")
        try:
            policy, self.tokenizer = load_model(**self.config.model_options())
            from amft_lite.trainer import TrainerInputError

            self.trainer = self.make_trainer(policy)
        except (ModelError, ConfigError) as error:
            if created:
                self.withdraw()
            text = str(error)
            raise ConfigError(
                text if isinstance(error, ConfigError) else f"model: {text}"
            ) from None
        self.drop_lines_after(step_of(found) if found else 0)
        if found:
            on_message(f"Going on from {found}.")
            if not process_index():
                self.note_resumption(on_message)
        self.trainer.add_callback(recorder(self, on_progress, stop))
        try:
            with disk_errors(f"a checkpoint in {self.folder} cannot be read or written"):
                self.trainer.train(resume_from_checkpoint=str(found) if found else None)
        except TrainerInputError as error:
            raise RunError(str(error)) from None
        if self.step < self.config.steps:
            raise Interrupted
        return self.finish()

    def newest_checkpoint(self) -> tuple[Path | None, list[Path]]:
        """The newest whole checkpoint (None if there is none), and newer ones that are not whole.

        The trainer's own state is written last: one file, or one a process of a sharded model.
        """
        halves = []
        for folder in sorted(self.checkpoints.glob("checkpoint-*"), key=step_of, reverse=True):
            parts = len(list(folder.glob(f"*-{STATE}")))
            if (folder / STATE).is_file() or parts == self.config.processes:
                return folder, halves
            halves.append(folder)
        return None, halves

    def withdraw(self) -> None:
        """Take back a folder in which nothing has happened: the mended command may want it."""
        if process_index():
            return
        for name in ("config.yaml", "provenance.json", ".lock"):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.checkpoints, self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def drop_lines_after(self, step: int) -> None:
        """A killed run is ahead of its checkpoint; without one it begins again."""
        if process_index():
            return
        if step:
            self.keep_until(step)
        else:
            for name in ("metrics.jsonl", "curve.jsonl"):
                (self.folder / name).unlink(missing_ok=True)

    def load(self) -> None:
        place = self.folder / "model"
        if not place.is_dir():
            raise RunError(f"{self.folder} has no trained model yet; finish it with --resume.")
        adapters = (place / "adapter_config.json").is_file()
        options = self.config.model_options()
        try:
            if adapters:
                policy, self.tokenizer = load_model(**options)
                policy.load_adapter(str(place), "default", is_trainable=True)
            else:
                policy, self.tokenizer = load_model(**{**options, "model": str(place)})
        except ModelError as error:
            raise RunError(str(error)) from None
        self.trainer = self.make_trainer(policy)

    def finish(self) -> dict[str, Any]:
        """Evaluate, and write what others read."""
        self.evaluate_phase("final")
        measured = {point["step"] for point in self.curve}
        if self.config.eval_every and self.step not in measured:
            self.measure_curve()
        with disk_errors(f"the model in {self.folder} could not be written"):
            self.trainer.save_model(str(self.folder / "model"))
        if process_index():
            return {}
        self.tokenizer.save_pretrained(self.folder / "model")
        return self.write_summary()

    def make_trainer(self, policy: Any) -> Any:
        """An AMFTTrainer with this run's data and settings.

        Raises:
            ConfigError: the data cannot be used.
        """
        from transformers import PrinterCallback

        from amft_lite.trainer import AMFTTrainer, TrainerInputError

        c = self.config
        rule_steps = c.steps - c.warmup_steps
        meta_steps = -(-rule_steps // c.meta_every)
        try:  # real data are read now
            examples = self.task.prompts("train", c.steps * c.prompts_per_step, c.seed)
            held_out = self.task.prompts("validation", meta_steps * c.validation_prompts, c.seed)
            experts = self.task.demonstrations(c.demonstrations, c.seed)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"task: {error}.") from None
        shown = [d.example for d in experts] if self.shows else []  # their pictures are drawn later
        self.examples = {self.key(e): e for e in (*shown, *examples, *held_out)}
        unique = list({self.key(e): e for e in held_out}.values())
        try:
            trainer = AMFTTrainer(
                policy,
                None if self.talks else self.reward,
                trainer_config(c, self.checkpoints, self.new_tokens, self.episode_tokens),
                self.dataset([self.row(e) for e in examples]),
                sft_dataset=self.dataset([self.expert_row(d) for d in experts]),
                validation_dataset=self.dataset([self.row(e) for e in unique]) if unique else None,
                method=c.method,
                episode=self.episode if self.talks else None,
                processing_class=self.tokenizer,
            )
        except TrainerInputError as error:
            raise ConfigError(str(error)) from None
        trainer.remove_callback(PrinterCallback)  # we have a bar and a file for what it prints
        return trainer

    # --- the task as TRL wants it ----------------------------------------------------------------

    @property
    def new_tokens(self) -> int:
        return self.config.max_new_tokens or self.task.max_new_tokens

    @property
    def episode_tokens(self) -> int | None:
        """Tokens of a dialogue after its prompt, at most; None where there are none.

        The task counts words; a tokenizer that cuts them smaller makes all of it longer.
        """
        if not self.talks or self.config.max_episode_tokens:
            return self.config.max_episode_tokens or None
        return -(-self.task.max_episode_tokens * self.new_tokens // self.task.max_new_tokens)

    @property
    def talks(self) -> bool:
        """Whether the task answers back."""
        return is_dialogue(self.task)

    @property
    def shows(self) -> bool:
        """Whether the task has pictures."""
        return bool(getattr(self.task, "vision", False))

    @property
    def chats(self) -> bool:
        """Whether prompts go through the tokenizer's (or processor's) chat template."""
        there, asked = self.tokenizer.chat_template is not None, self.config.chat
        if not there and (asked == "on" or self.shows):
            reader = "processor" if self.shows else "tokenizer"
            wish = ", which pictures need" if self.shows else ""
            raise ConfigError(
                f"chat: the {reader} of {self.config.model} has no chat template{wish}."
            )
        return there if asked == "auto" else asked == "on"

    @staticmethod
    def key(example: Example) -> str:
        """What names an example: its prompt, and the cards shown beside it."""
        return (
            f"{example.prompt} {deck}" if (deck := getattr(example, "deck", "")) else example.prompt
        )

    @staticmethod
    def picture(example: Any) -> Any:
        """The whole hand on a square table, as the original game shows it."""
        return _drawn(example.deck)

    def prompt(self, example: Any, picture: Any = None) -> Any:
        """What the model is asked: a text, or messages; with `picture` a content block of them."""
        text = instruction(example) if self.shows else example.prompt
        if picture is not None:
            text = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        return [{"role": "user", "content": text}] if self.chats else text

    def row(self, example: Example) -> dict[str, Any]:
        key = self.key(example)
        row = {"prompt": self.prompt(example), "key": key}
        return row | {"images": [key]} if self.shows else row

    def expert_row(self, demonstration: Demonstration) -> dict[str, Any]:
        if self.talks:
            turns = demonstration.spoken
            said = [text for text, _ in turns] if not self.chats else [
                {"role": "assistant" if own else "user", "content": text} for text, own in turns
            ]  # fmt: skip
            return self.row(demonstration.example) | {"completion": said}
        text = demonstration.completion
        answer = [{"role": "assistant", "content": text}] if self.chats else f" {text}"
        return self.row(demonstration.example) | {"completion": answer}

    def dataset(self, rows: list[dict[str, Any]]) -> Any:
        """The rows that fit; keys in the column `images` become pictures when they are read."""
        rows = self.fitting(rows)
        if not self.shows:
            return rows
        from datasets import Dataset

        def drawn(columns: dict[str, list]) -> dict[str, list]:
            if "images" in columns:
                pictures = [
                    [self.picture(self.examples[k]) for k in own] for own in columns["images"]
                ]
                columns = columns | {"images": pictures}
            return columns

        return Dataset.from_list(rows).with_transform(drawn)

    def fitting(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows whose prompts have at most `max_prompt_tokens`; for TRL all are as long as told."""
        most, words = self.config.max_prompt_tokens, self.tokenizer
        taken = 0  # tokens of a picture; all are of one size
        if self.shows:
            from trl.data_utils import prepare_multimodal_messages

            words, picture = self.tokenizer.tokenizer, self.picture(self.examples[rows[0]["key"]])
            messages = [prepare_multimodal_messages(r["prompt"], [picture]) for r in rows]
            texts = self.tokenizer.apply_chat_template(messages, tokenize=False)
            whole = self.tokenizer(text=texts[:1], images=[[picture]])["input_ids"][0]
            taken = len(whole) - len(words(texts[0])["input_ids"])
        else:
            texts = [
                words.apply_chat_template(r["prompt"], tokenize=False) if self.chats
                else r["prompt"] for r in rows
            ]  # fmt: skip
        lengths = [taken + len(ids) for ids in words(texts)["input_ids"]]
        kept = [row for row, length in zip(rows, lengths, strict=True) if length <= most]
        if not kept:
            shortest = f"; the shortest has {min(lengths)}, its picture included" if taken else ""
            raise ConfigError(f"no prompt of {self.task.name} has at most {most} tokens{shortest}.")
        return kept

    def reward(self, completions: list, key: list[str], **_: Any) -> list[float]:
        """The task's reward, as TRL calls it."""
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return [
            self.task.reward(self.examples[k], t).value for k, t in zip(key, texts, strict=True)
        ]

    def episode(self, row: dict[str, Any]) -> Episode:
        """The dialogue of a row, as the trainer asks for it."""
        return self.task.episode(self.examples[row["key"]])

    # --- measuring -------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return self.trainer.state.global_step

    def evaluate(self, split: str, prompts: int, samples: int, greedy: bool = True) -> Evaluation:
        """Grade fresh answers; every process takes part. Training's random numbers are kept."""
        examples = self.task.prompts(split, None, 0)
        examples = examples[:prompts] if prompts else examples
        with _random_state_kept(seed=0):
            drawn = self.completions(examples, samples)
            first = self.completions(examples, 1, greedy=True) if greedy else []
        return graded(self.task, split, examples, drawn, [texts[0] for texts in first])

    def shown_prompt(self, example: Example) -> Any:
        """The prompt as the sampler takes it, its picture in it."""
        return self.prompt(example, self.picture(example) if self.shows else None)

    def completions(
        self, examples: list[Example], n: int, greedy: bool = False
    ) -> list[list[Completion]]:
        """`n` completions of every prompt; dialogues to the end."""
        if not self.talks:
            asked = [self.shown_prompt(e) for e in examples]
            return self.trainer.answers(asked, n, greedy)
        rows = [{"prompt": self.prompt(e), "place": i} for i, e in enumerate(examples)]

        def episode(row: dict[str, Any]) -> Episode:
            return self.task.episode(examples[row["place"]], to_the_end=True)

        return self.trainer.answers(rows, n, greedy, episode)

    def answer(self, example: Example) -> Completion:
        """One completion, to look at: the likeliest."""
        return self.completions([example], 1, greedy=True)[0][0]

    def write(self, name: str, text: str, append: bool = False) -> None:
        """Only the first process writes."""
        if not process_index():
            super().write(name, text, append)


def step_of(checkpoint: Path) -> int:
    """The step of a folder checkpoint-<step>."""
    return int(checkpoint.name.rsplit("-", 1)[1])


@functools.lru_cache(maxsize=256)  # TRL reads a row once a rollout; 0.6 MB each
def _drawn(deck: tuple) -> Any:
    return draw_hand(deck, SIDE, square=True)


@contextmanager
def _random_state_kept(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed + process_index())
        yield
