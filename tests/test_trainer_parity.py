"""The two engines compute one algorithm: the same gradients, dot products and mu from the same
token ids and rewards."""

import pytest
import torch

from tests.parity import in_model_order, loop_run, trainer

NAMES = ("grad_sft", "grad_rl", "grad_utility")


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("advantage", ["group", "gae"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_same_gradients_and_mu_from_the_same_rollouts(tmp_path, advantage, accumulation):
    loop = loop_run(advantage=advantage)
    trained = trainer(tmp_path, accumulation=accumulation, advantage=advantage)
    stop_after(trained, 3)
    trained.train()
    assert len(loop.rule.seen) == len(trained.rule.seen) == 2  # steps 1 (meta) and 2; 0 warms up
    for (ours, mu, parts), (theirs, their_mu, their_parts) in zip(
        loop.rule.seen, trained.rule.seen, strict=True
    ):
        for name in NAMES:
            mine, other = getattr(ours, name), getattr(theirs, name)
            assert (mine is None) == (other is None)
            if mine is not None:
                assert mine.norm() > 1e-4  # a comparison of zeros would show nothing
                assert relative(in_model_order(other, trained), mine) < 1e-5, name
        if ours.grad_utility is not None:
            scale = float(ours.grad_utility.norm() * (ours.grad_sft - ours.grad_rl).norm())
            for a, b in ((ours.grad_sft, theirs.grad_sft), (ours.grad_rl, theirs.grad_rl)):
                dots = torch.dot(ours.grad_utility, a), torch.dot(theirs.grad_utility, b)
                assert abs(float(dots[0] - dots[1])) < 1e-5 * scale
            assert parts["signal"] == pytest.approx(their_parts["signal"], abs=1e-6)
            assert parts["signal"] != 0
        assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-5)
        assert ours.target_entropy == pytest.approx(theirs.target_entropy, abs=1e-5)
        assert mu == pytest.approx(their_mu, abs=1e-6)
    # the mixed steps were taken, and by both
    ours = torch.cat([p.detach().flatten() for p in loop.policy.parameters()])
    theirs = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    start = torch.cat([p.detach().flatten() for p in loop_run(steps=0).policy.parameters()])
    assert (ours - start).abs().max() > 1e-3
    assert (ours - theirs).norm() < 1e-3 * (ours - start).norm()
    if advantage == "gae":
        for a, b in zip(loop.critic.parameters(), trained.critic.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        assert loop.critic.layers[2].weight.abs().max() > 1e-4  # it has learned


def stop_after(trained, steps):
    """End after `steps` without changing the schedule."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step >= steps

    trained.add_callback(Stop())


@pytest.mark.parametrize("method", ["amft_phi", "nll_entropy_phi", "chord_mu"])
def test_token_weights_and_rivals_are_the_same_in_both_engines(tmp_path, method):
    loop = loop_run(method=method)
    trained = trainer(tmp_path, accumulation=2, method=method)
    stop_after(trained, 3)
    trained.train()
    pairs = list(zip(loop.rule.seen, trained.rule.seen, strict=True))
    assert len(pairs) == 2
    for (ours, mu, _), (theirs, their_mu, _) in pairs:
        for name in ("grad_sft", "grad_rl"):
            mine, other = getattr(ours, name), in_model_order(getattr(theirs, name), trained)
            assert mine.norm() > 1e-6 and relative(other, mine) < 1e-5, name
        assert ours.nll == pytest.approx(theirs.nll, abs=1e-5)
        assert mu == pytest.approx(their_mu, abs=1e-6)
    # the weights are there: without them g_SFT is another
    plain = loop_run(method="fixed").rule.seen[0][0].grad_sft
    weighted = relative(pairs[0][0][0].grad_sft, plain)
    assert weighted > 0.05 if method.endswith("phi") else weighted < 1e-6


@pytest.mark.parametrize(("method", "start"), [("cut_half", "open"), ("amft_gate", "open"),
                                               ("amft_gate", "sceptical")])  # fmt: skip
@pytest.mark.parametrize("accumulation", [1, 8], ids=["whole", "micro-batches of 2"])
def test_weights_that_rank_a_batch_are_the_same_in_both_engines(
    tmp_path, monkeypatch, method, start, accumulation
):
    # the recording's experts are random words, p about 1/100: bins that they fall into
    monkeypatch.setattr("amft_lite.gate.EDGES", (0.001, 0.004, 0.01, 0.03))
    settings = {"method": method, "gate_start": start, "eta_gate": 0.5, "eta_trust": 0.5}
    loop = loop_run(**settings)
    trained = trainer(tmp_path, accumulation=accumulation, **settings)
    stop_after(trained, 3)
    trained.train()
    assert trained.args.per_device_train_batch_size == 16 // accumulation
    pairs = list(zip(loop.rule.seen, trained.rule.seen, strict=True))
    assert len(pairs) == 2
    for step, ((ours, mu, parts), (theirs, their_mu, their_parts)) in enumerate(pairs, 1):
        for name in ("grad_sft", "grad_rl"):
            mine, other = getattr(ours, name), in_model_order(getattr(theirs, name), trained)
            # Adam's divisions have made rounding larger by now, on each CPU in its own way
            assert mine.norm() > 1e-6 and relative(other, mine) < 1e-3, name
        assert mu == pytest.approx(their_mu, abs=1e-6)
        moved = [k for k in parts if k.startswith(("gate_", "trust_"))]
        assert len(moved) == (9 if method == "amft_gate" and step == 1 else 0)  # the meta step
        for k in moved:
            assert parts[k] == pytest.approx(their_parts[k], abs=1e-3)
    if method == "amft_gate":  # and they have moved: one of the tokens', one of the quarters'
        begun = {"gate": [1.0] * 5, "trust": [1.0] * 4}
        if start == "sceptical":
            begun = {"gate": [0.0, 0.0, 1.0, 1.0, 1.0], "trust": [0.0, 0.0, 1.0, 1.0]}
        for name, values in begun.items():
            assert getattr(trained.rule, name).tolist() != values, name
