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
from amft_lite.sampling import sample
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
