"""The memory plan: counted by hand where it can be, measured where it cannot."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from amft_lite import smollm2
from amft_lite.architectures import KNOWN, layer_bytes, shape, skeleton, tower
from amft_lite.cli import app
from amft_lite.config import CONFIGS, ConfigError, ModelConfig, build, named_configs, read_file
from amft_lite.models import base_folder, load_policy
from amft_lite.plan import DIRECTION_VECTORS, NF4_BYTES, plan
from amft_lite.tasks import load_task
from tests.vision import tiny_llava, tiny_qwen

RECIPES = [name for name in named_configs() if isinstance(build(read_file(name)), ModelConfig)]
QWEN_7B, QWEN_1_5B = "Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-1.5B-Instruct"
SMALL = {"model": QWEN_1_5B, "max_prompt_tokens": 100, "max_new_tokens": 200, "accumulation": 16}


def part(found, moment, name):
    [one] = [p for p in found.moments[moment] if p.name == name]
    return one.bytes


# --- counted by hand ------------------------------------------------------------------------------


def by_hand(V, d, inner, layers, kv, tied, bias):
    """Parameters of a Llama or Qwen2 with heads as wide as d in all and `kv` for keys."""
    linear = [(d, d), (d, kv), (d, kv), (d, d), (d, inner), (d, inner), (inner, d)]
    weights = sum(i * o for i, o in linear) + bias * (d + 2 * kv) + 2 * d
    lora = layers * sum(i + o for i, o in linear)  # for each unit of rank
    return layers * weights + d + V * d * (1 if tied else 2), lora


@pytest.mark.parametrize(
    ("model", "sizes", "published"),
    [
        ("smollm2", (49_152, 576, 1536, 30, 192, True, False), 134_515_008),
        (QWEN_1_5B, (151_936, 1536, 8960, 28, 256, True, True), 1_543_714_304),
        (QWEN_7B, (152_064, 3584, 18_944, 28, 512, False, True), 7_615_616_512),
    ],
)
def test_parameters_and_adapters_are_those_counted_by_hand(model, sizes, published):
    total, lora = by_hand(*sizes)
    assert total == published  # the hub's own count of the weights
    found = plan(build({"model": model, "lora_rank": 16, "max_new_tokens": 10}))
    assert found.facts["parameters"] == total and found.facts["trained"] == 16 * lora
    found = plan(build({"model": model, "lora_rank": 0, "max_new_tokens": 10}))
    assert found.facts["parameters"] == found.facts["trained"] == total


def test_the_cache_of_keys_and_values_is_that_counted_by_hand():
    found = plan(build(SMALL))
    # 128 answers of 300 tokens; keys and values, 28 layers, 2 heads of 128, 2 bytes
    assert part(found, "rollouts", "key-value cache") == 128 * 300 * 2 * 28 * 2 * 128 * 2
    # 32 x 8 for validation
    assert part(found, "validation rollouts", "key-value cache") == 256 * 300 * 28_672


def test_weights_adapters_and_adam_by_hand():
    found = plan(build({**SMALL, "quantization": "nf4"}))
    linear = 28 * 1536 * (2 * 1536 + 2 * 256 + 3 * 8960)
    # 4 bits; 8 bits for 64 of them; 32 bits for 256 of those
    nf4 = linear * (0.5 + 1 / 64 + 4 / (64 * 256))
    assert round(NF4_BYTES, 4) == 0.5159
    assert part(found, "rollouts", "weights") == nf4 + 2 * (1_543_714_304 - linear)
    assert part(found, "rollouts", "adapters") == 4 * 18_464_768
    assert part(found, "rollouts", "Adam's moments") == 8 * 18_464_768
    assert part(found, "rollouts", "averages of the mu rule") == 12 * 18_464_768
    assert part(found, "meta step", "g_RL, g_SFT, grad U") == 12 * 18_464_768


def test_learned_gates_cost_vectors_of_the_trained_parameters():
    plain, gated = (plan(build({**SMALL, "method": m})) for m in ("amft", "amft_gate"))
    assert set(gated.moments) - set(plain.moments) == {"learning gates"}
    held = part(gated, "learning gates", "backward through Adam's update")
    assert held == 12 * 4 * 18_464_768
    traced = plan(build({**SMALL, "trace_decay": 0.8}))
    assert part(traced, "rollouts", "averages of the mu rule") == 16 * 18_464_768


def test_logits_by_hand():
    # 8 answers a micro-batch, 200 answer tokens: prompts have no logits
    assert part(plan(build(SMALL)), "RL backward", "logits") == 8 * 200 * 151_936 * 12
    # where the entropy is followed uphill, its gradient is a float32 table in pieces, and whole
    for form, bytes_each in (("gradient", 12 + 4 + 4), ("text", 12)):
        found = plan(build(SMALL | {"entropy_form": form}))
        held = part(found, "validation backward", "logits")
        assert held == 8 * 200 * 151_936 * bytes_each
        assert part(found, "RL backward", "logits") == 8 * 200 * 151_936 * 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counted_activations_are_what_autograd_keeps(dtype):
    """Against a real model with weights and the real attention kernel."""
    config = shape("tiny")
    kept = []
    for layers in (1, 2):
        config.num_hidden_layers = layers
        real = type(load_policy(base_folder("general_points"))[0])(config).to(dtype).train()
        own = {p.untyped_storage().data_ptr() for p in real.parameters()}
        alive = {}

        def pack(t, own=own, alive=alive):
            if t.untyped_storage().data_ptr() not in own:
                alive[t.untyped_storage().data_ptr()] = t.untyped_storage()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = real(input_ids=torch.zeros(16, 64, dtype=torch.long), use_cache=False)
        kept.append(sum(s.nbytes() for s in alive.values()))
        del out
    measured = (kept[1] - kept[0]) / (16 * 64)
    assert layer_bytes(shape("tiny"), dtype) == pytest.approx(measured, rel=0.1)


def test_the_direction_takes_as_many_vectors_as_the_plan_says():
    code = """
