"""The losses against loops, closed forms and numbers worked out by hand; float64 throughout."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amft_lite import objectives as ob


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(data):
    return torch.tensor(data, dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


# --- generalised advantage estimation -------------------------------------------------------------


def gae_twin(rewards, values, mask, gamma, lam):
    """Eq. 16 as the sum it is, A_t = sum_k (gamma lam)^k delta_{t+k}, over the unmasked tokens."""
    advantages = np.zeros((len(rewards), len(rewards[0])))
    returns = np.zeros_like(advantages)
    for row, row_mask in enumerate(mask):
        places = [t for t, on in enumerate(row_mask) if on]
        v = [values[row][t] for t in places] + [0.0]
        deltas = [rewards[row][t] + gamma * v[i + 1] - v[i] for i, t in enumerate(places)]
        for i, t in enumerate(places):
            a = sum((gamma * lam) ** (k - i) * deltas[k] for k in range(i, len(places)))
            advantages[row, t], returns[row, t] = a, a + v[i]
    return torch.from_numpy(advantages), torch.from_numpy(returns)


def masked_episodes(holes, seed=0):
    """Rewards, values, mask [8, 7]: right padding, with `holes` also gaps; garbage off the mask."""
    rng = np.random.default_rng(seed)
    mask = np.arange(7) < rng.integers(1, 8, size=(8, 1))
    mask[0] = True
    if holes:
        mask &= rng.random((8, 7)) < 0.6
        mask[1] = [1, 0, 0, 1, 1, 0, 1]  # at least one gap in the middle, whatever is drawn
    mask = torch.from_numpy(mask)
    rewards, values = (torch.where(mask, randn(8, 7, seed=s), torch.nan) for s in (1, 2))
    return rewards, values, mask


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)])
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
def test_gae_is_the_written_out_sum(gamma, lam, holes, kind):
    rewards, values, mask = masked_episodes(holes)
    advantages, returns = ob.gae(rewards, values, mask.to(kind), gamma, lam)
    wanted = gae_twin(rewards.tolist(), values.tolist(), mask.tolist(), gamma, lam)
    assert close(advantages, wanted[0]) and close(returns, wanted[1])
    assert not advantages[~mask].any() and not returns[~mask].any()


def test_gae_with_lambda_0_is_the_one_step_error():
    rewards, values, ones = randn(3, 5), randn(3, 5, seed=1), torch.ones(3, 5)
    after = torch.cat((values[:, 1:], torch.zeros(3, 1)), 1)
    advantages, returns = ob.gae(rewards, values, ones, gamma=0.9, lam=0.0)
    assert close(advantages, rewards + 0.9 * after - values)
    assert close(returns, rewards + 0.9 * after)


def test_gae_with_lambda_1_is_the_discounted_return_minus_the_value():
    rewards, values, ones = randn(3, 5), randn(3, 5, seed=1), torch.ones(3, 5)
    discount = tensor([[0.9 ** (k - t) * (k >= t) for t in range(5)] for k in range(5)])
    advantages, returns = ob.gae(rewards, values, ones, gamma=0.9, lam=1.0)
    assert close(returns, rewards @ discount)
    assert close(advantages, rewards @ discount - values)


# --- PPO-clip -------------------------------------------------------------------------------------


def ppo_twin(logps, old_logps, advantages, mask, clip_range):
    """PPO-clip token by token, in plain Python."""
    total, tokens = 0.0, 0
    for b, t in itertools.product(range(len(mask)), range(len(mask[0]))):
        if mask[b][t]:
            r = math.exp(logps[b][t] - old_logps[b][t])
            within = min(max(r, 1 - clip_range), 1 + clip_range)
            total += min(r * advantages[b][t], within * advantages[b][t])
            tokens += 1
    return -total / tokens


def random_ppo(seed=0):
    """Logps, old logps, advantages, mask [5, 6]; the ratios spread to both sides of the clip."""
    mask = (torch.arange(6) < tensor([6, 1, 3, 5, 2]).unsqueeze(1)).double()
    old = randn(5, 6, seed=seed) - 2
    return old + 0.4 * randn(5, 6, seed=seed + 1), old, randn(5, 6, seed=seed + 2), mask


@pytest.mark.parametrize("clip_range", [0.1, 0.2, 0.5])
def test_ppo_loss_is_the_loop(clip_range):
    logps, old, advantages, mask = random_ppo()
    wanted = ppo_twin(*(x.tolist() for x in random_ppo()), clip_range)
    assert close(ob.ppo_clip_loss(logps, old, advantages, mask, clip_range), wanted)
    # one advantage an answer means that advantage on each of its tokens
    one = advantages[:, 0]
    wanted = ppo_twin(
        logps.tolist(), old.tolist(), [[a] * 6 for a in one.tolist()], mask.tolist(), clip_range
    )
    assert close(ob.ppo_clip_loss(logps, old, one, mask, clip_range), wanted)


@pytest.mark.parametrize(
    ("advantage", "ratio", "cut"),
    [
        (+2.0, 1.5, True),  # good, and already much likelier: enough
        (+2.0, 0.5, False),  # good, but less likely: pull it up however far it fell
        (-2.0, 1.5, False),  # bad, and likelier: push it down
        (-2.0, 0.5, True),  # bad, and already much less likely: enough
        (+2.0, 1.1, False),  # inside the range nothing is cut
        (-2.0, 1.1, False),
        (+2.0, 0.9, False),
        (-2.0, 0.9, False),
    ],
)
def test_ppo_gradient_has_the_advantage_s_sign_unless_the_clip_acts(advantage, ratio, cut):
    old, advantages, mask = tensor([[-1.0]]), tensor([advantage]), torch.ones(1, 1)
    logps = (old + math.log(ratio)).requires_grad_()
    ob.ppo_clip_loss(logps, old, advantages, mask, clip_range=0.2).backward()
    downhill = -logps.grad.item()  # where a descent step moves log pi
    if cut:
        assert downhill == 0
    else:  # d(r A)/d log pi = r A
        assert math.copysign(1, downhill) == math.copysign(1, advantage)
        assert downhill == pytest.approx(ratio * advantage, rel=1e-12)
    assert ob.clipped_tokens(logps.detach(), old, advantages, 0.2).item() == cut


@pytest.mark.parametrize("clip_range", [0.1, 0.2, 0.5])
def test_clipped_tokens_are_the_tokens_without_gradient(clip_range):
    logps, old, advantages, mask = random_ppo()
    logps.requires_grad_()
    ob.ppo_clip_loss(logps, old, advantages, mask, clip_range).backward()
    clipped = ob.clipped_tokens(logps.detach(), old, advantages, clip_range)
    on = mask > 0
    assert torch.equal((logps.grad == 0)[on], (clipped > 0)[on])
    assert 0 < clipped[on].sum() < on.sum()  # both kinds occur


def test_ppo_sends_no_gradient_to_the_old_policy_or_the_advantages():
    logps, old, advantages, mask = random_ppo()
    for x in (logps, old, advantages):
        x.requires_grad_()
    ob.ppo_clip_loss(logps, old, advantages, mask).backward()
    assert logps.grad.any() and old.grad is None and advantages.grad is None


# --- advantages of groups -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, 1 / 3, -1e6 / 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 6, 7])
def test_equal_rewards_give_exact_zeros(reward, scale, dtype, size):
    # 0.1 three times has a mean that is not 0.1; the spread's 1e-4 would then make noise of it
    rewards = torch.full((2 * size,), reward, dtype=dtype)
    assert not ob.group_advantages(rewards, size, scale).any()
    if size > 1:
        assert not ob.leave_one_out_advantages(rewards, size).any()


def test_group_advantages_divide_by_numpy_s_sample_spread():
    rewards = randn(12)
    groups = rewards.numpy().reshape(3, 4)
    centred = groups - groups.mean(1, keepdims=True)
    scaled = centred / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
    assert close(ob.group_advantages(rewards, 4, "none"), centred.ravel())
    assert close(ob.group_advantages(rewards, 4), scaled.ravel())
    # by hand, rewards 1 and 0: mean 1/2, spread sqrt(1/2)
    wanted = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert close(ob.group_advantages(tensor([1, 0]), 2), tensor([wanted, -wanted]))


def test_a_group_without_spread_stays_zero_beside_one_with_spread():
    advantages = ob.group_advantages(tensor([0.1, 0.1, 0.1, 0, 0, 3]), 3, "none")
    assert not advantages[:3].any() and close(advantages[3:], tensor([-1, -1, 2]))


def test_leave_one_out_advantages_are_the_loop():
    rewards = randn(15)
    wanted = []
    for start in range(0, 15, 5):
        group = rewards[start : start + 5].tolist()
        wanted += [r - sum(group[:i] + group[i + 1 :]) / 4 for i, r in enumerate(group)]
    assert close(ob.leave_one_out_advantages(rewards, 5), tensor(wanted))


def test_impossible_groups_are_refused():
    with pytest.raises(ValueError, match="5 rewards do not part into groups of 2"):
        ob.group_advantages(torch.zeros(5), 2)
    with pytest.raises(ValueError, match="'range'"):
        ob.group_advantages(torch.zeros(4), 2, "range")
    with pytest.raises(ValueError, match="at least 2"):
        ob.leave_one_out_advantages(torch.zeros(4), 1)


# --- the utility's gradient -----------------------------------------------------------------------


def every_answer(horizon, stop=2):
    """All answers over {0, 1, 2} that end with `stop` or at the horizon."""
    unfinished, finished = [()], []
    for _ in range(horizon):
        longer = [(*a, token) for a in unfinished for token in range(3)]
        finished += [a for a in longer if a[-1] == stop]
        unfinished = [a for a in longer if a[-1] != stop]
    return finished + unfinished


@pytest.mark.parametrize("horizon", [1, 2])
def test_the_policy_gradient_is_unbiased_over_all_outcomes(horizon):
    # Exact, not sampled: every pair of answers with its probability. With horizon 2 the answers
    # differ in length, so a mean over tokens in place of the sum would show.
    logits = randn(horizon, 3).requires_grad_()
    answers = every_answer(horizon)
    rewards = randn(len(answers), seed=1)
    tokens = torch.tensor([a + (0,) * (horizon - len(a)) for a in answers])
    mask = tensor([[float(t < len(a)) for t in range(horizon)] for a in answers])

    def token_logps():
        return torch.log_softmax(logits, -1)[torch.arange(horizon), tokens]

    probabilities = (token_logps() * mask).sum(1).exp()
    assert close(probabilities.sum(), 1.0)
    (exact,) = torch.autograd.grad((probabilities * rewards).sum(), logits)

    expected = {"leave one out": 0.0, "group": 0.0}
    for pair in itertools.product(range(len(answers)), repeat=2):
        pair = list(pair)
        weight = probabilities[pair].prod().item()
        for name, advantages in (
            ("leave one out", ob.leave_one_out_advantages(rewards[pair], 2)),
            ("group", ob.group_advantages(rewards[pair], 2, "none")),
        ):
            loss = ob.policy_gradient_loss(token_logps()[pair], advantages, mask[pair])
            (grad,) = torch.autograd.grad(-loss, logits)
            expected[name] = expected[name] + weight * grad
    assert exact.abs().min() > 1e-3  # nothing to agree on otherwise
    assert close(expected["leave one out"], exact)
    # The mean of the group holds the answer itself, which takes 1/n of the gradient away: the
    # reason for the other baseline, and a proof that this test can tell.
    assert close(expected["group"], exact / 2)


def test_policy_gradient_loss_by_hand():
    logps, mask = tensor([[-1, -2, -3], [-4, -5, -6]]), tensor([[1, 1, 1], [1, 0, 0]])
    advantages = tensor([2, -1]).requires_grad_()
    loss = ob.policy_gradient_loss(logps.requires_grad_(), advantages, mask)
    loss.backward()
    assert loss.item() == -(2 * -6 + -1 * -4) / 2
    assert torch.equal(logps.grad, tensor([[-1, -1, -1], [0.5, 0, 0]]))
    assert advantages.grad is None


# --- means over tokens ----------------------------------------------------------------------------


def test_a_token_weighs_the_same_in_short_and_long_answers():
    # one token of 4 nats, three of 0: (4 + 0 + 0 + 0) / 4 = 1; the mean of means is (4 + 0) / 2
    logps, mask = tensor([[-4, -9, -9], [0, 0, 0]]), tensor([[1, 0, 0], [1, 1, 1]])
    assert ob.sft_loss(logps, mask).item() == 1.0
    # ratio 1: the loss is minus the mean advantage, -(8 + 0 + 0 + 0) / 4 = -2, not -4
    assert ob.ppo_clip_loss(logps, logps, tensor([8, 0]), mask).item() == -2.0


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_a_mask_may_have_any_type_and_may_be_empty(kind):
    logps, mask = tensor([[-1, -2, -6]]), torch.tensor([[1, 1, 0]]).to(kind)
    assert ob.sft_loss(logps, mask).item() == 1.5
    assert ob.sft_loss(logps, mask, total=6).item() == 0.5
    assert ob.policy_gradient_loss(logps, tensor([1]), mask).item() == 3.0
    assert ob.sft_loss(logps, torch.zeros_like(mask)).item() == 0.0


def ppo(logps, old, extra, mask, total=None):
    return ob.ppo_clip_loss(logps, old, extra, mask, 0.2, total)


def policy_gradient(logps, old, extra, mask, total=None):
    return ob.policy_gradient_loss(logps, extra[:, 0], mask, total)


def sft(logps, old, extra, mask, total=None):
    return ob.sft_loss(logps, mask, total)


def clipped_value(values, old, returns, mask):
    return ob.value_loss(values, old, returns, mask, 0.2)


LOSSES = [sft, ppo, policy_gradient, ob.value_loss, clipped_value]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("garbage", [0.0, 5.0, -1e30, 1e30, math.inf, -math.inf, math.nan])
def test_padding_never_changes_a_loss_or_its_gradient(loss, garbage):
    first, *others, mask = random_ppo()
    plain = first.clone().requires_grad_()
    loss(plain, *others, mask).backward()

    real, padding = first.clone().requires_grad_(), torch.full((5, 3), garbage).double()

    def padded(x):
        return torch.cat((x, padding), 1)

    value = loss(padded(real), *map(padded, others), torch.cat((mask, torch.zeros(5, 3)), 1))
    value.backward()
    assert value.isfinite() and close(value, loss(first, *others, mask))
    assert real.grad.isfinite().all() and plain.grad.any() and close(real.grad, plain.grad)


@pytest.mark.parametrize("garbage", [5.0, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("loss", LOSSES)
def test_padding_itself_gets_no_gradient(loss, garbage):
    # Padding comes out of the same network: 0 * nan there would poison every weight.
    first, *others, mask = random_ppo()
    off = mask == 0
    first = first.masked_fill(off, garbage).requires_grad_()
    loss(first, *(x.masked_fill(off, garbage) for x in others), mask).backward()
    assert torch.equal(first.grad[off], torch.zeros_like(first.grad[off]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 4)), st.integers(0, 2**20), st.sampled_from(LOSSES[:3]))
def test_micro_batches_with_the_whole_total_add_up_to_the_same_gradient(cuts, seed, loss):
    whole = random_ppo(seed)
    total = len(whole[0]) if loss is policy_gradient else whole[3].sum()
    at_once = whole[0].clone().requires_grad_()
    loss(at_once, *whole[1:]).backward()  # without `total`: the whole batch counts itself

    in_pieces = whole[0].clone().requires_grad_()
    for start, end in itertools.pairwise([0, *sorted(cuts), 5]):
        rows = slice(start, end)
        loss(in_pieces[rows], *(x[rows] for x in whole[1:]), total=total).backward()
    assert close(in_pieces.grad, at_once.grad)


# --- critic and entropy ---------------------------------------------------------------------------


def test_value_loss_by_hand():
    values, returns, mask = tensor([[1, 4, 7]]), tensor([[3, 3, 0]]), tensor([[1, 1, 0]])
    values.requires_grad_()
    loss = ob.value_loss(values, values, returns, mask)
    loss.backward()
    assert loss.item() == 0.5 * (4 + 1) / 2
    assert torch.equal(values.grad, tensor([[-1, 0.5, 0]]))  # (v - R) / 2 tokens


def test_clipped_value_loss_by_hand():
    # all returns 0, all old values 2, range 1/2: the clipped value lies in [1.5, 2.5]
    #   v = 1:    plain 1,    clipped 1.5^2 = 2.25   -> 2.25, without gradient: moved enough
    #   v = 1.75: plain and clipped 1.75^2 = 3.0625  -> 3.0625, gradient v / 4
    #   v = 4:    plain 16,   clipped 2.5^2 = 6.25   -> 16, gradient v / 4: it went the wrong way
    #   v = -3:   plain 9,    clipped 1.5^2 = 2.25   -> 9, gradient v / 4: it overshot
    values = tensor([[1, 1.75, 4, -3]]).requires_grad_()
    old, returns, mask = torch.full((1, 4), 2.0), torch.zeros(1, 4), torch.ones(1, 4)
    loss = ob.value_loss(values, old, returns, mask, clip_range=0.5)
    loss.backward()
    assert loss.item() == 0.5 * (2.25 + 3.0625 + 16 + 9) / 4
    assert torch.equal(values.grad, tensor([[0, 1.75 / 4, 1, -0.75]]))


def test_token_entropy_is_scipy_s():
    logits = 3 * randn(2, 4, 5)
    wanted = scipy.stats.entropy(scipy.special.softmax(logits.numpy(), -1), axis=-1)
    assert close(ob.token_entropy(logits), wanted)


@pytest.mark.parametrize("words", [1, 2, 7, 1000])
def test_token_entropy_of_a_uniform_distribution_is_log_v(words):
    assert close(ob.token_entropy(torch.full((3, words), 4.2).double()), tensor([math.log(words)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_token_entropy_with_forbidden_words_is_finite_and_so_is_its_gradient(dtype):
    logits = torch.tensor([[0, 0, -math.inf, -math.inf], [-math.inf, 3, -math.inf, -math.inf]])
    logits = logits.to(dtype).requires_grad_()
    entropy = ob.token_entropy(logits)
    entropy.sum().backward()
    assert torch.allclose(entropy, torch.tensor([math.log(2), 0], dtype=dtype))
    assert logits.grad.isfinite().all()
