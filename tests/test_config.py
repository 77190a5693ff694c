"""Settings: layers, types, and one sentence for every mistake."""

import dataclasses
import inspect
import re

import pytest
import yaml

from amft_lite import config as settings
from amft_lite.config import (
    ConfigError,
    RunConfig,
    build,
    named_configs,
    parse_assignments,
    read_file,
    to_yaml,
)
from amft_lite.gate import GatedController
from amft_lite.methods import METHODS
from amft_lite.rivals import NllEntropy
from amft_lite.weighting import Controller, Released, RuleOptions


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stpes": 3}, "did you mean steps"),
        ({"xyzzy": 3}, "--help"),
        ({"steps": "many"}, "steps must be a whole number, not 'many'"),
        ({"steps": 1.5}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"steps": 0}, "at least 1"),
        ({"lr": "fast"}, "must be a number"),
        ({"lr": 0}, "above 0"),
        ({"lr": "nan"}, "finite"),
        ({"lr": "1e999"}, "finite"),
        ({"mu_start": 1.2}, "between 0 and 1"),
        ({"beta2": 1.0}, "below 1"),
        ({"method": "amtf"}, "did you mean amft"),
        ({"method": 3}, "must be one of"),
        ({"reward": None}, "must be one of binary, shaped"),
        ({"warmup_steps": 20, "steps": 10}, "must not exceed steps"),
        ({"mu_min": 0.9, "mu_max": 0.1}, "must not exceed mu_max"),
        ({"mu_start": 0.01}, "must lie between mu_min"),
        ({"rollouts_per_prompt": 1}, "at least 2"),
        ({"keep_checkpoints": 1}, "at least 2"),
        ({"seed": -1}, "at least 0"),
        ({"base": 3}, "must be text"),
        ({"rollouts_per_prompt": 10**9}, "at most 1000000"),
        ({"lr": 1e38}, "at most 10"),
        ({"lr": 10**400}, "finite"),
        ({"seed": 10**20}, "at most"),
        ({3: 3}, "no setting"),
        ({"method": "entropy_only", "entropy_form": "gradient"}, "no utility"),
    ],
)
def test_a_mistake_gets_one_sentence_that_names_it(given, words):
    with pytest.raises(ConfigError) as error:
        build(given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_later_layers_win_and_the_method_lies_beneath_them():
    assert build().warmup_steps == 15
    assert build({"method": "rl"}).warmup_steps == 0
    assert build({"warmup_steps": 5}, {"method": "rl"}).warmup_steps == 5
    assert build({"method": "published"}).mu_start == 0.8
    assert build({"lr": 1e-3}, {"lr": "2e-3"}).lr == 2e-3
    assert build({"lr": 1}).lr == 1.0
    assert build({"entropy_form": False}).entropy_form == "off"  # YAML reads a bare off so


@pytest.mark.parametrize("method", METHODS)
def test_mu_start_is_held_to_the_bounds_only_where_the_rule_is(method):
    """By the rules themselves: these clip a mu that began at mu_start."""
    given = {"method": method, "trace": ".5"}
    rule = METHODS[method].make_rule(RuleOptions(trace=".5"))
    clipped = isinstance(rule, Controller | Released | NllEntropy)
    if isinstance(rule, GatedController) and rule.name == "amft_gate_only":
        clipped = False  # puts mu back to mu_start
    for start in (0.0, 0.04, 0.96, 1.0):
        if clipped:
            with pytest.raises(ConfigError, match=f"mu_start .{start}. must lie .* of {method}'s"):
                build(given | {"mu_start": start})
        else:
            assert build(given | {"mu_start": start}).mu_start == start
    assert build(given | {"mu_start": 0.0, "mu_min": 0.0}).mu_start == 0.0
    with pytest.raises(ConfigError, match="between 0 and 1"):
        build(given | {"mu_start": 1.1})


def test_assignments_are_read_as_text_and_typed_later():
    assert parse_assignments(["steps=20", " lr = 1e-3"]) == {"steps": "20", "lr": "1e-3"}
    assert build(parse_assignments(["steps=20", "base=a=b"])).base == "a=b"
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments(["steps"])


def test_a_resolved_config_reads_back_as_itself(tmp_path):
    config = build({"method": "fixed", "mu_start": 0.3, "switch": 0.123456789012345})
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert build(read_file(tmp_path / "c.yaml")) == config


def test_every_shipped_recipe_builds():
    assert {"lite", "smoke"} <= set(named_configs())
    for name in named_configs():
        build(read_file(name))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1", "line"),
        (b"- 1\n- 2\n", "key: value"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"steps: 2001-99-99", "not valid YAML"),
        (b"steps: !!int abc", "not valid YAML"),
        (b"[" * 3000, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, content, words):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as error:
        read_file(path)
    assert str(path) in str(error.value)


def test_a_wrong_recipe_name_is_answered_with_the_right_ones():
    with pytest.raises(ConfigError, match="did you mean smoke"):
        read_file("smok")


def test_yaml_files_cannot_build_objects(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("steps: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_file(path)


def test_every_field_has_a_docstring_and_a_check_of_its_range():
    source = inspect.getsource(RunConfig)
    documented = re.findall(r"^    (\w+):[^\n]*\n    \"\"\"", source, re.MULTILINE)
    names = [field.name for field in dataclasses.fields(RunConfig)]
    assert documented == names
    numbers = [n for n in names if isinstance(getattr(RunConfig(), n), int | float)]
    limits = (settings._AT_LEAST, settings._ABOVE_ZERO, settings._SHARES, settings._BELOW_ONE)
    assert [n for n in numbers if not any(n in limit for limit in limits)] == []


def test_rule_options_and_run_config_agree_on_their_defaults():
    options = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(RuleOptions())))
    assert dataclasses.asdict(RunConfig().rule_options()) == options