import sys, torch
sys.path.insert(0, "tests")
from measure_memory import reset, resident
from amft_lite.meta_gradient import AdamState, adam_direction
n = 8_000_000
a, b, m, v = (torch.rand(n) for _ in range(4))
state = AdamState(m, v, 3, 1e-3, max_norm=1.0)
reset()
before = resident("VmRSS")
d = adam_direction(a, b, state, 0.5)
print((resident("VmHWM") - before) / (4 * n))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent,
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(DIRECTION_VECTORS, abs=0.5)


# --- models that see ------------------------------------------------------------------------------

EYE = "Qwen/Qwen2.5-VL-7B-Instruct"
SEEING = SMALL | {"model": EYE, "task": "general_points_vision", "max_prompt_tokens": 400}


def eye_by_hand(out, depth=32, d=1280, inner=3420):
    """Parameters of Qwen2.5-VL's tower: patches of 2 x 14 x 14 x 3, blocks, and the merger."""
    block = (3 * d * d + 3 * d) + (d * d + d) + 3 * d * inner + 2 * inner + d + 2 * d
    merger = d + (4 * d) ** 2 + 4 * d + 4 * d * out + out
    return 3 * 2 * 14 * 14 * d + depth * block + merger


@pytest.mark.parametrize(
    ("model", "sizes", "published"),
    [
        (EYE, (152_064, 3584, 18_944, 28, 512, False, True), 8_292_166_656),
        ("Qwen/Qwen2.5-VL-3B-Instruct", (151_936, 2048, 11_008, 36, 256, True, True),
         3_754_622_976),
    ],
)  # fmt: skip
def test_a_tower_is_counted_and_adapters_are_the_language_model_s(model, sizes, published):
    words, lora = by_hand(*sizes)
    assert words + eye_by_hand(sizes[1]) == published
    found = plan(build({**SEEING, "model": model, "lora_rank": 16}))
    assert found.facts["parameters"] == published and found.facts["trained"] == 16 * lora
    nf4 = plan(build({**SEEING, "model": model, "quantization": "nf4"}))
    _, d, inner, layers, kv = sizes[:5]
    linear = layers * d * (2 * d + 2 * kv + 3 * inner)
    weights = part(nf4, "rollouts", "weights")
    assert weights == NF4_BYTES * linear + 2 * (published - linear)  # the eye in half precision
    full = plan(build({**SEEING, "model": model, "lora_rank": 0}))
    assert full.facts["trained"] == published
    assert part(full, "meta step", "Adam's moments") == 8 * published


