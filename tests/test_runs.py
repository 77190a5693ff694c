"""Runs on disk, through the command line as a user types it: results, refusals, kill and resume."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from amft_lite.cli import app, settings_help
from amft_lite.config import build, read_file
from amft_lite.files import read_lines, to_json
from amft_lite.methods import METHODS
from amft_lite.models import base_folder
from amft_lite.runs import Run

SMOKE = ["run", "--config", "smoke"]


def amft(*words, code=0):
    """Run the command line in this process; returns what it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result.output if code == 0 else result.stderr


def command(*words):
    return [sys.executable, "-m", "amft_lite.cli", *map(str, words)]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def untimed(folder):
    return [{k: v for k, v in line.items() if k != "seconds"}
            for line in read_lines(folder / "metrics.jsonl")]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    output = amft(*SMOKE, "--out", folder)
    return folder, output


def test_a_run_leaves_everything_it_promises(finished):
    folder, output = finished
    for name in ("config.yaml", "provenance.json", "metrics.jsonl", "summary.json", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert "after warm-up" in output and "ood_rule" in output
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(12))
    last = lines[-1]
    for key in (
        "mu mu_meta mu_entropy sft_loss rl_loss grad_norm grad_norm_sft grad_norm_rl cos_sft_rl "
        "entropy reward groups_with_variance clip_fraction rollouts_tokens seconds"
    ).split():
        assert key in last, key
    summary = json.loads((folder / "summary.json").read_text())
    for phase in ("base", "warm-up", "final"):
        for split in ("test", "ood_rule"):
            success = summary["splits"][phase][split]["success"]
            assert 0 <= success["low"] <= success["mean"] <= success["high"] <= 1
            assert success["n"] > 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["steps"] == 12


def test_the_report_is_one_file_that_asks_the_network_for_nothing(finished):
    page = (finished[0] / "report.html").read_text()
    assert "Held-out success" in page and "How to read it" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert len(page) > 1_000_000  # plotly is inside


def test_same_seed_same_numbers_another_seed_others(finished, tmp_path):
    amft(*SMOKE, "--out", tmp_path / "b")
    assert untimed(finished[0]) == untimed(tmp_path / "b")
    assert equal(weights(finished[0]), weights(tmp_path / "b"))
    amft(*SMOKE, "--out", tmp_path / "c", "--seed", 1)
    assert untimed(finished[0]) != untimed(tmp_path / "c")


def test_killed_at_a_random_step_and_resumed_it_reaches_the_same_weights(finished, tmp_path):
    """kill -9 cannot be caught: whatever is on disk at that moment must do."""
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command(*SMOKE, "--out", folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wanted = random.randint(1, 9)
    deadline = time.monotonic() + 120
    while len(read_lines(folder / "metrics.jsonl")) < wanted and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "summary.json").exists(), "it finished before the kill"
    amft("run", "--resume", "--out", folder)
    assert equal(weights(finished[0]), weights(folder))
    assert untimed(finished[0]) == untimed(folder)
    assert read_lines(finished[0] / "curve.jsonl") == read_lines(folder / "curve.jsonl")


