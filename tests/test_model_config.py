"""Settings of real models: when they apply, what they refuse, and that they read back."""

import dataclasses
import inspect
import re

import pytest

from amft_lite import config as settings
from amft_lite.config import (
    MODEL_FIELDS,
    ConfigError,
    ModelConfig,
    RunConfig,
    build,
    parse_assignments,
    read_file,
    to_yaml,
)
from amft_lite.methods import METHODS, Method, resolve
from amft_lite.weighting import RULES, RuleOptions, make_rule


def test_the_key_model_makes_the_run_one_of_a_real_model():
    assert type(build()) is RunConfig
    assert type(build({"model": ""})) is RunConfig
    assert type(build({"model": "smollm2"}, {"model": ""})) is RunConfig
    config = build({"model": "smollm2", "lora_rank": 4}, {"steps": 20})
    assert type(config) is ModelConfig
    assert (config.model, config.lora_rank, config.steps) == ("smollm2", 4, 20)


@pytest.mark.parametrize("key", sorted(MODEL_FIELDS.keys() - {"model"}))
def test_its_other_keys_are_refused_without_it(key):
    with pytest.raises(ConfigError, match=f"^{key} belongs to runs of a real model") as error:
        build({key: MODEL_FIELDS[key].default})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base": "folder"}, "`model` names"),
        ({"micro_batch": 4}, "`accumulation`"),
        ({"threads": 2}, "OMP_NUM_THREADS"),
        ({"quantization": "nf4", "lora_rank": 0}, "lora_rank >= 1"),
        ({"quantization": "nf4", "lora_rank": 8, "vllm": "server"}, "does not work with quantiz"),
        ({"quantization": "nf8"}, "must be one of none, nf4"),
        ({"dtype": "bf16"}, "must be one of auto, float32"),
        ({"lora_dropout": 1.0}, "below 1"),
        ({"lora_rank": -1}, "at least 0"),
        ({"lora_rank": 10**5}, "at most 4096"),
        ({"vllm_memory": 1.5}, "between 0 and 1"),
        ({"vllm_memory": 0}, "above 0"),
        ({"accumulation": 3}, r"\(128\) must be a multiple of accumulation x processes \(3\)"),
        ({"accumulation": 64, "processes": 4}, "multiple"),
        ({"gradient_checkpointing": "maybe"}, "must be one of on, off"),
        ({"model": 3}, "must be text"),
        ({"lora_rnk": 3}, "did you mean lora_rank"),
        ({"trust_remote_code": 1}, "must be one of on, off"),
    ],
)
def test_a_mistake_gets_one_sentence(given, words):
    with pytest.raises(ConfigError, match=words) as error:
        build({"model": "tiny", **given})
    assert "\n" not in str(error.value)


def test_what_has_no_meaning_may_stand_at_its_default():
    # so that a resolved file, which lists every key, reads back
    assert build({"model": "tiny", "threads": 1, "base": "", "micro_batch": 0}).threads == 1


def test_on_and_off_may_be_written_bare_in_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text("model: tiny\nvllm: off\nchat: on\ngradient_checkpointing: no")
    config = build(read_file(tmp_path / "c.yaml"))
    assert (config.vllm, config.chat, config.gradient_checkpointing) == ("off", "on", "off")


def test_a_resolved_config_reads_back_as_itself(tmp_path):
    text = "model=Qwen/Qwen2.5-1.5B quantization=nf4 lora_rank=8 accumulation=4 dtype=float16"
    config = build({"method": "published"}, parse_assignments(text.split()))
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    again = build(read_file(tmp_path / "c.yaml"))
    assert again == config and type(again) is ModelConfig
    assert build(vars(config), {"lora_rank": "16"}).lora_rank == 16  # as --resume asks


def test_load_model_takes_the_options_by_name():
    from amft_lite.real_models import load_model

    assert set(build({"model": "tiny"}).model_options()) == set(
        inspect.signature(load_model).parameters
    )


def test_every_key_has_a_docstring_and_a_range():
    source = inspect.getsource(ModelConfig)
    documented = re.findall(r"^    (\w+):[^\n]*\n    \"\"\"", source, re.MULTILINE)
    assert documented == list(MODEL_FIELDS)
    numbers = [n for n, f in MODEL_FIELDS.items() if isinstance(f.default, int | float)]
    limits = (settings._AT_LEAST, settings._ABOVE_ZERO, settings._SHARES, settings._BELOW_ONE)
    assert [n for n in numbers if not any(n in limit for limit in limits)] == []


# --- methods --------------------------------------------------------------------------------------


def test_every_rule_is_a_method_and_its_defaults_are_settings():
    assert list(METHODS)[: len(RULES)] == list(RULES)
    names = {field.name for field in dataclasses.fields(RunConfig)}
    for method in METHODS.values():
        assert set(method.defaults) <= names
        trace = {"trace": "0.5"} if method.name == "replay" else {}
        assert build({"method": method.name, **trace}).method == method.name
        if method.name in RULES:
            assert type(method.make_rule(RuleOptions())) is type(make_rule(method.rule))
        assert 0 <= method.make_rule(RuleOptions()).mu <= 1


def test_resolve_takes_names_methods_and_rules():
    assert resolve("amft") is METHODS["amft"]
    assert resolve(METHODS["rl"]) is METHODS["rl"]
    rule = make_rule("linear")
    own = resolve(rule)
    assert isinstance(own, Method) and own.make_rule(RuleOptions()) is rule
    with pytest.raises(ValueError, match="did you mean amft"):
        resolve("amtf")


@pytest.mark.parametrize(
    "trace", ["", "0.5 x", "0.5 1.2", "nan", ".5x", "x3", ".5x0", ".5x-1", ".5x1000001", ".5x2.5"]
)
def test_a_replay_needs_a_recorded_mu(trace):
    with pytest.raises(ConfigError, match="needs the recorded mu"):
        build({"method": "replay", "trace": trace})


@pytest.mark.parametrize("method", ["hpt", "luffy", "gac"])
def test_what_only_the_loop_has_is_refused_with_a_model(method):
    with pytest.raises(ConfigError, match="without `model` only"):
        build({"model": "tiny", "method": method})
    assert build({"model": "tiny", "method": "cut_low"}).method == "cut_low"


def test_a_run_that_is_all_warm_up_is_one_of_sft():
    settings = {"model": "tiny", "steps": 5, "warmup_steps": 5}
    with pytest.raises(ConfigError, match=r"warmup_steps \(5\) must be below steps \(5\): amft"):
        build(settings)
    build(settings | {"method": "sft"})
