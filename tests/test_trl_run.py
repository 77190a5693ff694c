"""Runs of real models from the command line: one folder, resume after a kill, two processes."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from amft_lite import trl_run
from amft_lite.cli import app
from amft_lite.config import ConfigError, build
from amft_lite.models import base_folder
from amft_lite.real_models import ModelError
from amft_lite.smollm2 import cache_folder, gguf_file
from amft_lite.trl_run import ModelRun, trainer_config

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "model": "tiny", "lora_rank": 0, "gradient_checkpointing": "off", "steps": 8,
    "warmup_steps": 2, "prompts_per_step": 4, "rollouts_per_prompt": 4, "sft_batch": 8,
    "validation_prompts": 2, "validation_rollouts": 4, "meta_every": 2, "demonstrations": 20,
    "eval_prompts": 6, "eval_samples": 5, "curve_prompts": 4, "eval_every": 4, "save_every": 2,
}  # fmt: skip


def words(**changes):
    return [w for k, v in {**TINY, **changes}.items() for w in ("--set", f"{k}={v}")]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_a_run_is_a_run_folder_like_any_other(tmp_path):
    done = run("run", "--out", tmp_path / "r", *words())
    assert done.exit_code == 0, done.output
    lines = [json.loads(x) for x in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(8))
    assert [x["phase"] for x in lines] == ["warm-up"] * 2 + ["train"] * 6
    assert all("reward" not in x and x["mu"] == 1 for x in lines[:2])
    assert all(0 < x["mu"] < 1 and x["entropy"] > 0 for x in lines[2:])
    assert [x["step"] for x in lines if "validation_reward" in x] == [2, 4, 6]
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["splits"]["final"]["test"]["prompts"] == 6
    assert summary["splits"]["base"].keys() == {"test", "ood_rule"}
    assert (tmp_path / "r" / "report.html").is_file()
    found = run("evaluate", tmp_path / "r", "--prompts", 4, "--samples", 2, "--examples", 1)
    assert found.exit_code == 0 and "ood_rule" in found.output


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole = run("run", "--out", tmp_path / "whole", *words())
    assert whole.exit_code == 0, whole.output
    command = [sys.executable, "-m", "amft_lite", "run", "--out", str(tmp_path / "cut"), *words()]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    log = tmp_path / "cut" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) >= 5):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "summary.json").exists()
    went_on = run("run", "--out", tmp_path / "cut", "--resume")
    assert went_on.exit_code == 0, went_on.output
    assert "Going on from" in went_on.output
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    lines = [json.loads(x)["step"] for x in log.read_text().splitlines()]
    assert lines == list(range(8))


def half_of(checkpoint, step):
    """A checkpoint as a kill leaves it: the trainer's own state is written last."""
    half = checkpoint.parent / f"checkpoint-{step}"
    shutil.copytree(checkpoint, half)
    (half / "amft_state.pt").unlink()
    return half


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    whole = run("run", "--out", tmp_path / "whole", *words())
    assert whole.exit_code == 0, whole.output
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(cut / "model")
    (cut / "summary.json").unlink()
    for path in cut.glob("checkpoints/checkpoint-8"):
        shutil.rmtree(path)
    half = half_of(cut / "checkpoints" / "checkpoint-6", 8)
    went_on = run("run", "--out", cut, "--resume")
    assert went_on.exit_code == 0, went_on.output
    said = "".join(went_on.output.split())  # lines are broken inside long paths
    assert f"{half.name}isnotwhole" in said and "checkpoint-6." in said
    a, b = weights(tmp_path / "whole"), weights(cut)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_sharded_checkpoint_is_whole_when_every_process_has_written(tmp_path):
    run = ModelRun(tmp_path, build({**TINY, "processes": 4}))
    for name in ("checkpoint-2/amft_state.pt", "checkpoint-4/0-amft_state.pt"):
        path = run.checkpoints / name
        path.parent.mkdir(parents=True)
        path.touch()
    found, halves = run.newest_checkpoint()
    assert found.name == "checkpoint-2" and [x.name for x in halves] == ["checkpoint-4"]
    for rank in (1, 2, 3):
        (run.checkpoints / "checkpoint-4" / f"{rank}-amft_state.pt").touch()
    assert run.newest_checkpoint() == (run.checkpoints / "checkpoint-4", [])


