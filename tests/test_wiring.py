"""What the loop hands to the rule, and what it does with the answer (found missing by mutation)."""

import copy
import json

import pytest
import torch
from test_loop import make, run
from test_runs import SMOKE, amft

from amft_lite.batches import generator, graded_rollouts
from amft_lite.files import read_lines
from amft_lite.meta_gradient import cosine
from amft_lite.models import token_logps
from amft_lite.tasks import Reward
from amft_lite.weighting import Signals

WARM = {"steps": 60, "warmup_steps": 20, "validation_prompts": 12, "validation_rollouts": 8}


@pytest.fixture(scope="module")
def seen():
    """One training step, overheard: signals, mu, the gradient applied, prompts by purpose."""
    loop = run(make(prompts_per_step=12, **WARM), 20)
    heard = {}
    update, apply, sample = loop.rule.update, loop.apply, loop.sample

    def spy_update(signals):
        heard["signals"], heard["mu"] = signals, update(signals)
        return heard["mu"]

    def spy_apply(grad, facts):
        heard["applied"] = grad.clone()
        apply(grad, facts)

    def spy_sample(prompts, n, purpose, facts, **more):
        heard[purpose] = prompts
        return sample(prompts, n, purpose, facts, **more)

    loop.rule.update, loop.apply, loop.sample = spy_update, spy_apply, spy_sample
    loop.train_step()
    return loop, heard


def test_the_step_is_taken_at_the_mu_that_the_rule_returned(seen):
    _, heard = seen
    signals, mu = heard["signals"], heard["mu"]
    assert mu != 0.5
    wanted = (1 - mu) * signals.grad_rl + mu * signals.grad_sft
    assert torch.allclose(heard["applied"], wanted, rtol=1e-5, atol=1e-8)


def test_validation_rollouts_are_of_validation_prompts(seen):
    _, heard = seen
    assert {e.split for e in heard["validation"]} == {"validation"}
    assert {e.split for e in heard["rollouts"]} == {"train"}


def test_the_adam_state_is_the_coming_step_s_with_its_clipping(seen):
    loop, heard = seen
    adam = heard["signals"].adam
    assert adam.max_norm == loop.config.max_grad_norm and adam.step == 20


def test_the_utility_gradient_points_uphill():
    """Against autograd of sum A log pi on the same draws."""
    loop = run(make(**WARM), 20)
    any_gradient = torch.ones(sum(p.numel() for p in loop.parameters))
    signals = Signals(20, 60, 20, any_gradient, any_gradient)
    loop.measure_utility(0, signals, {})
    source = generator(0, "validation", 20)
    batch = graded_rollouts(
        loop.policy, loop.tokenizer, loop.task, loop.validation_prompts[:12], 8, 1.0, source
    )
    advantages = batch.rewards - batch.rewards.view(-1, 8).mean(1).repeat_interleave(8)
    logps = token_logps(loop.logits(batch), batch.tokens)
    gain = ((logps * batch.mask).sum(1) * advantages).sum()
    uphill = torch.cat([g.flatten() for g in torch.autograd.grad(gain, loop.parameters)])
    assert cosine(signals.grad_utility, uphill) > 0.999


def test_draws_differ_by_step_seed_and_purpose():
    a, b = make(), make(seed=1)
    prompts = a.task.prompts("train", 6)

    def draw(loop, purpose="rollouts"):
        return loop.sample(prompts, 4, purpose, {}).tokens

    first = draw(a)
    assert torch.equal(first, draw(a))
    assert not torch.equal(first, draw(b)) and not torch.equal(first, draw(a, "validation"))
    a.step = 1
    assert not torch.equal(first, draw(a))


def test_validation_that_tells_nothing_moves_nothing():
    loop = run(make(**WARM), 20)
    loop.task.reward = lambda example, text: Reward(0.0, "constant", False)
    facts = loop.train_step()
    assert "validation_reward" in facts
    assert facts["mu_meta"] == 0.0 and "mu_signal" not in facts and facts["mu"] == 0.5
    assert loop.rule.averages.updates == 0 and loop.rule.averages.utility is None


def test_experts_in_the_utility_add_their_log_likelihood_on_validation_prompts():
    """grad U with the experts' share is the one without it less the gradient of their mean NLL."""
    found, loops = [], []
    for weight in (0.0, 0.25):
        loop = run(make(expert_utility=weight, **WARM), 20)
        heard = []
        update = loop.rule.update
        loop.rule.update = lambda s, update=update, heard=heard: heard.append(s) or update(s)
        policy = copy.deepcopy(loop.policy)
        facts = loop.train_step()
        found.append(heard[0].grad_utility)
        loops.append((loop, policy, facts))
    assert "validation_nll" not in loops[0][2]
    loop, policy, facts = loops[1]
    experts = loop.task.demonstrations(loop.config.validation_prompts, 0, split="validation")
    assert {e.example.split for e in experts} == {"validation"}
    total, count = 0.0, 0
    for expert in experts:  # one by one, without padding
        prompt = loop.tokenizer(expert.prompt).input_ids
        answer = [*loop.tokenizer(expert.completion).input_ids, loop.tokenizer.eos_token_id]
        logits = policy(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total = total - torch.log_softmax(logits, -1)[range(len(answer)), answer].sum()
        count += len(answer)
    nll = total / count
    grads = torch.autograd.grad(nll, [p for p in policy.parameters() if p.requires_grad])
    wanted = torch.cat([g.flatten() for g in grads])
    assert facts["validation_nll"] == pytest.approx(nll.item(), rel=1e-5)
    share = (found[0] - found[1]) / 0.25
    assert (share - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("method", ["meta_only", "published"])
def test_a_rule_without_the_entropy_gradient_does_not_get_it(method):
    """Their utility gradient is the same whatever entropy_form says."""
    found = []
    for form in ("off", "gradient"):
        loop = run(make(method=method, entropy_form=form, entropy_beta=10.0, **WARM), 20)
        loop.measure_entropy = lambda: 100.0  # H is far below: the term would act
        heard = []
        update = loop.rule.update
        loop.rule.update = lambda s, update=update, heard=heard: heard.append(s) or update(s)
        loop.train_step()
        found.append(heard[0].grad_utility)
    assert torch.equal(*found)


def test_meta_movement_adds_up_the_logged_moves(tmp_path):
    amft(*SMOKE, "--out", tmp_path / "a", "--set", "meta_every=1", "--set", "warmup_steps=6")
    moves = [line["mu_meta"] for line in read_lines(tmp_path / "a" / "metrics.jsonl")[6:]]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["meta_movement"] == pytest.approx(sum(map(abs, moves)))
    assert min(moves) < 0 < max(moves)
