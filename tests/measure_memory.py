"""Peak memory of two real AMFT steps in a process of its own, for tests/test_plan.py.

    python tests/measure_memory.py '{"model": "smollm2", "lora_rank": 8, ...}'

Takes settings of `ModelConfig`, trains two steps of AMFTTrainer on the CPU, both with a meta step
(the first one has no moments of Adam yet), all prompts and answers as long as the settings allow,
and prints JSON. `peak_bytes` is the largest resident size while training, above the one after all
imports, by the kernel's own count (VmHWM, which is reset there); `building_bytes` the same before
training: loading the model and making the trainer.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
    # freed memory goes back to the system at once, so that what is resident is what is alive
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    os.execv(sys.executable, [sys.executable, *sys.argv])


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return 1024 * int(line.split()[1])


def reset() -> None:
    """Start VmHWM again from what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def watch(trainer) -> dict[str, int]:
    """The largest resident size in each of the moments of `amft_lite.plan`, filled in later."""
    peaks: dict[str, int] = {"rest": 0}
    depth: list[str] = []

    def close(name: str) -> None:
        peaks[name] = max(peaks.get(name, 0), resident("VmHWM"))
        reset()

    def wrap(holder, method: str, name) -> None:
        inner = getattr(holder, method)

        def watched(*args, **options):
            close(depth[-1] if depth else "rest")
            depth.append(name() if callable(name) else name)
            try:
                return inner(*args, **options)
            finally:
                close(depth.pop())

        setattr(holder, method, watched)

    def sampling() -> str:
        return "validation rollouts" if "validation backward" in depth else "rollouts"

    wrap(trainer, "_generate_and_score_completions", sampling)
    wrap(trainer, "compute_loss", "RL backward")
    wrap(trainer.accelerator, "backward", lambda: depth[-1] if depth else "RL backward")
    wrap(trainer, "_sft_gradient", "SFT backward")
    wrap(trainer, "_measure_utility", "validation backward")
    wrap(trainer.rule, "update", "meta step")
    wrap(trainer, "_window_entropy", "entropy")
    wrap(trainer, "_put_gradient", "optimiser")
    trainer.watched = lambda: close("rest")
    return peaks


def main(settings: dict) -> dict:
    import bitsandbytes
    import peft  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from datasets import Dataset

    from amft_lite.config import build
    from amft_lite.real_models import load_model
    from amft_lite.trainer import AMFTTrainer
    from amft_lite.trl_settings import trainer_config

    torch.set_num_threads(1)
    c = build({"steps": 2, "warmup_steps": 0, "meta_every": 1, **settings})
    torch.zeros(8, 8) @ torch.zeros(8, 8)  # loads the matrix library
    reset()
    before = resident("VmRSS")

    model, tokenizer = load_model(**c.model_options())
    loaded = resident("VmHWM")
    word = next(
        w for w in tokenizer.get_vocab() if w.isalnum() and len(tokenizer(w).input_ids) == 1
    )
    text = {n: " ".join([word] * n) for n in (c.max_prompt_tokens, c.max_new_tokens)}
    while len(tokenizer(text[c.max_prompt_tokens]).input_ids) > c.max_prompt_tokens:
        text[c.max_prompt_tokens] = text[c.max_prompt_tokens].rsplit(" ", 1)[0]
    prompts = [text[c.max_prompt_tokens] + " " * i for i in range(64)]
    held_out = [text[c.max_prompt_tokens] + "\n" * (i + 1) for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        args = trainer_config(c, Path(folder), c.max_new_tokens)
        args.save_strategy = "no"
        args.generation_kwargs = {"min_new_tokens": c.max_new_tokens}
        trainer = AMFTTrainer(
            model,
            lambda completions, **_: [float(i % 2) for i in range(len(completions))],
            args,
            Dataset.from_dict({"prompt": prompts}),
            sft_dataset=[{"prompt": p, "completion": text[c.max_new_tokens]} for p in prompts],
            validation_dataset=[{"prompt": p} for p in held_out],
            processing_class=tokenizer,
        )
        building = resident("VmHWM")
        reset()
        moments = watch(trainer)
        trainer.train()
        trainer.watched()
        log = trainer.state.log_history
    return {
        "before_bytes": before,
        "loading_bytes": loaded - before,
        "building_bytes": building - before,
        "peak_bytes": max(moments.values()) - before,
        "moments": {name: peak - before for name, peak in moments.items()},
        "lengths": [
            entry["completions/mean_length"] for entry in log if "completions/mean_length" in entry
        ],
        "bitsandbytes": bitsandbytes.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