def test_resuming_where_the_model_is_out_of_reach_keeps_the_run(tmp_path, monkeypatch):
    ModelRun.create(tmp_path / "r", build(TINY))
    written = (tmp_path / "r" / "config.yaml").read_text()

    def unreachable(**_):
        raise ModelError("the hub is away.")

    monkeypatch.setattr(trl_run, "load_model", unreachable)
    done = run("run", "--out", tmp_path / "r", "--resume")
    assert done.exit_code == 2 and "the hub is away" in done.output
    assert (tmp_path / "r" / "config.yaml").read_text() == written


def test_a_replaced_run_s_summary_is_no_reason_to_stop(tmp_path, monkeypatch):
    """Of several processes one may come before the first has emptied the folder."""
    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setenv("RANK", "1")
    again = ModelRun.create(tmp_path, build({**TINY, "processes": 2}), overwrite=True)
    with pytest.raises(ConfigError, match="this run has 1 processes"):  # it went on to start
        again.train()


def test_processes_that_could_each_make_a_folder_are_told_to_share_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run("run", *words(processes=2))
    assert done.exit_code == 2 and "give --out FOLDER" in done.output


def test_more_memory_than_a_gpu_has_is_one_sentence(tmp_path, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(ModelRun, "train", short)
    done = run("run", "--out", tmp_path / "r", *words())
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "or eval_samples, or raise accumulation." in " ".join(done.output.split())


def test_provenance_names_what_a_real_model_depends_on(tmp_path):
    ModelRun.create(tmp_path / "r", build(TINY))
    made = json.loads((tmp_path / "r" / "provenance.json").read_text())
    assert made["trl"] and made["peft"] and made["accelerator"]


def test_torchrun_trains_one_run_in_two_processes(tmp_path):
    out = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc_per_node=2", "-m", "amft_lite", "run", "--out", str(out),
               *words(processes=2)]  # fmt: skip
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True,
                          timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("training took") == 1  # one process speaks
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(8))
    summary = json.loads((out / "summary.json").read_text())
    assert sum(summary["splits"]["final"]["test"]["outcomes"].values()) == 6 * 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "no/such/folder/here"}, "model: there is no model in no/such/folder/here"),
        ({"processes": 2}, "this run has 1 processes, its settings say 2"),
        ({"prompts_per_step": 3, "accumulation": 5}, "must be a multiple of accumulation"),
        ({"max_prompt_tokens": 2}, "no prompt of general_points has at most 2 tokens"),
        ({"method": "official_code"}, "works in runs without `model` only"),
        ({"chat": "on"}, "chat: the tokenizer of tiny has no chat template"),
        ({"eval_samples": 1}, "eval_samples must be at least 2"),
        ({"vllm": "colocate"}, "vllm=colocate needs the package vllm; `pip install 'trl[vllm]'`"),
        ({"save_every": 3, "inner_epochs": 2}, "save_steps (3) must be a multiple of 2"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, changes, sentence):
    done = run("run", "--out", tmp_path / "r", *words(**changes))
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.output.split())
    assert not (tmp_path / "r").exists()  # the mended command finds no half-made run


