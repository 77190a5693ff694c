"""Checkpoints come back as they were written, or are named as damaged."""

import math
import resource
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from amft_lite import checkpoint
from amft_lite.checkpoint import (
    DamagedCheckpoint,
    checkpoint_path,
    disk_errors,
    load,
    load_newest,
    save,
)

STATE = {
    "step": 3,
    "weights": {"a.b": torch.arange(6.0).view(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": (0.9, 0.95)},
    "none": None,
    "list": [1, "two", True, 3.5, []],
    "nan": math.nan,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_state_comes_back_as_it_was(tmp_path):
    assert same(load(save(tmp_path, 3, STATE)), STATE)


def test_a_millionth_step_is_the_newest_and_halves_of_a_killed_process_go(tmp_path):
    (tmp_path / "step-000009.partial").write_text("half")
    for step in (999_998, 999_999, 1_000_000):
        save(tmp_path, step, {"step": step}, keep=2)
    assert load_newest(tmp_path) == ({"step": 1_000_000}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-1000000.safetensors", "step-999999.safetensors"]  # fmt: skip


def test_a_model_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    """safetensors raises an error of its own on a full disk, which no command line expects."""

    class Full:
        def save_pretrained(self, folder):
            raise checkpoint.SafetensorError("No space left on device")

    with pytest.raises(
        OSError, match=r"could not be written \(is the disk full\?\): No space left"
    ):
        checkpoint.save_model(tmp_path, Full(), None)


@contextmanager
def small_disk(size: int):
    """Files of this process may have `size` bytes at most: a write beyond them fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [torch.save, save_file])
def test_what_a_disk_cannot_hold_is_an_error_of_the_system(tmp_path, write):
    big = {"x": torch.zeros(100_000)}
    with small_disk(10_000), pytest.raises((RuntimeError, checkpoint.SafetensorError)) as own:
        write(big, tmp_path / "state")
    assert not isinstance(own.value, OSError)  # so that a command line does not expect it
    said = pytest.raises(OSError, match=r"^the state \(is the disk full\?\): ")
    with small_disk(10_000), said, disk_errors("the state"):
        write(big, tmp_path / "state")


def test_other_errors_in_training_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), disk_errors("the state"):
        raise RuntimeError("shape '[2]' is invalid")


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=5),
    st.integers(0, 4).map(lambda n: torch.arange(float(n))),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_any_nest_survives_packing(tree):
    tensors = {}
    assert same(checkpoint.unpack(checkpoint.pack(tree, tensors), tensors), tree)


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"state\.a"):
        save(tmp_path, 1, {"a": object()})
    assert not list(tmp_path.glob("step-*"))


@pytest.mark.parametrize("kept", [0, 1, 7, 100, -1])
def test_a_truncated_file_is_named_and_the_one_before_it_used(tmp_path, kept):
    save(tmp_path, 1, STATE | {"step": 1})
    newest = save(tmp_path, 2, STATE | {"step": 2})
    content = newest.read_bytes()
    newest.write_bytes(content[:kept])
    with pytest.raises(DamagedCheckpoint, match="step-000002"):
        load(newest)
    state, damaged = load_newest(tmp_path)
    assert state["step"] == 1 and damaged == [newest]


def test_one_changed_byte_is_noticed(tmp_path):
    path = save(tmp_path, 1, STATE)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in a tensor: the file still parses
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedCheckpoint, match="changed"):
        load(path)


def test_only_the_newest_stay_and_no_partial_file_is_taken_for_one(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, STATE | {"step": step}, keep=2)
    (tmp_path / "step-000009.partial").write_bytes(b"half")
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        checkpoint_path(tmp_path, n).name for n in (4, 5)
    ]
    assert load_newest(tmp_path)[0]["step"] == 5


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load_newest(tmp_path) == (None, [])