def test_half_a_checkpoint_is_named_and_survived(finished, tmp_path):
    folder = tmp_path / "half"
    process = subprocess.Popen(command(*SMOKE, "--out", folder), stdout=subprocess.DEVNULL)
    while len(list(folder.glob("checkpoints/*.safetensors"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    newest = sorted(folder.glob("checkpoints/*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    (folder / "summary.json").unlink(missing_ok=True)
    output = amft("run", "--resume", "--out", folder)
    assert newest.name in output.replace("\n", "") and "damaged" in output
    assert equal(weights(finished[0]), weights(folder))


def test_ctrl_c_saves_and_says_how_to_go_on(finished, tmp_path):
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        command(*SMOKE, "--out", folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(read_lines(folder / "metrics.jsonl")) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "Traceback" not in output
    assert f"amft-lite run --resume --out {folder}" in output
    done = len(read_lines(folder / "metrics.jsonl"))
    assert (folder / "checkpoints" / f"step-{done:06d}.safetensors").is_file()
    made = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(made | {"torch": "2.0"}))
    said = " ".join(amft("run", "--resume", "--out", folder).split())
    assert "Made with another torch from here on" in said
    assert equal(weights(finished[0]), weights(folder))
    [resumed] = json.loads((folder / "provenance.json").read_text())["resumed"]
    assert resumed["torch"] == made["torch"] and resumed["commit"] == made["commit"]


def test_resuming_a_finished_run_prints_its_table_and_changes_nothing(finished):
    before = (finished[0] / "summary.json").read_bytes()
    assert "after amft" in amft("run", "--resume", "--out", finished[0])
    assert (finished[0] / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "stpes=3"], "did you mean steps"),
        (["--set", "steps"], "key=value"),
        (["--method", "amtf"], "did you mean amft"),
        (["--config", "nowhere.yaml"], "neither a file nor one of the recipes"),
        (["--set", "base=nowhere"], "`amft-lite pretrain --task general_points --out nowhere`"),
        (["--set", "base=b-seed2"], "pretrain --task general_points --seed 2 --out b-seed2`"),
        (["--set", "steps=-1"], "at least 1"),
        (["--set", "task=chess"], "task must be one of"),
        (["--resume"], "needs --out"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(tmp_path, words, sentence):
    error = amft("run", *words, *([] if "--resume" in words else ["--out", tmp_path / "x"]), code=2)
    assert sentence in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_that_hold_something_else_are_left_alone(finished, tmp_path):
    assert "already holds a run" in amft(*SMOKE, "--out", finished[0], code=2)
    (tmp_path / "photo.jpg").write_text("dear")
    assert "holds no run" in amft(*SMOKE, "--out", tmp_path, "--overwrite", code=2)
    assert (tmp_path / "photo.jpg").read_text() == "dear"
    assert "is a file" in amft(*SMOKE, "--out", tmp_path / "photo.jpg", code=2)
    assert "holds no run" in amft("run", "--resume", "--out", tmp_path, code=2)
    assert "holds no run" in amft("report", tmp_path, code=2)
    assert "holds no run" in amft("evaluate", tmp_path, code=2)


def test_a_resumed_run_keeps_its_settings(finished):
    error = amft("run", "--resume", "--out", finished[0], "--set", "lr=0.1", code=2)
    assert "lr is 0.0005" in error
    amft("run", "--resume", "--out", finished[0], "--set", "steps=12")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "model=tiny"], "model is empty there, not tiny"),
        (["--set", "threads=2", "--set", "model=smollm2"], "model is empty there, not smollm2"),
        (["--set", "base=other"], "base is empty there, not other"),
        (["--overwrite"], "give one of them"),
        (["--config", "lite"], "so --config lite would change nothing"),
    ],
)
def test_what_resume_would_leave_out_is_refused(finished, words, sentence):
    before = {path: path.read_bytes() for path in finished[0].rglob("*") if path.is_file()}
    error = amft("run", "--resume", "--out", finished[0], *words, code=2)
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in finished[0].rglob("*") if p.is_file()} == before


def test_resume_of_a_run_without_model_may_say_so(finished):
    assert "after amft" in amft("run", "--resume", "--out", finished[0], "--set", "model=")


def test_resume_of_a_run_with_a_model_keeps_it(tmp_path):
    (tmp_path / "config.yaml").write_text("model: tiny\nlora_rank: 0\n")
    for model, asked in (("smollm2", "smollm2"), ("", "empty")):
        words = ("run", "--resume", "--out", tmp_path, "--set", f"model={model}")
        assert f"model is tiny there, not {asked}." in amft(*words, code=2)


