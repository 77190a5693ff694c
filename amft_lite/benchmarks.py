"""Speed, measured as ratios of two ways within one run, alternating, on one thread.

Seconds depend on the machine and on who else uses it; a ratio of medians much less so. Benchmarks
are not tests: nothing here fails.
"""

from __future__ import annotations

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from amft_lite.models import tiny_llama, word_tokenizer
from amft_lite.sampling import answer_texts, sample
from amft_lite.tasks import load_task


def sampling(repeats: int = 5, console: Console | None = None, rollouts: int = 128) -> dict:
    """Tokens a second of `amft_lite.sampling` and of `model.generate` on the same batch.

    The batch is that of a training step: 16 prompts x 8 rollouts of 14 tokens; the models are
    freshly initialised and cannot end early, so both ways make the same number of tokens.
    """
    console = console or Console()
    torch.set_num_threads(1)
    task = load_task("general_points")
    tokenizer = word_tokenizer(task)
    prompts = [e.prompt for e in task.prompts("train", rollouts // 8)]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    new = task.max_new_tokens
    table = Table("size", "tokens", "amft_lite tok/s", "generate tok/s", "ratio of medians")
    ratios = {}
    for size in ("0.2M", "0.8M"):
        model = tiny_llama(len(tokenizer), size).eval()
        model.config.eos_token_id = -1  # never drawn
        model.generation_config.eos_token_id = None

        def ours(model=model) -> None:
            sample(model, batch.input_ids, batch.attention_mask, 8, new)

        def theirs(model=model) -> None:
            with torch.inference_mode():
                model.generate(
                    **{k: batch[k] for k in ("input_ids", "attention_mask")},
                    do_sample=True, top_k=0, num_return_sequences=8, max_new_tokens=new,
                    pad_token_id=0,
                )  # fmt: skip

        seconds: dict = {ours: [], theirs: []}
        for way in (ours, theirs):
            way()  # warm
        for _ in range(repeats):
            for way, taken in seconds.items():
                start = time.perf_counter()
                for _ in range(3):
                    way()
                taken.append((time.perf_counter() - start) / 3)
        a, b = (statistics.median(taken) for taken in seconds.values())
        tokens = rollouts * new
        ratios[size] = b / a
        table.add_row(size, str(tokens), f"{tokens / a:,.0f}", f"{tokens / b:,.0f}", f"{b / a:.2f}")
    console.print(table)
    console.print(f"Median of {repeats} alternating runs of 3 batches, one thread.", style="dim")
    return ratios


def dialogues(repeats: int = 5, console: Console | None = None, walks: int = 32) -> dict:
    """Walks of navigation in one pass, against reading each dialogue again at every turn.

    The base's walks, to the end, from the same prompts; the second way asks `sample` for every
    answer with all that was said so far as its prompt. Returns the ratio of medians.
    """
    from amft_lite.batches import roll, spell
    from amft_lite.models import base_folder, load_policy

    console = console or Console()
    torch.set_num_threads(1)
    task = load_task("navigation")
    policy, tokenizer = load_policy(base_folder("navigation"))
    prompts = task.prompts("validation", walks)
    counts: dict[str, int] = {}

    def one_pass() -> None:
        source = torch.Generator().manual_seed(0)
        rolled, _, _ = roll(policy, tokenizer, task, prompts, 1, 1.0, source, to_the_end=True)
        counts["one pass"] = int(rolled.mask.sum())

    def read_again() -> None:
        source = torch.Generator().manual_seed(0)
        running = [(task.episode(p, to_the_end=True), [(p.prompt, False)]) for p in prompts]
        counts["read again"] = 0
        while running:
            rows = [{"input_ids": spell(tokenizer, said)[0]} for _, said in running]
            batch = tokenizer.pad(rows, return_tensors="pt")
            rolled = sample(policy, batch.input_ids, batch.attention_mask, 1, task.max_new_tokens,
                            1.0, source)  # fmt: skip
            counts["read again"] += int(rolled.mask.sum())
            going = []
            for (episode, said), text in zip(running, answer_texts(rolled, tokenizer), strict=True):
                if (reply := episode.answer(text)) is not None:
                    going.append((episode, [*said, (text, True), (reply, False)]))
            running = going

    seconds: dict = {one_pass: [], read_again: []}
    for _ in range(repeats):
        for way, taken in seconds.items():
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    a, b = (statistics.median(taken) for taken in seconds.values())
    table = Table("way", "tokens of the policy", "seconds", "ratio of medians")
    table.add_row("one pass, cache kept", str(counts["one pass"]), f"{a:.2f}", "1")
    table.add_row("read again at every turn", str(counts["read again"]), f"{b:.2f}", f"{b / a:.2f}")
    console.print(table)
    console.print(f"{walks} walks, median of {repeats} alternating runs, one thread.", style="dim")
    return {"ratio": b / a}


def routes(
    repeats: int = 5, console: Console | None = None, number: int = 10_000
) -> dict[str, float]:
    """Seconds for `number` routes of navigation, cities and directions included."""
    import random

    from amft_lite.tasks.city import build_city
    from amft_lite.tasks.navigation import HOME, draw_journeys

    console = console or Console()
    taken = []
    for repeat in range(repeats):
        start = time.perf_counter()
        cities = [build_city(seed, HOME) for seed in range(50)]
        draw_journeys(cities, (1, 2, 3), number, "train", "compass", random.Random(repeat))
        taken.append(time.perf_counter() - start)
    console.print(
        f"{number} routes in {statistics.median(taken):.2f} s (median of {repeats}, "
        f"{min(taken):.2f} to {max(taken):.2f})."
    )
    return {"seconds": statistics.median(taken)}


def step(repeats: int = 7, console: Console | None = None, steps: int = 20) -> dict[str, float]:
    """What AMFT costs above its two halves: AMFTTrainer against GRPOTrainer plus SFTTrainer.

    Blocks of `steps` optimiser steps alternate in one process; a step's time is the processor time
    between the trainer's own step callbacks. One block of AMFT has one meta step, its first.
    Returns ratios of medians, and the bytes AMFT holds between steps per byte of trained weights.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from amft_lite.models import base_folder, load_policy
    from amft_lite.trainer import AMFTConfig, AMFTTrainer

    console = console or Console()
    torch.set_num_threads(1)
    task = load_task("general_points")
    examples = {s: task.prompts(s, 400) for s in ("train", "validation")}
    known = {e.prompt: e for part in examples.values() for e in part}
    demos = [{"prompt": d.prompt, "completion": d.completion} for d in task.demonstrations(100)]
    held_out = list({e.prompt: {"prompt": e.prompt} for e in examples["validation"]}.values())
    plain = {
        "output_dir": "runs/bench", "use_cpu": True, "bf16": False, "report_to": [], "seed": 0,
        "max_steps": steps, "save_strategy": "no", "disable_tqdm": True, "logging_steps": steps,
        "learning_rate": 1e-5, "gradient_checkpointing": False,
    }  # fmt: skip
    rl = {"num_generations": 8, "max_completion_length": task.max_new_tokens,
          "per_device_train_batch_size": 128}  # fmt: skip

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.seconds: list[float] = []

        def on_step_begin(self, *_, **__):
            self.start = time.process_time()

        def on_step_end(self, *_, **__):
            self.seconds.append(time.process_time() - self.start)

    def reward(prompts, completions, **_):
        return [task.reward(known[p], c).value for p, c in zip(prompts, completions, strict=True)]

    def parity(completions, **_):  # an untrained model's rewards must differ, or nothing is held
        return [float(len(set(text.split())) % 2) for text in completions]

    def trainer(kind: str, size: str | None = None, reward=reward):
        policy, tokenizer = load_policy(base_folder("general_points"))
        if size:
            policy = tiny_llama(len(tokenizer), size)
        common = {"processing_class": tokenizer, "callbacks": [Clock()]}
        prompts = Dataset.from_list([{"prompt": e.prompt} for e in examples["train"]])
        if kind == "sft":
            config = SFTConfig(**plain, per_device_train_batch_size=64, completion_only_loss=True)
            return SFTTrainer(policy, args=config, train_dataset=Dataset.from_list(demos), **common)
        if kind == "grpo":
            return GRPOTrainer(policy, reward, GRPOConfig(**plain, **rl), prompts, **common)
        config = AMFTConfig(**plain, **rl, sft_warmup_steps=0, meta_every=steps)
        return AMFTTrainer(
            policy, reward, config, prompts, sft_dataset=demos, validation_dataset=held_out,
            **common,
        )  # fmt: skip

    bytes_held = {
        kind: _bytes_after_a_block(trainer(kind, "2.7M", parity), 2) for kind in ("grpo", "amft")
    }
    weights = sum(p.numel() * 4 for p in tiny_llama(105, "2.7M").parameters())
    extra = (bytes_held["amft"] - bytes_held["grpo"]) / weights

    trainers = {kind: trainer(kind) for kind in ("grpo", "sft", "amft")}
    blocks: dict[str, list[list[float]]] = {kind: [] for kind in trainers}
    for block in range(repeats + 1):  # the first warms up
        for kind, made in trainers.items():
            made.train()
            clock = next(c for c in made.callback_handler.callbacks if type(c).__name__ == "Clock")
            if block:
                blocks[kind].append(clock.seconds)

    def per_step(kind: str, first: int = 0) -> list[float]:
        return [statistics.mean(seconds[first:]) for seconds in blocks[kind]]

    halves = [a + b for a, b in zip(per_step("grpo", 1), per_step("sft", 1), strict=True)]
    table = Table("", "ms a step: median", "lowest", "highest", "ratio of medians")
    ratios = {}
    for name, values in (
        ("GRPOTrainer + SFTTrainer", halves),
        ("AMFTTrainer, no meta step", per_step("amft", 1)),
        (f"AMFTTrainer, a meta step every {steps}", per_step("amft")),
    ):
        ratios[name] = statistics.median(values) / statistics.median(halves)
        cells = [f"{1000 * f(values):.0f}" for f in (statistics.median, min, max)]
        table.add_row(name, *cells, f"{ratios[name]:.3f}")
    console.print(table)
    console.print(
        f"{repeats} alternating blocks of {steps} steps, processor time, one thread; 0.2M "
        f"parameters, 16 x 8 rollouts and 64 demonstrations a step, 32 x 8 validation rollouts a "
        f"meta step.\nHeld between steps above GRPOTrainer: {extra:.2f} x the trained weights in "
        f"float32 (2.7M parameters, counted from tensors).",
        style="dim",
    )
    return {**ratios, "extra": extra}


def _bytes_after_a_block(trainer, steps: int) -> int:
    """Bytes of all tensors alive in this process at the end of a step, each storage once."""
    import gc
    import warnings

    from transformers import TrainerCallback

    found: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == steps:
                gc.collect()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # gc shows objects that warn when looked at
                    tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
                storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                            for t in tensors if t.device.type == "cpu"}  # fmt: skip
                found.append(sum(storages.values()))
                control.should_training_stop = True

    trainer.add_callback(Count())
    trainer.train()
    return found[0]