def test_every_setting_of_the_loop_reaches_the_trainer(tmp_path):
    """Or is one of those that the run itself uses. A forgotten one would be silently ignored."""
    changes = {
        "lr": 3e-4, "beta1": 0.8, "beta2": 0.7, "weight_decay": 0.1, "max_grad_norm": 0.3,
        "temperature": 0.9, "advantage": "gae", "advantage_scale": "none", "clip_range": 0.3,
        "inner_epochs": 2, "gamma": 0.9, "gae_lambda": 0.8, "value_lr": 0.1, "mu_start": 0.4,
        "mu_min": 0.1, "mu_max": 0.9, "eta_mu": 2.0, "max_change": 0.1, "meta_every": 3,
        "validation_prompts": 4, "validation_rollouts": 2, "ema_gradients": 0.5,
        "ema_utility": 0.4, "width": 0.2, "entropy_form": "text", "eta_entropy": 0.1,
        "entropy_beta": 0.2, "switch": 0.2, "published_lr": 0.1, "published_eta_mu": 0.2,
        "published_eta_entropy": 0.3, "seed": 3, "steps": 9, "warmup_steps": 3, "sft_batch": 6,
        "prompts_per_step": 2, "rollouts_per_prompt": 6, "save_every": 4, "keep_checkpoints": 4,
        "gradient_checkpointing": "on", "lr_schedule": "cosine", "lr_warmup_steps": 2,
        "accumulation": 3, "max_new_tokens": 7, "vllm_memory": 0.2, "dtype": "bfloat16",
        "direction": "sgd", "chord_decay": 0.2, "trace": "0.5",
        "trace_decay": 0.5, "gate_start": "open", "eta_gate": 0.9, "eta_trust": 0.9,
    }  # fmt: skip
    elsewhere = set(
        "method task reward base demonstrations micro_batch threads eval_prompts eval_samples "
        "eval_every curve_prompts model backend quantization lora_rank lora_alpha lora_dropout "
        "max_prompt_tokens datasets train_set test_sets chat trust_remote_code processes "
        "vllm wrong_demonstrations tries max_episode_tokens".split()
    )
    refused = {"demonstrated_prompts": 0.5, "utility_rollouts": "training", "gate_threshold": 0.5,
               "expert_utility": 0.1}  # fmt: skip
    for key, value in refused.items():
        with pytest.raises(ConfigError, match=f"{key} has no meaning in runs with `model`"):
            build({**TINY, key: value})
    plain = build({**TINY, "save_every": 2})
    assert {k for k in vars(plain)} == changes.keys() | elsewhere | refused.keys()
    before = vars(trainer_config(plain, tmp_path, 14))
    for key, value in changes.items():
        other = {**TINY, "save_every": 2, key: value}
        if key in ("inner_epochs", "accumulation"):
            other |= {"prompts_per_step": 6, "save_every": 6}
        config = build(other)
        new = config.max_new_tokens or 14
        after = vars(trainer_config(config, tmp_path, new))
        base = vars(trainer_config(build({**other, key: vars(plain)[key]}), tmp_path, 14))
        assert str(after) != str(base), key
    assert before["shuffle_dataset"] is False
    rows = before["per_device_train_batch_size"]  # TRL's passes over validation rollouts, too
    assert before["per_device_eval_batch_size"] == rows != 8  # transformers' default


SMOLLM2 = (cache_folder() / "config.json").is_file() or (
    gguf_file() is not None and importlib.util.find_spec("gguf") is not None
)