def test_a_failed_overwrite_leaves_the_older_run(finished):
    amft(*SMOKE, "--out", finished[0], "--overwrite", "--set", "base=nowhere", code=2)
    assert (finished[0] / "summary.json").is_file()


def test_without_out_a_new_folder_is_made_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["--set", "steps=1", "--set", "warmup_steps=1", "--set", "eval_every=0"]
    for _ in range(2):
        amft(*SMOKE, *tiny, "--method", "sft")
    assert sorted(os.listdir("runs")) == ["smoke-sft-seed0", "smoke-sft-seed0-2"]


def test_evaluate_and_report_read_a_run_back(finished, tmp_path):
    folder = finished[0]
    output = amft("evaluate", folder, "--prompts", 20, "--samples", 5, "--split", "validation")
    assert "validation" in output and "attempts@5" in output
    assert "no split is called" in amft("evaluate", folder, "--split", "nope", code=2)
    amft(*SMOKE, "--out", tmp_path / "sft", "--method", "sft")
    page = tmp_path / "both.html"
    amft("report", folder, tmp_path / "sft", "--out", page)
    assert "amft-lite: amft, sft" in page.read_text()
    amft("report", folder, "--pictures", tmp_path / "pictures")
    drawn = {path.stem: path.read_bytes()[:8] for path in (tmp_path / "pictures").iterdir()}
    assert set(drawn) == {"success", "mu", "entropy", "reward", "gradient"}
    assert set(drawn.values()) == {b"\x89PNG\r\n\x1a\n"}


def test_evaluate_works_with_the_threads_of_the_run(finished, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    words = ("--prompts", 2, "--samples", 2, "--split", "test", "--examples", 0)
    amft("evaluate", finished[0], *words)
    assert asked == [1]
    folder = damaged_copy(finished, tmp_path, unfinished=False)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("threads: 1", "threads: 2"))
    amft("evaluate", folder, *words)
    assert asked == [1, 2]


def test_the_help_says_what_a_run_without_settings_does(tmp_path):
    """The recipe and the method that are read, with the values that then hold."""
    text = settings_help()
    settings = build(read_file("lite"))
    assert "recipe lite, which sets method=amft_full." in text
    brought = METHODS["amft_full"].defaults
    shown = ", ".join(f"{key}={getattr(settings, key)}" for key in brought)
    assert f"those of amft_full: {shown}." in text and "mu_start" in shown
    assert "in a recipe that sets nothing: method=amft, " in text
    tiny = ["--set", "base=nowhere", "--out", tmp_path / "x"]
    assert amft("run", *tiny, code=2) == amft("run", "--config", "lite", *tiny, code=2)
    assert "by default lite" in " ".join(amft("run", "--help").replace("│", " ").split())


def test_help_teaches():
    for words in ([], ["run"], ["evaluate"], ["report"], ["pretrain"], ["study"], ["bench"]):
        assert "--help" in amft(*words, "--help")
    text = amft("run", "--help")
    for word in ("warmup_steps", "save_every", "demonstrations", "sft_then_rl", "smoke"):
        assert word in text


def test_metrics_are_standard_json():
    assert to_json({"a": float("nan"), "b": [float("inf"), 1]}) == '{"a": null, "b": [null, 1]}'


def test_a_base_of_another_vocabulary_is_refused(tmp_path):
    from amft_lite.models import tiny_llama, word_tokenizer

    class Words:
        def vocabulary(self):
            return ["only", "these"]

    tokenizer = word_tokenizer(Words())
    tokenizer.save_pretrained(tmp_path / "base")
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "base")
    error = amft(*SMOKE, "--out", tmp_path / "x", "--set", f"base={tmp_path / 'base'}", code=2)
    assert "does not know the words" in error
    assert not (tmp_path / "x").exists()