def test_a_picture_is_256_tokens_and_1024_patches():
    seen = tower(shape(EYE), torch.bfloat16)
    assert (seen.tokens, seen.patches, seen.depth) == (16 * 16, 32 * 32, 32)
    assert seen.pixels == 2 * 3 * 448 * 448  # a still picture is shown twice, as if a film
    found = plan(build(SEEING))
    assert part(found, "RL backward", "pixels") == 128 * 4 * 2 * 3 * 448 * 448
    assert any("is 256 of its 400 tokens" in note for note in found.notes)
    with pytest.raises(ConfigError, match="a picture alone has 256 tokens, and max_prompt_tokens"):
        plan(build({**SEEING, "max_prompt_tokens": 256}))


@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen])
def test_a_tower_s_activations_are_what_autograd_keeps(make):
    """Against a real backward pass with weights, pixels and the real attention kernel."""
    model = make()[0].train()
    eye = model.config.vision_config
    if make is tiny_qwen:
        pixels = {"pixel_values": torch.rand(1024, 1176),
                  "image_grid_thw": torch.tensor([[1, 32, 32]])}  # fmt: skip
        eye.depth = eye.num_hidden_layers = 2
    else:
        pixels = {"pixel_values": torch.rand(1, 3, 28, 28)}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            alive[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        seen = model.get_image_features(**pixels).pooler_output
    measured = sum(s.nbytes() for s in alive.values())
    torch.cat(list(seen)).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "merger" in n)
    found = tower(model.config, torch.float32)
    assert found.depth * found.block + found.ends == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen])
@pytest.mark.parametrize("asked", [False, True])
def test_a_frozen_tower_keeps_nothing_unless_inputs_must_have_gradients(make, asked):
    from peft import LoraConfig, get_peft_model

    from amft_lite.vision_models import adapter_places

    model = make()[0]
    model = get_peft_model(model, LoraConfig(r=2, **adapter_places(model)))
    if asked:  # TRL does so with adapters under gradient checkpointing
        model.enable_input_require_grads()
    pixels = {"pixel_values": torch.rand(1, 3, 28, 28)}
    if make is tiny_qwen:
        pixels = {"pixel_values": torch.rand(16, 1176),
                  "image_grid_thw": torch.tensor([[1, 4, 4]])}  # fmt: skip
    seen = model.get_base_model().get_image_features(**pixels).pooler_output
    assert all(x.requires_grad == asked for x in seen)
    names = {p.name for p in plan(build(
        {**SEEING, "gradient_checkpointing": "on" if asked else "off"}
    )).moments["RL backward"]}  # fmt: skip
    assert ("tower's activations" in names) == asked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "general_points"}, "is a vision-language model, and general_points has no"),
        ({"model": QWEN_7B}, "reads text alone, and general_points_vision shows pictures"),
    ],
)
def test_a_plan_needs_a_model_that_suits_its_task(changes, words):
    with pytest.raises(ConfigError, match=words):
        plan(build({**SEEING, **changes}))


# --- how it hangs together ------------------------------------------------------------------------