def three_steps(folder, quantization, backend, dtype="bfloat16"):
    """Adapters of a 135M model: gradients, saved, reloaded, merged, generating."""
    config = build(
        {
            "model": "smollm2", "quantization": quantization, "backend": backend, "steps": 3,
            "dtype": dtype, "task": "arithmetic", "warmup_steps": 0, "prompts_per_step": 2,
            "rollouts_per_prompt": 2, "sft_batch": 2, "validation_prompts": 1, "meta_every": 2,
            "validation_rollouts": 2, "max_new_tokens": 6, "demonstrations": 4, "lora_rank": 4,
            "gradient_checkpointing": "off", "eval_prompts": 1, "eval_samples": 2, "eval_every": 0,
        }
    )  # fmt: skip
    run = ModelRun.create(folder, config)
    rewards = iter(range(10**6))  # untrained, it is never right; alternating rewards stand in
    run.reward = lambda completions, **_: [float(next(rewards) % 2) for _ in completions]
    run.train()
    lines = run.metrics
    assert len(lines) == 3
    for line in lines:
        assert 0 < line["grad_norm_sft"] < 1e4 and 0 < line["grad_norm_rl"] < 1e4
    assert lines[0]["grad_norm_utility"] > 0 and 0 < lines[-1]["mu"] < 1

    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    trained = run.trainer.accelerator.unwrap_model(run.trainer.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer("3 + 4 ?", return_tensors="pt")
    with torch.no_grad():
        expected = trained(**ids).logits[0, -1].float()
    again = ModelRun(folder, config)
    again.load()
    with torch.no_grad():
        reloaded = again.trainer.model.eval()(**ids).logits[0, -1].float()
    assert (expected - reloaded).norm() < 0.05 * expected.norm()  # one under autocast, one not
    adapters = [{n: p for n, p in m.named_parameters() if "lora_" in n}
                for m in (trained, again.trainer.model)]  # fmt: skip
    assert adapters[0].keys() == adapters[1].keys() and adapters[0]
    assert all(torch.equal(p, adapters[1][n]) for n, p in adapters[0].items())
    assert any(p.abs().max() > 0 for n, p in adapters[0].items() if "lora_B" in n)
    merged = AutoPeftModelForCausalLM.from_pretrained(folder / "model").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    out = merged.generate(**ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1]


@pytest.mark.skipif(not SMOLLM2, reason="`make smollm2` installs the model")
@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ("none", "float32"),
        ("nf4", "float32"),
        # minutes on CPUs without instructions for it; the tiny base has it in every run of tests
        pytest.param("nf4", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_three_real_steps_of_smollm2(tmp_path, quantization, dtype):
    three_steps(tmp_path / "r", quantization, "transformers", dtype)


@pytest.mark.skipif(
    not SMOLLM2 or importlib.util.find_spec("unsloth") is None,
    reason="unsloth is an optional package",
)
def test_three_real_steps_of_smollm2_through_unsloth(tmp_path):
    """In a process of its own: unsloth has to come before TRL."""
    code = "import sys, pathlib; from tests.test_trl_run import three_steps; "
    code += "three_steps(pathlib.Path(sys.argv[1]), 'nf4', 'unsloth')"
    places = {**environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], cwd=ROOT, env=places,
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


# --- data of one's own ----------------------------------------------------------------------------


def own_data(folder):
    def lines(name, first, n):
        rows = [{"q": f"{i} + 1 ?", "a": str(i + 1), "s": f"{i} + 1 = {i + 1}"}
                for i in range(first, first + n)]  # fmt: skip
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    lines("mine.jsonl", 0, 400)
    lines("held.jsonl", 500, 8)
    columns = "question: q, answer: a, grader: integer"
    (folder / "sets.yaml").write_text(
        f"mine: {{path: mine.jsonl, {columns}, solution: s}}\n"
        f"held: {{path: held.jsonl, {columns}}}\n"
        f"plain: {{path: mine.jsonl, {columns}}}\n"
    )
    return {
        "model": base_folder("general_points"), "task": "dataset", "train_set": "mine",
        "test_sets": "held", "datasets": folder / "sets.yaml", "max_new_tokens": 8,
    }  # fmt: skip


def test_a_run_on_data_of_ones_own_needs_four_keys_a_set(tmp_path):
    done = run("run", "--out", tmp_path / "r", *words(**own_data(tmp_path)))
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["splits"]["final"].keys() == {"held"}
    assert summary["splits"]["final"]["held"]["prompts"] == 6
    assert "held" in done.output and (tmp_path / "r" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_set": "mien"}, "task: no data set is called 'mien'"),
        ({"train_set": "plain"}, "task: the set of train has no worked answers"),
        ({"task": "arithmetic"}, "belong to tasks of real data, not to arithmetic"),
        ({"datasets": "no.yaml"}, "task: the data sets of no.yaml cannot be read"),
        ({"test_sets": "mine"}, "0 questions to train on, after 400 that are also in a test set"),
    ],
)
def test_a_mistake_in_ones_own_data_is_one_sentence(tmp_path, changes, sentence):
    done = run("run", "--out", tmp_path / "r", *words(**{**own_data(tmp_path), **changes}))
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.output.split())
