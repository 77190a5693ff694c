"""What a run of a real model writes down while TRL trains it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from amft_lite.files import to_json
from amft_lite.runs import Progress, Run

#: TRL's and transformers' names of what metrics.jsonl calls otherwise, or keeps.
_RENAMED = {"reward": "reward", "frac_reward_zero_std": "groups_without_variance",
            "grad_norm": "grad_norm", "learning_rate": "lr"}  # fmt: skip


def recorder(run: Run, on_progress: Callable[[Progress], None], stop: Callable[[], bool]):
    """The callback that writes metrics.jsonl, measures, and stops when asked."""
    from transformers import TrainerCallback

    c = run.config

    class Recorder(TrainerCallback):
        success: float | None = None
        started = 0.0

        def on_train_begin(self, args, state, control, **_):
            if state.global_step == 0:
                run.evaluate_phase("base")
                self.look()
                if c.warmup_steps == 0:
                    run.evaluate_phase("warm-up")

        def look(self):
            if c.eval_every:
                on_progress(Progress(run.step, c.steps, {"phase": "evaluating"}, self.success))
                self.success = run.measure_curve()

        def on_step_begin(self, *_, **__):
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            self.seconds = time.perf_counter() - self.started
            control.should_log = True
            if asked_of_any(stop()):
                control.should_save = control.should_training_stop = True
            if state.global_step == c.steps:
                control.should_save = True

        def on_log(self, args, state, control, logs=None, **_):
            if not logs or "amft/mu" not in logs:
                return
            step = state.global_step - 1
            facts = {"step": step, "phase": "warm-up" if step < c.warmup_steps else "train"}
            facts |= {k.removeprefix("amft/"): v for k, v in logs.items() if k.startswith("amft/")}
            facts |= {ours: logs[k] for k, ours in _RENAMED.items() if k in logs}
            if "completions/mean_length" in logs:
                answers = c.prompts_per_step * c.rollouts_per_prompt
                facts["rollouts_tokens"] = round(logs["completions/mean_length"] * answers)
                facts["groups_with_variance"] = 1 - facts.pop("groups_without_variance")
            facts["seconds"] = round(self.seconds, 4)
            run.write("metrics.jsonl", to_json(facts) + "\n", append=True)
            on_progress(Progress(state.global_step, c.steps, facts, self.success))
            if state.global_step == c.warmup_steps:
                run.evaluate_phase("warm-up")
            due = c.eval_every and state.global_step % c.eval_every == 0
            if due and state.global_step < c.steps:
                self.look()

    return Recorder()


def asked_of_any(stop: bool) -> bool:
    """Whether any process was asked to stop: all save together, or those who do wait for ever."""
    if not torch.distributed.is_initialized():
        return stop
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    asked = torch.tensor(float(stop), device=device)
    torch.distributed.all_reduce(asked)
    return bool(asked > 0)
