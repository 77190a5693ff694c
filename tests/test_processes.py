"""Two processes compute what one does (gloo, CPU), and stay equal to each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def launch(processes, *arguments, module=None):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def results(folder, processes, kind):
    folder.mkdir()
    launch(processes, str(ROOT / "tests" / "processes.py"), str(folder), kind)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", ["recorded", "value_head", "gated"])
def test_two_processes_agree_with_one(tmp_path, kind):
    [one] = results(tmp_path / "one", 1, kind)
    left, right = results(tmp_path / "two", 2, kind)
    assert len(one["seen"]) == len(left["seen"]) == 3
    assert sum("grad_utility" in step for step in one["seen"]) == 2
    for alone, together in zip(one["seen"], left["seen"], strict=True):
        assert alone.keys() == together.keys()
        for name in ("grad_sft", "grad_rl", "grad_utility"):
            if name in alone:
                assert relative(together[name], alone[name]) < 1e-4, name
        assert together["mu"] == pytest.approx(alone["mu"], abs=1e-5)
        assert together["entropy"] == pytest.approx(alone["entropy"], abs=1e-4)
        learned = [k for k in alone if k.startswith(("gate_", "trust_"))]
        assert len(learned) == (9 if kind == "gated" and "grad_utility" in alone else 0)
        assert not learned or {alone[k] for k in learned} != {1.0}  # they have moved
        assert [together[k] for k in learned] == pytest.approx(
            [alone[k] for k in learned], abs=1e-3
        )
    for mine, other in zip(left["seen"], right["seen"], strict=True):
        assert all(torch.equal(torch.as_tensor(mine[k]), torch.as_tensor(other[k])) for k in mine)
    assert torch.equal(left["weights"], right["weights"])
    for a, b, c in zip(left["head"], right["head"], one["head"], strict=True):
        assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-4)


def test_two_processes_that_sample_freely_stay_equal(tmp_path):
    left, right = results(tmp_path / "two", 2, "sampled")
    assert torch.equal(left["weights"], right["weights"])
    assert [s["mu"] for s in left["seen"]] == [s["mu"] for s in right["seen"]]


def test_sharded_gradients_have_the_dot_products_of_whole_ones(tmp_path):
    [whole] = results(tmp_path / "one", 1, "whole")
    left, right = results(tmp_path / "two", 2, "sharded")
    assert left["facts"] == right["facts"]
    for alone, together in zip(whole["facts"], left["facts"], strict=True):
        assert together["norms"] == pytest.approx(alone["norms"], rel=1e-4)
        for dot, same, (i, j) in zip(together["dots"], alone["dots"], [(2, 0), (2, 1), (0, 1)],
                                     strict=True):  # fmt: skip
            assert abs(dot - same) < 1e-4 * alone["norms"][i] * alone["norms"][j]
        assert together["signal"] == pytest.approx(alone["signal"], abs=1e-4)
        assert together["mu"] == pytest.approx(alone["mu"], abs=1e-4)
    assert len({fact["mu"] for fact in whole["facts"]}) == 3  # mu has moved each time
    assert relative(left["weights"], whole["weights"]) < 1e-4
    assert whole["asked"] == [False, False] and left["asked"] == right["asked"] == [True, False]
    # one process's answer ends at once; its weights are asked for until the other's is done, or
    # that would wait for ever (torch marks sharded models, and transformers looks for the mark)
    assert (left["written"], right["written"]) == ((1, 6), (6, 6))
