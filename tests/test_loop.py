"""Algorithm 1 as a whole: the gradients it mixes, what it pays for, what it refuses."""

import math
from functools import partial

import pytest
import torch

from amft_lite import loop as loop_module
from amft_lite.batches import refuse_leaks, shuffled_passes
from amft_lite.config import build
from amft_lite.loop import AMFT, combined_gradient
from amft_lite.models import base_folder, load_policy
from amft_lite.tasks import load_task

SMALL = {
    "steps": 12, "warmup_steps": 3, "demonstrations": 20, "sft_batch": 16, "prompts_per_step": 6,
    "validation_prompts": 6, "validation_rollouts": 4, "meta_every": 3,
}  # fmt: skip


def make(**settings):
    config = build(SMALL, settings)
    task = load_task(config.task, reward=config.reward)
    return AMFT(*load_policy(base_folder("general_points")), task, config)


def trained(**settings):
    """A loop whose policy has warmed up long enough for rewards to differ."""
    return run(make(steps=60, warmup_steps=20, **settings), 20)


def run(loop, steps):
    loop.records = [loop.train_step() for _ in range(steps)]
    return loop


def weights(loop):
    return torch.cat([p.detach().flatten() for p in loop.parameters])


def test_same_seed_same_run_and_another_seed_another():
    a, b, c = run(make(), 6), run(make(), 6), run(make(seed=1), 6)
    assert torch.equal(weights(a), weights(b))
    assert str(a.records) == str(b.records)  # str: nan equals nan
    assert not torch.equal(weights(a), weights(c))
    assert [d.prompt for d in a.demonstrations] != [d.prompt for d in c.demonstrations]
    assert [e.prompt for e in a.train_prompts] != [e.prompt for e in c.train_prompts]
    assert not torch.equal(a.sft_batch(0).tokens, c.sft_batch(0).tokens)


def test_mu_one_and_zero_give_exactly_the_sft_and_the_rl_gradient():
    loop = trained()
    sft = loop.gradient(loop.sft_loss, loop.sft_batch(0), {})
    rl = loop.gradient(loop.rl_loss, loop.roll_out({}), {})
    assert rl.any() and sft.any()
    assert torch.equal(combined_gradient(sft, rl, 1.0), sft)
    assert torch.equal(combined_gradient(sft, rl, 0.0), rl)
    assert torch.equal(combined_gradient(sft, None, 1.0), sft)
    assert torch.equal(combined_gradient(None, rl, 0.0), rl)


@pytest.mark.parametrize(("method", "mu"), [("sft", 1.0), ("rl", 0.0)])
def test_fixed_mu_at_the_ends_trains_as_the_pure_method_that_skips_the_other_loss(method, mu):
    pure = run(make(method=method, warmup_steps=3), 6)
    mixed = run(make(method="fixed", mu_start=mu, warmup_steps=3, mu_min=0.0, mu_max=1.0), 6)
    assert torch.equal(weights(pure), weights(mixed))
    tokens = [record.get("rollouts_tokens", 0) for record in pure.records]
    assert (sum(tokens) == 0) == (method == "sft")
    assert ("sft_loss" in pure.records[-1]) == (method == "sft")


@pytest.mark.parametrize("size", [1, 7])
def test_micro_batches_change_no_gradient(size):
    whole, parts = trained(), trained()
    parts.config = build(vars(parts.config), {"micro_batch": size})
    for loss in ("sft_loss", "rl_loss", "utility_loss"):
        batch = whole.sft_batch(0) if loss == "sft_loss" else whole.roll_out({})
        facts, pieces = {}, {}
        a = whole.gradient(getattr(whole, loss), batch, facts)
        b = parts.gradient(getattr(parts, loss), batch, pieces)
        assert a.any()
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * a.abs().max())
        assert facts == pytest.approx(pieces, rel=1e-4, abs=1e-6)


def test_sft_gradient_is_that_of_a_plain_cross_entropy():
    """transformers' own loss on the same ids, with prompt and padding labels ignored."""
    loop = make()
    batch = loop.sft_batch(0)
    ours = loop.gradient(loop.sft_loss, batch, {})
    labels = batch.ids.clone()
    labels[:, : -batch.tokens.shape[1]] = -100
    labels[batch.attention == 0] = -100
    output = loop.policy(input_ids=batch.ids, attention_mask=batch.attention, labels=labels)
    output.loss.backward()
    theirs = torch.cat([p.grad.flatten() for p in loop.parameters])
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_utility_gradient_is_uphill_in_validation_reward():
    """A small step along grad U raises the importance-weighted reward of its own rollouts."""
    loop = trained()
    prompts = loop.task.prompts("validation", 32)
    batch = loop.sample(prompts, 8, "validation", {})
    batch.advantages = loop_module.objectives.leave_one_out_advantages(batch.rewards, 8)
    assert 0 < batch.rewards.mean() < 1

    def answer_logps():
        with torch.no_grad():
            logps = loop_module.token_logps(loop.logits(batch), batch.tokens)
        whole = (logps * batch.mask).sum(1)
        return whole

    before = answer_logps()
    uphill = -loop.gradient(loop.utility_loss, batch, {})
    step = 1e-3 * uphill / uphill.norm()
    loop_module.unflatten_into(-step, loop.parameters)
    with torch.no_grad():
        for p in loop.parameters:
            p -= p.grad
    after = answer_logps()
    ratio = (after - before).exp()
    gain = ((ratio - 1) * batch.advantages).mean()
    assert gain == pytest.approx(float(uphill @ step), rel=0.05)
    assert gain > 0