def test_an_unfinished_run_opens_without_a_summary(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 3\nwarmup_steps: 1\n")
    run = Run.open(tmp_path)
    assert run.summary is None and run.metrics == []
    assert "no trained model" in amft("evaluate", tmp_path, code=2)
    assert "no steps yet" in amft("report", tmp_path, code=2)
    (tmp_path / "config.yaml").write_text("stpes: 3\n")
    assert "did you mean steps" in amft("report", tmp_path, code=2)


def test_the_default_run_learns_beyond_its_warm_up(tmp_path):
    """What `make demo` shows, as a band: the whole lite game, seed 0."""
    amft("run", "--out", tmp_path / "demo", "--set", "eval_every=0")
    splits = json.loads((tmp_path / "demo" / "summary.json").read_text())["splits"]
    final, warm = (splits[phase]["test"]["success"] for phase in ("final", "warm-up"))
    assert 0.13 <= final["mean"] <= 0.30
    assert final["low"] > warm["mean"]
    assert splits["base"]["test"]["success"]["mean"] < 0.02


def damaged_copy(finished, tmp_path, unfinished=True):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    if unfinished:
        (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize("name", ["evaluations.json", "summary.json"])
def test_a_damaged_file_of_a_run_is_named(finished, tmp_path, name):
    folder = damaged_copy(finished, tmp_path)
    (folder / name).write_text('{"base": ')
    assert f"{name} is damaged" in amft("run", "--resume", "--out", folder, code=2)
    (folder / name).unlink()
    amft("run", "--resume", "--out", folder)
    assert equal(weights(finished[0]), weights(folder))


def test_a_garbled_line_is_named_and_nothing_is_dropped(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[2] = "garbage"
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for words in (("report", folder), ("run", "--resume", "--out", folder)):
        assert "metrics.jsonl, line 3" in amft(*words, code=2)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 12


def test_checkpoints_of_other_settings_are_not_continued(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("lr: 0.0005", "lr: 0.001"))
    error = amft("run", "--resume", "--out", folder, code=2)
    assert "made with lr = 0.0005" in error and "says 0.001" in error


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_broken_base_or_model_is_one_sentence(finished, tmp_path, name):
    base = tmp_path / "base"
    shutil.copytree(base_folder("general_points"), base)
    (base / name).write_bytes((base / name).read_bytes()[:500])
    error = amft(*SMOKE, "--out", tmp_path / "x", "--set", f"base={base}", code=2)
    assert "cannot be read" in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
    folder = damaged_copy(finished, tmp_path, unfinished=False)
    (folder / "model" / name).write_bytes(b"")
    assert "cannot be read" in amft("evaluate", folder, code=2)


def test_more_memory_than_there_is_is_one_sentence(tmp_path):
    error = amft(*SMOKE, "--out", tmp_path / "x", "--set", "rollouts_per_prompt=1000000", code=2)
    assert "more memory" in error and len(error.strip().splitlines()) == 1


def test_without_any_checkpoint_a_run_starts_again(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"x")
    amft("run", "--resume", "--out", folder)
    assert equal(weights(finished[0]), weights(folder))
    assert untimed(finished[0]) == untimed(folder)


def test_overwrite_removes_nothing_that_is_not_the_run_s(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path)
    (folder / "notes.txt").write_text("mine")
    amft(*SMOKE, "--out", folder, "--overwrite", "--method", "sft")
    assert (folder / "notes.txt").read_text() == "mine"
    assert Run.open(folder).summary["method"] == "sft"


def test_overwrite_spares_a_folder_whose_config_yaml_is_no_run_s(tmp_path):
    """`config.yaml` and `model` are names that other programs give, too."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("mine")
    for text in ("architectures: [LlamaForCausalLM]\n", "", "a: [", "lr: 1e-3\n"):
        (tmp_path / "config.yaml").write_text(text)
        assert "holds no run" in amft(*SMOKE, "--out", tmp_path, "--overwrite", code=2)
        assert (tmp_path / "config.yaml").read_text() == text
    assert (tmp_path / "model" / "weights").read_text() == "mine"


def test_what_a_run_leaves_that_was_killed_before_it_began_is_nothing(tmp_path, monkeypatch):
    from amft_lite import runs

    config = build(read_file("smoke"))
    (tmp_path / ".lock").write_text("")
    (tmp_path / "config.yaml.partial").write_text("task: gen")
    Run.create(tmp_path, config)
    assert Run.open(tmp_path).config == config
    # killed in the middle of --overwrite: it is still known as a run
    removed = []
    monkeypatch.setattr(runs.shutil, "rmtree", lambda path, **_: removed.append(path.name))
    monkeypatch.setattr(runs, "write_text", lambda path, text: None)
    Run.create(tmp_path, config, overwrite=True)
    assert removed[-1] == "config.yaml" and set(removed) == set(runs.CONTENTS)


def test_a_task_of_real_models_is_refused_where_the_policy_is_tiny(tmp_path):
    words = ["--set", "task=gsm_symbolic", "--set", "base=general_points-0.2M"]
    assert "name one by --set model=NAME" in amft(
        *SMOKE, *words, "--out", tmp_path / "x", code=2)  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_a_folder_in_brackets_is_printed_as_it_is(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path / "[bold]")
    assert f"Written: {folder / 'report.html'}" in amft("report", folder)


def test_a_report_s_file_must_have_a_folder(finished, tmp_path):
    for out in (tmp_path / "none" / "x.html", tmp_path):
        said = amft("report", finished[0], "--out", out, code=2)
        assert "--out must be a file in a folder that exists" in said


def test_the_commit_is_not_that_of_a_project_around_an_installed_package(tmp_path, monkeypatch):
    from amft_lite import provenance

    package = tmp_path / "site-packages" / "amft_lite"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))

    def git(*words):
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (package / "provenance.py").write_text("")
    git("init")
    git("commit", "--allow-empty", "-m", "a project of its own")
    assert provenance.git_commit() == "unknown"
    git("add", "-A")
    git("commit", "-m", "the kit's own tree")
    assert re.fullmatch("[0-9a-f]{12}", provenance.git_commit())
    (package / "new.py").write_text("")  # imported, and in no commit
    assert provenance.git_commit().endswith("+")


def test_a_second_process_is_kept_out(tmp_path):
    folder = tmp_path / "shared"
    process = subprocess.Popen(command(*SMOKE, "--out", folder), stdout=subprocess.DEVNULL)
    while not read_lines(folder / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.01)
    for words in (["run", "--resume", "--out", folder], [*SMOKE, "--out", folder, "--overwrite"]):
        assert "another process" in amft(*words, code=2)
    assert process.wait() == 0 and (folder / "summary.json").is_file()


def test_records_that_were_lost_are_not_papered_over(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path)
    (folder / "metrics.jsonl").unlink()
    assert "lacks step 0" in amft("run", "--resume", "--out", folder, code=2)


def test_a_lost_model_is_made_again_and_other_settings_are_noticed(finished, tmp_path):
    folder = damaged_copy(finished, tmp_path, unfinished=False)
    shutil.rmtree(folder / "model")
    amft("run", "--resume", "--out", folder)
    assert equal(weights(finished[0]), weights(folder))
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("method: amft", "method: sft"))
    assert "made with method = amft" in amft("run", "--resume", "--out", folder, code=2)


def test_a_policy_that_diverges_ends_in_one_sentence(tmp_path):
    settings = ["--set", "lr=10", "--set", "max_grad_norm=1000000", "--set", "weight_decay=1000000"]
    error = amft(*SMOKE, "--out", tmp_path / "x", *settings, code=2)
    assert "not finite" in error and "lower lr" in error


def test_a_base_that_cannot_be_sampled_is_refused_before_anything_is_written(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(base_folder("general_points"), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    error = amft(*SMOKE, "--out", tmp_path / "x", "--set", f"base={base}", code=2)
    assert "pad_token_id" in error and not (tmp_path / "x").exists()
