"""Implicit rewards against enumeration, SciPy and autograd."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from amft_lite import implicit_reward as ir


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def probs(*shape, seed=0):
    return torch.softmax(randn(*shape, seed=seed), -1)


def test_sequence_logps_are_logs_of_products_and_padding_is_nothing():
    chances, lengths = probs(4, 6), (6, 1, 3, 5)
    mask = torch.tensor([[int(t < n) for t in range(6)] for n in lengths])
    padded = torch.where(mask > 0, chances.log(), -math.inf).requires_grad_()
    found = ir.sequence_logps(padded, mask)
    wanted = [math.prod(row[:n]) for row, n in zip(chances.tolist(), lengths, strict=True)]
    assert found.exp().tolist() == pytest.approx(wanted, rel=1e-12)
    found.sum().backward()
    assert torch.equal(padded.grad, mask.double())


def test_kl_is_scipy_s_and_never_negative():
    p, q = probs(50, 7), probs(50, 7, seed=1)
    found = ir.kl_divergence(p, q)
    assert np.allclose(found, scipy.stats.entropy(p.numpy(), q.numpy(), axis=-1), rtol=1e-12)
    assert (found > 0).all() and not ir.kl_divergence(p, p).any()


def test_kl_at_the_edges():
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert ir.kl_divergence(p, q).item() == pytest.approx(wanted, rel=1e-12)
    assert ir.kl_divergence(p, torch.tensor([1.0, 0.0, 0.0]).double()).item() == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_sft_s_gradient_is_the_policy_gradient_of_the_imitation_reward(seed):
    logits = randn(3, 6, seed=seed).requires_grad_()
    words = torch.tensor([2, 0, 5])
    logp = torch.log_softmax(logits, -1)
    (sft,) = torch.autograd.grad(logp[range(3), words].sum(), logits, retain_graph=True)
    reward = ir.imitation_reward(logp.exp().detach(), words)
    score_weighted = (logp.exp().detach() * reward * logp).sum()  # sum_y pi r log pi
    (rl,) = torch.autograd.grad(score_weighted, logits)
    assert torch.allclose(sft, rl, rtol=1e-10)


def test_the_imitation_reward_has_mean_1_and_the_stated_spread():
    chances, words = probs(4, 6), torch.tensor([1, 5, 0, 3])
    reward = ir.imitation_reward(chances, words)
    mean = (chances * reward).sum(-1)
    assert torch.allclose(mean, torch.ones(4, dtype=torch.float64))
    spread = (chances * (reward - 1) ** 2).sum(-1)
    believed = chances[range(4), words]
    assert torch.allclose(spread, 1 / believed - 1, rtol=1e-10)


def test_implicit_rewards_add_up_to_the_answer_s_log_ratio():
    new, old = probs(3, 5).log(), probs(3, 5, seed=1).log()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    found = ir.implicit_rewards(new, old, mask, beta=0.3)
    whole = ir.sequence_logps(new, mask) - ir.sequence_logps(old, mask)
    assert torch.allclose(found.sum(1), 0.3 * whole) and not found[mask == 0].any()
    junk = torch.where(mask > 0, new, math.nan)
    assert torch.equal(ir.implicit_rewards(junk, old, mask, 0.3), found)


def test_the_reverse_kl_estimate_is_unbiased_and_never_negative():
    p, q = probs(8), probs(8, seed=1)
    estimate = ir.reverse_kl_estimate(p.log(), q.log())
    assert (estimate >= 0).all()
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    assert (p * estimate).sum().item() == pytest.approx(exact, rel=1e-12)


def test_the_multiplier_and_what_is_no_weight():
    assert [ir.multiplier(mu) for mu in (0.0, 0.5, 0.8, 1.0)] == pytest.approx([0, 1, 4, math.inf])
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            ir.multiplier(wrong)