def test_demonstrations_come_in_shuffled_passes():
    """Five minibatches of 8 over 10 demonstrations: each one four times, in no fixed order."""
    places = torch.cat([shuffled_passes(10, 8, number, seed=3) for number in range(5)]).tolist()
    passes = [places[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4


def test_the_clip_acts_from_the_second_inner_epoch_on():
    one, two = trained(), trained(inner_epochs=2)
    for loop in (one, two):
        loop.optimizer.param_groups[0]["lr"] = 5e-3  # steps long enough to leave the clip range
    first = [one.train_step()["clip_fraction"] for _ in range(3)]
    second = [two.train_step()["clip_fraction"] for _ in range(3)]
    assert first == [0.0, 0.0, 0.0]
    assert max(second) > 0
    assert two.roll_out({}).old_logps is not None


def test_value_head_learns_the_return_and_leaves_the_policy_alone():
    loop = trained(advantage="gae")
    batch = loop.roll_out({})
    grads = loop.gradient(loop.rl_loss, batch, {})
    assert grads.any()
    losses = []
    for _ in range(40):
        facts = {}
        loop.train_critic(batch, facts)
        losses.append(facts["value_loss"])
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is None for p in loop.parameters)
    # gamma 1: every return of a rollout with lambda 1 is its reward
    loop.config = build(vars(loop.config), {"gae_lambda": 1.0})
    loop.add_gae(batch)
    live = batch.mask.bool()
    expected = batch.rewards[:, None].expand_as(batch.returns)
    assert torch.allclose(batch.returns[live], expected[live], atol=1e-5)


def test_warm_up_is_imitation_and_sets_the_target_entropy():
    loop = run(make(), 5)
    assert [r["phase"] for r in loop.records] == ["warm-up"] * 3 + ["train"] * 2
    assert [r["mu"] for r in loop.records[:3]] == [1.0] * 3
    assert "reward" not in loop.records[2] and "reward" in loop.records[3]
    assert math.isnan(loop.records[2]["target_entropy"])
    assert 0 < loop.records[3]["target_entropy"] < math.log(118)


def test_validation_rollouts_come_every_k_steps_and_from_validation_only():
    loop = run(make(), 12)
    measured = [r["step"] for r in loop.records if "validation_reward" in r]
    assert measured == [3, 6, 9]
    groups = {e.group for e in loop.validation_prompts}
    assert groups and not groups & {e.group for e in loop.train_prompts}
    assert not groups & {d.example.group for d in loop.demonstrations}


def test_a_validation_problem_among_the_training_problems_is_refused(task):
    train, validation = task.prompts("train", 5), task.prompts("validation", 5)
    refuse_leaks(train, validation, [])
    with pytest.raises(ValueError, match=validation[0].group):
        refuse_leaks([*train, validation[0]], validation, [])
    with pytest.raises(ValueError, match="share"):
        refuse_leaks(train, validation, [validation[2]])


def test_entropy_form_gradient_adds_the_gradient_of_entropy_while_it_is_below_target():
    loop = trained(entropy_form="gradient", entropy_beta=1.0)
    batch = loop.sample(loop.task.prompts("validation", 8), 4, "validation", {})
    batch.advantages = torch.zeros(32)  # no reward signal: what is left is the entropy's
    assert not loop.gradient(partial(loop.utility_loss, collapsing=False), batch, {}).any()
    ours = loop.gradient(partial(loop.utility_loss, collapsing=True), batch, {})
    loop.config = build(vars(loop.config), {"micro_batch": 5})
    parts = loop.gradient(partial(loop.utility_loss, collapsing=True), batch, {})
    assert torch.allclose(ours, parts, rtol=1e-4, atol=1e-6)
    logits = loop.logits(batch)
    p = logits.softmax(-1)
    entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
    (-(entropy * batch.mask).sum() / batch.mask.sum()).backward()
    expected = torch.cat([q.grad.flatten() for q in loop.parameters])
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"advantage": "gae", "inner_epochs": 2}])
def test_a_run_continued_from_its_state_is_the_same_run(settings):
    straight = run(make(**settings), 9)
    first = run(make(**settings), 5)
    state = {k: v for k, v in first.state_dict().items()}
    second = make(**settings)
    second.load_state_dict(state)
    run(second, 4)
    assert torch.equal(weights(straight), weights(second))
    assert str(straight.records[5:]) == str(second.records)


@pytest.mark.parametrize(
    "method",
    "sft_then_rl linear cosine entropy_only meta_only placebo published official_code".split(),
)
def test_every_rule_runs_and_logs_its_mu(method):
    settings = (
        {"meta_every": 3, "mu_start": 0.8} if method in ("published", "official_code") else {}
    )
    loop = run(make(method=method, **settings), 7)
    for record in loop.records:
        assert 0.0 <= record["mu"] <= 1.0
        assert math.isfinite(record["grad_norm"])
    measured = any("validation_reward" in record for record in loop.records)
    assert measured == (method in ("meta_only", "placebo", "published"))


def test_a_utility_gradient_that_is_not_finite_ends_the_run(monkeypatch):
    """The controller averages it: one nan would stay for ever, and freeze mu without a word."""
    loop = make(method="amft")
    honest = loop.utility_loss

    def broken(rows, whole, collapsing=False):
        loss, facts = honest(rows, whole, collapsing)
        return loss * float("nan"), facts

    monkeypatch.setattr(loop, "utility_loss", broken)
    with pytest.raises(FloatingPointError, match=r"grad U of step .* is not finite"):
        for _ in range(loop.config.warmup_steps + 1):
            loop.train_step()