def test_the_peak_is_the_worst_moment_and_not_a_sum():
    found = plan(build(SMALL))
    totals = {name: found.total(name) for name in found.moments}
    assert found.peak == max(totals.values()) == totals[found.peak_moment]
    assert list(totals) == [
        "rollouts", "RL backward", "SFT backward", "validation rollouts", "validation backward",
        "meta step",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "absent"),
    [
        ("sft", {"rollouts", "RL backward", "meta step"}),
        ("rl", {"SFT backward", "meta step"}),
        ("fixed", {"validation rollouts", "meta step"}),
    ],
)
def test_a_method_pays_for_nothing_it_does_not_do(method, absent):
    found = plan(build({**SMALL, "method": method}))
    assert not absent & set(found.moments)
    names = {p.name for parts in found.moments.values() for p in parts}
    assert "averages of the mu rule" not in names


def test_each_knob_turns_the_peak_the_way_it_should():
    peak = lambda **changes: plan(build({**SMALL, **changes})).peak  # noqa: E731
    one = peak()
    assert peak(quantization="nf4") < one < peak(lora_rank=0)
    assert peak(gradient_checkpointing="off") > one
    assert peak(accumulation=32) < one < peak(accumulation=8)
    assert peak(max_new_tokens=400) > one
    assert peak(lora_rank=64) > one


def test_more_gpus_shard_full_training_only():
    full = build({**SMALL, "lora_rank": 0, "gradient_checkpointing": "on"})
    one, eight = plan(full), plan(full, gpus=8)
    moment = "meta step"
    assert eight.total(moment) == pytest.approx(one.total(moment) / 8)
    lora = build(SMALL)
    assert part(plan(lora, gpus=8), moment, "weights") == part(plan(lora), moment, "weights")
    assert any("DDP" in note for note in plan(lora, gpus=8).notes)
    with pytest.raises(ConfigError, match="do not divide"):
        plan(lora, gpus=3)


def test_vllm_samples_instead_and_takes_its_share_of_the_card():
    found = plan(build({**SMALL, "vllm": "colocate"}))
    assert "key-value cache" not in {p.name for p in found.moments["rollouts"]}
    assert found.on_card(80) == pytest.approx(found.peak + found.overhead + 0.3 * 80e9)
    assert plan(build({**SMALL, "vllm": "server"})).vllm_share == 0


def test_answers_longer_than_the_window_are_noted():
    found = plan(build({**SMALL, "model": QWEN_7B, "max_new_tokens": 4096}))
    assert any("4096 positions" in note for note in found.notes)


# --- shapes ---------------------------------------------------------------------------------------


def test_a_shape_comes_from_a_folder_or_the_table_and_never_from_the_network(tmp_path):
    assert shape(str(base_folder("general_points"))).hidden_size == 64
    assert shape("tiny").hidden_size == 64
    for name in ("nobody/nothing", str(tmp_path), "x y"):
        with pytest.raises(ConfigError, match="is not known here") as error:
            plan(build({"model": name, "max_new_tokens": 8}))
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not smollm2.cache_folder().is_dir(), reason="`make smollm2` has not run")
def test_the_table_agrees_with_the_converted_model():
    real, known = shape(str(smollm2.cache_folder())), KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert {key: getattr(real, key) for key in known} == known


def test_a_skeleton_takes_no_memory():
    assert {p.device.type for p in skeleton(shape(QWEN_7B), torch.bfloat16).parameters()} == {
        "meta"
    }


# --- the recipes ----------------------------------------------------------------------------------


def test_the_recipes_fit_the_cards_they_are_named_for():
    assert len(RECIPES) >= 4
    fits = {name: plan(build(read_file(name))) for name in RECIPES}
    assert fits["qwen2.5-1.5b_t4_qlora"].on_card(16) < 14e9
    assert fits["qwen2.5-math-7b_24gb_qlora"].on_card(24) < 22e9
    assert fits["qwen2.5-vl-7b_24gb_qlora"].on_card(24) < 22e9
    for name in ("qwen2.5-math-7b_paper", "qwen2.5-vl-7b_paper"):
        assert fits[name].processes == 8 and fits[name].on_card(80) < 80e9
    assert plan(build(read_file("smollm2_cpu")), device="cpu").peak < 6e9
    for found in fits.values():
        assert not any("positions" in note for note in found.notes)


def test_the_paper_s_recipe_has_the_paper_s_numbers():
    c = build(read_file("qwen2.5-math-7b_paper"))
    assert (c.steps, c.rollouts_per_prompt, c.max_new_tokens) == (500, 8, 8192)
    assert (c.lr, c.warmup_steps, c.mu_start, c.meta_every) == (1e-6, 50, 0.8, 20)  # released
    assert (c.mu_min, c.mu_max, c.clip_range, c.max_grad_norm) == (0.05, 0.95, 0.2, 1.0)  # released
    assert plan(c).facts["rollouts_a_run"] == (500 - 50) * 128 * 8
    # SFT, then RL samples from a third of the run on
    halves = build(read_file("qwen2.5-math-7b_paper"), {"method": "sft_then_rl"})
    assert plan(halves).facts["rollouts_a_run"] == (500 - 167) * 128 * 8


def test_the_recipe_with_pictures_has_the_numbers_of_the_papers():
    c = build(read_file("qwen2.5-vl-7b_paper"))
    assert (c.steps, c.rollouts_per_prompt, c.lora_rank) == (500, 8, 0)
    assert (c.lr, c.warmup_steps, c.mu_start, c.meta_every) == (1e-6, 50, 0.8, 20)  # released
    small = build(read_file("qwen2.5-vl-7b_24gb_qlora"))
    for task in (load_task(c.task), load_task(small.task)):  # Chu et al.
        assert task.vision and task.cards == 4 and task.targets == (24,)
        hand = task.prompts("ood_visual", 1)[0]
        assert hand.rule == (10, 10, 10) and set(hand.suits) <= {"H", "D"}


def test_every_key_of_a_real_model_s_recipe_has_its_reason():
    large = [name for name in RECIPES if name != "smollm2_cpu"]
    for name in large:
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert re.search("has not run", text, re.IGNORECASE)
    for name in set(large) - {"qwen2.5-1.5b_t4_qlora"}:
        lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
        keys = [line for line in lines if line and not line.startswith("#")]
        bare = {line.split(":")[0] for line in keys if "#" not in line}
        assert bare <= {"eval_samples", "curve_prompts", "eval_every"}  # under a "time"


def test_the_launch_file_says_what_its_recipe_says():
    launch = yaml.safe_load((CONFIGS / "launch" / "fsdp8.yaml").read_text())
    for name in ("qwen2.5-math-7b_paper", "qwen2.5-vl-7b_paper"):
        assert launch["num_processes"] == build(read_file(name)).processes
    assert launch["fsdp_config"]["fsdp_version"] == 2  # AMFTTrainer refuses version 1
    assert not {p.stem for p in (CONFIGS / "launch").iterdir()} & set(named_configs())


# --- the command ----------------------------------------------------------------------------------


def amft(*arguments):
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_command_prints_json_formulas_and_an_exit_code():
    done = amft("qwen2.5-1.5b_t4_qlora", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["peak_bytes"] == sum(
        found["moments"][found["peak_moment"]].values()
    ) and found["rollouts_a_step"] == 64  # fmt: skip
    done = amft("qwen2.5-1.5b_t4_qlora", "--explain", "--card", "16")
    assert done.exit_code == 0 and "fits a card of 16 GB" in done.stdout
    assert "logits = 8 rows x 256 tokens x 151,936 x 12 B" in done.stdout
    assert "rule of thumb" in done.stdout
    done = amft("qwen2.5-math-7b_24gb_qlora", "--card", "16")
    assert done.exit_code == 1 and "does not fit" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lite"], "tiny policy"),
        (["nothing_like_it"], "neither a file nor one of the recipes"),
        (["smollm2_cpu", "--device", "tpu"], "gpu or cpu"),
        (["smollm2_cpu", "--set", "model=nobody/nothing"], "is not known here"),
        (["smollm2_cpu", "--set", "quantization=int3"], "must be one of none, nf4"),
        (["smollm2_cpu", "--gpus", "3"], "do not divide"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words):
    done = amft(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr and done.stderr.startswith("amft-lite: ")
    assert "\n" not in done.stderr.strip()


def test_a_plan_takes_seconds():
    code = """
import time
from amft_lite.config import build, read_file
from amft_lite.plan import plan
plan(build(read_file("qwen2.5-math-7b_paper")))
print(time.process_time())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10


# --- against reality ------------------------------------------------------------------------------

BASE = {
    "prompts_per_step": 1, "rollouts_per_prompt": 4, "sft_batch": 4, "validation_prompts": 1,
    "validation_rollouts": 4, "gradient_checkpointing": "off", "max_prompt_tokens": 64,
}  # fmt: skip
TINY = BASE | {
    "model": "tiny", "lora_rank": 0, "prompts_per_step": 64, "rollouts_per_prompt": 16,
    "sft_batch": 64, "validation_prompts": 16, "validation_rollouts": 8, "max_prompt_tokens": 16,
}  # fmt: skip
LORA = BASE | {"model": "smollm2", "lora_rank": 8, "dtype": "bfloat16"}
NF4 = BASE | {"model": "smollm2", "lora_rank": 8, "quantization": "nf4"}

#: What tests/measure_memory.py found: MB above the imports at the worst moment of two AMFT steps,
#: torch 2.13.0 (CPU build, AVX-512 without AMX), transformers 5.17.0, peft 0.21.2, trl 1.14.2,
#: bitsandbytes 0.50.2, one thread. Tiny: 1024 answers at once, all weights; the others: 4 answers.
MEASURED = {
    "tiny, 16 + 16 tokens": (TINY | {"max_new_tokens": 16}, 610),
    "tiny, 16 + 48 tokens": (TINY | {"max_new_tokens": 48}, 1214),
    "SmolLM2 LoRA bfloat16, 64 + 64": (LORA | {"max_new_tokens": 64}, 1217),
    "SmolLM2 LoRA bfloat16, 64 + 160": (LORA | {"max_new_tokens": 160}, 1660),
    "SmolLM2 LoRA bfloat16, checkpointing, 64 + 64": (
        LORA | {"max_new_tokens": 64, "gradient_checkpointing": "on"}, 824
    ),
    "SmolLM2 LoRA bfloat16, checkpointing, 64 + 160": (
        LORA | {"max_new_tokens": 160, "gradient_checkpointing": "on"}, 969
    ),
    "SmolLM2 LoRA NF4, 64 + 64": (NF4 | {"max_new_tokens": 64}, 1265),
    "SmolLM2 LoRA NF4, 64 + 160": (NF4 | {"max_new_tokens": 160}, 1728),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_the_peak_is_within_a_quarter_of_what_was_measured(name):
    settings, megabytes = MEASURED[name]
    planned = plan(build(settings), device="cpu").peak / 1e6
    assert planned == pytest.approx(megabytes, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_the_peak_is_within_a_quarter_of_what_is_measured_now(name):
    settings, megabytes = MEASURED[name]
    if settings["model"] == "smollm2" and not smollm2.cache_folder().is_dir():
        pytest.skip("`make smollm2` has not run")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "measure_memory.py"), json.dumps(settings)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lengths"][-1] == settings["max_new_tokens"]
    assert found["building_bytes"] < found["peak_bytes"]  # nothing copies the model beforehand
    measured = found["peak_bytes"] / 1e6
    assert plan(build(settings), device="cpu").peak / 1e6 == pytest.approx(measured, rel=0.25)
    assert measured == pytest.approx(megabytes, rel=0.1)


def test_a_family_that_cannot_be_counted_is_one_sentence(tmp_path):
    from transformers import Qwen2VLConfig

    Qwen2VLConfig().save_pretrained(tmp_path)
    wanted = {"model": str(tmp_path), "task": "general_points_vision", "max_prompt_tokens": 900}
    with pytest.raises(ConfigError, match="family qwen2_vl cannot be counted"):
        plan(build(wanted))
