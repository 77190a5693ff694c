"""The rivals' losses, weights, gates and rules for mu, each against another way to the number."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from amft_lite import objectives as ob
from amft_lite.methods import METHODS, few_right
from amft_lite.rivals import (
    RIVALS,
    ChordMu,
    Gac,
    NllEntropy,
    Replay,
    Share,
    gac_mu,
    read_trace,
    trimmed_variance,
)
from amft_lite.weighting import RuleOptions, Signals


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(data):
    return torch.tensor(data, dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def batch(seed=0):
    """log p, old log p, one advantage an answer, mask: [5, 6], [5, 6], [5], [5, 6]."""
    mask = (torch.arange(6) < tensor([6, 1, 3, 5, 2]).unsqueeze(1)).double()
    logps, old = (-randn(5, 6, seed=seed + k).abs() for k in (0, 1))
    return logps, old, randn(5, seed=seed + 2), mask


def tokens(mask):
    """(row, column) of every token that counts."""
    rows, columns = mask.shape
    return [p for p in itertools.product(range(rows), range(columns)) if mask[p]]


# --- weights of tokens ----------------------------------------------------------------------------


def test_phi_vanishes_at_both_ends_and_is_a_quarter_in_the_middle():
    assert ob.phi_weight(tensor([0, 1, 0.5, 0.2])).tolist() == pytest.approx([0, 0, 0.25, 0.16])
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert ob.phi_weight(grid).max() == 0.25
    assert grid[ob.phi_weight(grid).argmax()] == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cut_is_a_step_whose_edge_counts(dtype):
    edge = torch.tensor(0.15, dtype=dtype)
    under = torch.nextafter(edge, torch.zeros_like(edge))
    p = torch.stack([torch.zeros_like(edge), under, edge, torch.ones_like(edge)])
    assert ob.cut_weight(p).tolist() == [0, 0, 1, 1]
    assert ob.cut_weight(p).dtype == dtype
    assert ob.cut_weight(tensor([0.15, 0.49, 0.5]), below=0.5).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("method", "at"),  # omega at p = 0, .1, .5, 1
    [
        ("chord_phi", [0, 0.09, 0.25, 0]),
        ("gac", [0, 0.09, 0.25, 0]),
        ("nll_entropy_phi", [0, 0.36, 1, 0]),
        ("amft_phi", [0, 0.36, 1, 0]),
        ("cut_low", [0, 0, 1, 1]),
        ("amft_cut", [0, 0, 1, 1]),
    ],
)
def test_methods_have_the_token_weights_of_their_names(method, at):
    weights = METHODS[method].token_weight(tensor([[0, 0.1, 0.5, 1]]), torch.ones(1, 4))
    assert weights.tolist() == [pytest.approx(at)]


def test_weights_are_not_made_to_sum_to_anything():
    # (.5 * 1 + .25 * 2 + 0 * 4) / 3 tokens; over the sum of the weights it would be 4/3
    logps, mask = tensor([[-1, -2, -4]]), torch.ones(1, 3)
    weights = tensor([[0.5, 0.25, 0]])
    assert ob.sft_loss(logps, mask, weights=weights).item() == pytest.approx(1 / 3)
    assert ob.sft_loss(logps, mask, 6, weights).item() == pytest.approx(1 / 6)
    assert close(ob.sft_loss(logps, mask, weights=2 * weights), 2 / 3)
    assert ob.sft_loss(logps, mask, weights=torch.ones(1, 3)) == ob.sft_loss(logps, mask)


def test_a_weight_multiplies_its_token_s_gradient_and_gets_none():
    logps, _, _, mask = batch()
    logps.requires_grad_()
    weights = ob.phi_weight(logps.exp())  # still tied to the policy, as a careless caller's is
    weights.retain_grad()
    ob.sft_loss(logps, mask, weights=weights).backward()
    assert weights.grad is None
    assert close(logps.grad, -weights.detach() * mask / mask.sum())


# --- the demonstration in the group ---------------------------------------------------------------


def test_seven_wrong_rollouts_and_a_right_demonstration_by_hand():
    rollouts, experts = ob.joined_advantages(torch.zeros(7), torch.ones(1), 7, "none")
    assert rollouts.tolist() == [-1 / 8] * 7 and experts.tolist() == [7 / 8]
    # sample spread of seven 0 and a 1: sqrt((7/64 + 49/64) / 7) = sqrt(1/8)
    rollouts, experts = ob.joined_advantages(tensor([0] * 7), tensor([1]), 7)
    spread = math.sqrt(1 / 8) + 1e-4
    assert close(rollouts, [-1 / 8 / spread] * 7) and close(experts, [7 / 8 / spread])


@pytest.mark.parametrize("scale", ["none", "std"])
def test_a_solved_group_learns_nothing_nor_does_a_hopeless_one_with_a_wrong_expert(scale):
    for reward in (1.0, 0.0):
        rollouts, experts = ob.joined_advantages(
            torch.full((8,), reward), torch.full((1,), reward), 8, scale
        )
        assert not rollouts.any() and not experts.any()


@pytest.mark.parametrize("scale", ["none", "std"])
def test_joined_advantages_are_the_loop_over_groups(scale):
    rewards, experts = randn(12), randn(3, seed=1)
    rollouts, demonstrations = ob.joined_advantages(rewards, experts, 4, scale)
    for group in range(3):
        members = [*rewards[4 * group : 4 * group + 4].tolist(), experts[group].item()]
        mean = sum(members) / 5
        spread = math.sqrt(sum((r - mean) ** 2 for r in members) / 4) + 1e-4
        wanted = [(r - mean) / (spread if scale == "std" else 1) for r in members]
        assert close(rollouts[4 * group : 4 * group + 4], wanted[:4])
        assert close(demonstrations[group], wanted[4])


# --- losses of such demonstrations ----------------------------------------------------------------


def test_luffy_loss_and_its_gradient_are_the_published_weight():
    logps, _, advantages, mask = batch()
    n = len(tokens(mask))
    value, wanted = 0.0, torch.zeros(5, 6).double()
    for b, t in tokens(mask):
        p, a = math.exp(logps[b, t]), advantages[b].item()
        value -= a * p / (p + 0.1) / n
        wanted[b, t] = -a * 0.1 * p / (p + 0.1) ** 2 / n
    logps.requires_grad_()
    loss = ob.luffy_loss(logps, advantages, mask)
    loss.backward()
    assert close(loss, value) and close(logps.grad, wanted)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_luffy_gradient_through_a_softmax(gamma):
    # three actions; d log p_a / d logits = e_a - p
    logits = tensor([[0.3, -1.2, 2.0]]).requires_grad_()
    logps = torch.log_softmax(logits, -1)[:, 1:2]
    ob.luffy_loss(logps, tensor([0.875]), torch.ones(1, 1), gamma=gamma).backward()
    q = torch.softmax(logits.detach()[0], 0)
    p = q[1]
    score = torch.eye(3).double()[1] - q
    assert close(logits.grad[0], -0.875 * gamma * p / (p + gamma) ** 2 * score)


def test_luffy_weighs_most_where_p_is_gamma():
    p = torch.linspace(0.001, 1, 1000, dtype=torch.float64).unsqueeze(0)
    logps = p.log().requires_grad_()
    ob.luffy_loss(logps, torch.ones(1).double(), torch.ones(1, 1000)).backward()
    weights = -logps.grad[0] * 1000
    assert p[0, weights.argmax()] == pytest.approx(0.1)
    assert weights.max() == pytest.approx(1 / 4)


def test_rl_plus_loss_and_its_gradient_by_hand():
    logps, old, advantages, mask = batch()
    n = len(tokens(mask))
    value, wanted = 0.0, torch.zeros(5, 6).double()
    for b, t in tokens(mask):
        p, p_old, a = math.exp(logps[b, t]), math.exp(old[b, t]), advantages[b].item()
        expert = (p_old + 1) / 2
        ratio = p / ((p_old + expert) / 2)
        assert ratio == pytest.approx(2 * p / (1.5 * p_old + 0.5))
        value -= a * ratio * math.sqrt(1 - p) / n
        wanted[b, t] = -a * ratio * math.sqrt(1 - p) / n  # d p / d log p = p, and nothing else
    logps.requires_grad_()
    loss = ob.rl_plus_loss(logps, old, advantages, mask)
    loss.backward()
    assert close(loss, value) and close(logps.grad, wanted)


def test_rl_plus_sends_no_gradient_through_the_bonus_nor_to_the_old_policy():
    logps, old, advantages, mask = batch()
    for x in (logps, old, advantages):
        x.requires_grad_()
    ob.rl_plus_loss(logps, old, advantages, mask).backward()
    assert logps.grad.any() and old.grad is None and advantages.grad is None
    # with the bonus in the graph the gradient is another: this test can tell
    p = logps.exp()
    careless = -(advantages.unsqueeze(1) * 2 * p / (1.5 * old.exp() + 0.5) * (1 - p) ** 0.5 * mask)
    (other,) = torch.autograd.grad(careless.sum() / mask.sum(), logps)
    assert not close(other, logps.grad, 1e-2)


def test_rl_plus_weight_is_finite_at_the_ends_and_at_most_1_54():
    # p_old = 0: 4 p sqrt(1 - p), highest at p = 2/3: 8 / (3 sqrt 3)
    p = torch.linspace(0, 1, 3001, dtype=torch.float64).unsqueeze(0)
    for p_old in (0.0, 0.5, 1.0):
        logps = p.log().requires_grad_()
        old = torch.full_like(p, p_old).log()
        ob.rl_plus_loss(logps, old, torch.ones(1).double(), torch.ones(1, 3001)).backward()
        weights = -logps.grad[0] * 3001
        assert weights.isfinite().all() and weights[0] == 0 and weights[-1] == 0
        top = 8 / (3 * math.sqrt(3)) * 0.5 / (1.5 * p_old + 0.5)
        assert weights.max() == pytest.approx(top, rel=1e-6) and top < 1.54


def test_srft_loss_and_its_gradient_by_hand():
    logps, _, advantages, mask = batch()
    n, entropy = len(tokens(mask)), 0.7
    value, wanted = 0.0, torch.zeros(5, 6).double()
    for b, t in tokens(mask):
        p, a = math.exp(logps[b, t]), advantages[b].item()
        value += (0.5 * math.exp(-entropy) * -logps[b, t].item() - a * p) / n
        wanted[b, t] = -(0.5 * math.exp(-entropy) + a * p) / n
    logps.requires_grad_()
    loss = ob.srft_loss(logps, advantages.requires_grad_(), mask, entropy)
    loss.backward()
    assert close(loss, value) and close(logps.grad, wanted) and advantages.grad is None


def test_srft_weights_of_rollouts_by_hand():
    found = ob.srft_advantages(tensor([1, 0, 5, -1]), math.log(3))
    # .1 e^H right, -1 wrong; no mean is taken off
    assert found.tolist() == pytest.approx([0.3, -1, 0.3, -1], rel=1e-6)


# --- what all of them share -----------------------------------------------------------------------


def weighted_sft(logps, old, advantages, mask, total=None):
    return ob.sft_loss(logps, mask, total, weights=old.exp())


def luffy(logps, old, advantages, mask, total=None):
    return ob.luffy_loss(logps, advantages, mask, total)


def srft(logps, old, advantages, mask, total=None):
    return ob.srft_loss(logps, advantages, mask, 0.7, total)


LOSSES = [weighted_sft, luffy, ob.rl_plus_loss, srft]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("garbage", [0.0, 5.0, -1e30, 1e30, math.inf, -math.inf, math.nan])
def test_padding_changes_no_value_and_no_gradient_and_gets_none(loss, garbage):
    clean, old, advantages, mask = batch()
    clean.requires_grad_()
    value = loss(clean, old, advantages, mask)
    value.backward()
    off = mask == 0
    dirty = clean.detach().masked_fill(off, garbage).requires_grad_()
    again = loss(dirty, old.masked_fill(off, garbage), advantages, mask)
    again.backward()
    assert again.isfinite() and close(again, value)
    assert clean.grad.any() and close(dirty.grad, clean.grad)
    assert torch.equal(dirty.grad[off], torch.zeros_like(dirty.grad[off]))


@pytest.mark.parametrize("garbage", [math.inf, -math.inf, math.nan])
def test_garbage_among_the_weights_of_padding_stays_there(garbage):
    logps, _, _, mask = batch()
    weights = torch.ones(5, 6).double().masked_fill(mask == 0, garbage)
    logps.requires_grad_()
    loss = ob.sft_loss(logps, mask, weights=weights)
    loss.backward()
    assert close(loss, ob.sft_loss(logps, mask)) and close(logps.grad, -mask / mask.sum())


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_with_the_whole_total_add_up(loss):
    whole = batch()
    at_once, in_pieces = (whole[0].clone().requires_grad_() for _ in range(2))
    loss(at_once, *whole[1:]).backward()
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5)):
        pieces = [x[rows] for x in whole[1:]]
        loss(in_pieces[rows], *pieces, total=whole[3].sum()).backward()
    assert close(in_pieces.grad, at_once.grad)


# --- the gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "most"), [(0.0, 0), (1 / 8, 1), (2 / 8, 2), (1.0, 8)])
def test_the_gate_takes_the_prompts_with_at_most_so_many_right(threshold, most):
    right = torch.arange(9)  # prompts with 0, 1, ... 8 of 8 right
    rewards = (torch.arange(8) < right.unsqueeze(1)).float()
    assert few_right(rewards, threshold).tolist() == [n <= most for n in range(9)]


@pytest.mark.parametrize("K", range(2, 17))
def test_the_gate_s_edge_counts_for_every_size_of_group(K):
    for right in range(K):
        rewards = (torch.arange(K) < right).float().unsqueeze(0)
        assert few_right(rewards, right / K)
        assert not few_right(rewards, (right - 0.5) / K)


def test_the_gate_counts_right_answers_not_reward():
    # the game's own table pays 5 for right and -1 .. -3 for wrong
    rewards = torch.tensor([[5.0, -1, -3, -1], [-1, -1, -3, -2]])
    assert few_right(rewards, 0.0).tolist() == [False, True]


# --- chord_mu -------------------------------------------------------------------------------------


def signals(step=0, steps=100, warmup=0, **facts):
    return Signals(step, steps, warmup, **facts)


def test_chord_mu_at_points_worked_out_by_hand():
    # .4 of 30 steps after warm-up are 12; (1 + cos(pi/3)) / 2 = 3/4, (1 + cos(2 pi/3)) / 2 = 1/4
    rule = ChordMu(RuleOptions(chord_decay=0.4))
    by_hand = {0: 0.9, 15: 0.9, 19: 0.6875, 21: 0.475, 23: 0.2625, 27: 0.05}
    for step, mu in by_hand.items():
        assert rule.planned(step, 45, 15) == pytest.approx(mu)
        assert rule.update(signals(step, 45, 15)) == rule.mu == rule.planned(step, 45, 15)


def test_chord_mu_falls_and_then_stays():
    rule = ChordMu(RuleOptions())
    mus = [rule.planned(step, 150, 15) for step in range(15, 150)]  # a third of 135 steps: 45
    assert mus[0] == pytest.approx(0.9) and mus[45] == pytest.approx(0.05)
    assert all(a > b for a, b in itertools.pairwise(mus[:46]))
    assert set(mus[45:]) == {mus[45]}


@pytest.mark.parametrize("options", [{"chord_decay": 0.0}, {"chord_decay": 1.0}])
def test_chord_mu_at_the_ends_of_its_share(options):
    rule = ChordMu(RuleOptions(**options))
    assert rule.planned(3, 10, 3) == pytest.approx(0.9)
    assert rule.planned(10, 10, 3) == pytest.approx(0.05)
    assert (rule.planned(4, 10, 3) == pytest.approx(0.05)) == (options["chord_decay"] == 0)


# --- nll_entropy ----------------------------------------------------------------------------------


def test_nll_entropy_by_hand_over_four_steps():
    rule = NllEntropy(RuleOptions(mu_start=0.4))
    seen = [(3.0, 1.0), (1.0, 2.0), (0.5, 0.5), (9.0, 9.0)]
    mus = [rule.update(signals(nll=nll, entropy=entropy)) for nll, entropy in seen]
    # averages after each step: (3, 1), (2.8, 1.1), (2.57, 1.04); each mu is from the step before
    assert mus == pytest.approx([0.4, 3 / 4, 2.8 / 3.9, 2.57 / 3.61])
    assert rule.nll == pytest.approx(0.9 * 2.57 + 0.9)


@pytest.mark.parametrize(
    ("nll", "entropy", "mu"), [(100.0, 0.01, 0.8), (0.01, 100.0, 0.2), (0.0, 0.0, 0.2)]
)
def test_nll_entropy_stays_within_its_bounds(nll, entropy, mu):
    rule = NllEntropy(RuleOptions(mu_min=0.2, mu_max=0.8))
    for _ in range(2):
        rule.update(signals(nll=nll, entropy=entropy))
    assert rule.mu == mu


def test_nll_entropy_waits_where_nothing_was_measured():
    rule = NllEntropy(RuleOptions())
    assert rule.update(signals()) == 0.5 and rule.update(signals()) == 0.5
    rule.update(signals(nll=3.0, entropy=1.0))
    assert rule.update(signals(entropy=2.0)) == 0.75  # of the step before
    assert rule.update(signals()) == pytest.approx(3 / (3 + 1.1))


# --- gac ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d2", "sft", "rl", "alpha", "mu"),
    [(2, 1, 3, 0.5, 4 / 6), (0, 1, 3, 0.5, 3 / 4), (2, 0, 0, 0.3, 0.3), (4, 2, 2, 1.0, 6 / 8),
     (0, 0, 0, 0.5, 0.5), (0, 1, 0, 0.5, 0.0)],
)  # fmt: skip
def test_gac_mu_by_hand(d2, sft, rl, alpha, mu):
    assert gac_mu(d2, sft, rl, alpha) == pytest.approx(mu)


@pytest.mark.parametrize("case", range(6))
def test_gac_mu_is_the_minimiser_of_the_error_of_the_mixed_gradient(case):
    """Two noisy gradients in the plane, all four outcomes of their noise; the target is the
    mixture of the true ones with share alpha."""
    g_sft, g_rl, noise = randn(2, seed=case), randn(2, seed=case + 10), randn(2, 2, seed=case + 20)
    alpha = 0.1 + 0.15 * case
    target = alpha * g_sft + (1 - alpha) * g_rl

    def error(mu):
        outcomes = [
            mu * (g_sft + a * noise[0]) + (1 - mu) * (g_rl + b * noise[1]) - target
            for a, b in itertools.product((1, -1), repeat=2)
        ]
        return sum(float(o @ o) for o in outcomes) / 4

    best = minimize_scalar(error, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
    squares = [float(x @ x) for x in (g_sft - g_rl, noise[0], noise[1])]
    assert gac_mu(*squares, alpha) == pytest.approx(best, abs=1e-6)


def test_trimmed_variance_by_hand():
    # a tenth of ten values is one at each end: 2 .. 9 are left, (8^2 - 1) / 12
    values = tensor([7, 2, 10, 4, 5, 1, 6, 3, 9, 8])
    assert trimmed_variance(values) == pytest.approx(63 / 12)
    assert trimmed_variance(values.masked_fill(values == 10, 1e6)) == pytest.approx(63 / 12)
    assert trimmed_variance(values.masked_fill(values == 1, -1e6)) == pytest.approx(63 / 12)
    assert trimmed_variance(values, 0.0) == pytest.approx(99 / 12)
    assert trimmed_variance(tensor([0, 4])) == 4  # too few to trim
    assert trimmed_variance(torch.arange(20).double(), 0.2) == pytest.approx(143 / 12)  # 4 .. 15


def experts():
    """Two micro-batches of demonstrations, [3, 4] and [1, 2]; p by token, padding without one."""
    p = [[[0.5, 0.2, 0.1, None], [0.9, None, None, None], [0.3, 0.3, None, None]], [[0.8, 0.6]]]
    found = []
    for rows in p:
        mask = tensor([[float(x is not None) for x in row] for row in rows])
        found.append((tensor([[0.7 if x is None else x for x in row] for row in rows]).log(), mask))
    return found, [[[x for x in row if x] for row in rows] for rows in p]


def test_gac_s_proxies_are_the_loops():
    found, p = experts()
    advantages = [1.5, -0.5, 0.25]
    answers = [row for rows in p for row in rows]
    pairs = [(x * (1 - x) - a) ** 2 for row in answers for x in row for a in advantages]
    nll = [-sum(map(math.log, row)) / len(row) for row in answers]
    d2, s_sft, s_rl = Gac(RuleOptions()).measure(
        signals(experts=found, advantages=tensor(advantages))
    )
    assert d2 == pytest.approx(sum(pairs) / len(pairs))
    mean = sum(nll) / 4
    assert s_sft == pytest.approx(sum((x - mean) ** 2 for x in nll) / 4)  # four: none trimmed
    mean = sum(advantages) / 3
    assert s_rl == pytest.approx(sum((a - mean) ** 2 for a in advantages) / 3)


class Told(Gac):
    """The controller, told its statistics."""

    def __init__(self, statistics):
        super().__init__(RuleOptions())
        self.told, self.asked = statistics, []

    def measure(self, s):
        self.asked.append(s.step)
        return self.told(s.step) if callable(self.told) else list(self.told)


def gac_twin(statistics, steps, warmup, mu=0.85):
    """The released order: measured part -> blend with the prior -> cap -> bounds. It averages
    mu* into the very mu that is blended and capped, in every step."""
    average, mus = None, []
    for step in range(warmup, steps):
        if (step - warmup) % 10 == 0:
            new = statistics(step)
            average = average or new
            average = [0.99 * a + 0.01 * b for a, b in zip(average, new, strict=True)]
        d2, s_sft, s_rl = average
        raw = (0.5 * d2 + s_rl) / (d2 + s_sft + s_rl)
        progress = min(max((step / steps - 0.2) / 0.8, 0), 1)
        prior = 0.15 + 0.7 * (1 + math.cos(math.pi * progress)) / 2
        candidate = 0.5 * prior + 0.5 * (0.99 * mu + 0.01 * raw)
        mu = min(max(min(max(candidate, mu - 0.01), mu + 0.01), 0.05), 0.9)
        mus.append(mu)
    return mus


@pytest.mark.parametrize(("steps", "warmup"), [(150, 15), (40, 0)])
def test_gac_is_the_released_order_of_averages_prior_cap_and_bounds(steps, warmup):
    def statistics(step):
        return [1 + math.sin(step), 0.1 + step / steps, 2 - step / steps]

    rule = Told(statistics)
    mus = [rule.update(signals(step, steps, warmup)) for step in range(warmup, steps)]
    assert rule.asked == list(range(warmup, steps, 10))
    assert mus == pytest.approx(gac_twin(statistics, steps, warmup))


@pytest.mark.parametrize("steps", [150, 1000])
def test_gac_s_measured_part_has_about_a_hundredth_of_the_say(steps):
    """mu* = 0 or 1 throughout a run moves its last mu by less than .02: it is nearly its cosine."""
    last = []
    for statistics in ([0, 1e9, 0], [0, 0, 1e9]):
        rule = Told(statistics)
        assert {gac_mu(*statistics)} <= {0.0, 1.0}
        mus = [rule.update(signals(step, steps, 15)) for step in range(15, steps)]
        last.append(mus[-1])
        assert mus[-1] == pytest.approx(rule.prior(signals(steps - 1, steps, 15)), abs=0.02)
    assert 0 < last[1] - last[0] < 0.02


def test_gac_s_prior_by_hand():
    rule = Gac(RuleOptions())
    priors = [rule.prior(signals(step, 100)) for step in (0, 20, 60, 100)]
    assert priors == pytest.approx([0.85, 0.85, 0.5, 0.15])
    assert rule.mu == 0.85 and rule.planned(0, 100, 0) is None


@pytest.mark.parametrize("start", [0.06, 0.5, 0.89])
def test_gac_moves_at_most_a_hundredth_a_step_and_stays_within_its_bounds(start):
    rule = Told(lambda step: [1e-9, 1.0, 1e9 * (step % 3)])
    mus = [start]
    rule.mu = start
    for step in range(100):
        mus.append(rule.update(signals(step, 100)))
    moves = [abs(b - a) for a, b in itertools.pairwise(mus)]
    assert max(moves) <= 0.01 + 1e-12
    assert moves[0] == pytest.approx(0.01)  # the cap acted
    assert all(0.05 <= mu <= 0.9 for mu in mus)


@pytest.mark.parametrize(("start", "end"), [(2.0, 0.9), (-1.0, 0.05)])
def test_gac_s_bounds_come_last(start, end):
    rule = Told([1.0, 1.0, 1.0])
    rule.mu = start
    assert rule.update(signals(0, 100)) == end


# --- replay, share --------------------------------------------------------------------------------


def test_replay_gives_back_what_was_recorded_to_the_last_bit():
    recorded = [0.5, 1 / 3, 0.1 + 0.2, 0.05]
    rule = Replay(RuleOptions(trace=" ".join(map(str, recorded))))
    assert [rule.planned(step, 9, 2) for step in range(9)] == [
        *(0.5, 0.5), *recorded, *[0.05] * 3
    ]  # fmt: skip
    assert rule.update(signals(4, 9, 2)) == rule.mu == 0.1 + 0.2


def test_a_trace_says_how_often():
    assert read_trace("0.5 .25x3 1") == [0.5, 0.25, 0.25, 0.25, 1.0]
    rule = Replay(RuleOptions(trace=".9x2 .1"))
    assert [rule.planned(step, 10, 3) for step in (0, 3, 4, 5, 9)] == [0.9, 0.9, 0.9, 0.1, 0.1]


def test_replay_without_a_record_says_what_it_needs():
    with pytest.raises(ValueError, match="trace"):
        Replay(RuleOptions()).planned(0, 9, 2)


def test_share_is_the_share():
    rule = Share(RuleOptions())
    assert rule.planned(5, 9, 2) is None
    assert [rule.update(signals(share=x)) for x in (0.0, 0.375, 1.0)] == [0.0, 0.375, 1.0]
    assert rule.mu == 1.0


@pytest.mark.parametrize("name", RIVALS)
def test_no_rival_asks_for_validation(name):
    rule = RIVALS[name](RuleOptions(trace="0.5"))
    assert rule.validation is None and rule.every == 0 and rule.entropy_form == "off"
    assert rule.parts == {}


# --- continuing -----------------------------------------------------------------------------------


def stream(step):
    found, _ = experts()
    return signals(
        step, 120, 5, nll=1 + math.sin(step), entropy=1.5 + math.cos(step), share=(step % 7) / 7,
        experts=found, advantages=randn(8, seed=step),
    )  # fmt: skip


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_continued_from_its_state_goes_on_identically(name):
    options = RuleOptions(trace=" ".join(str(k / 97) for k in range(55)))
    rule = RIVALS[name](options)
    for step in range(5, 35):
        rule.update(stream(step))
    state = rule.state_dict()
    rest = [rule.update(stream(step)) for step in range(35, 60)]

    continued = RIVALS[name](options)
    continued.load_state_dict(state)  # taken before `rule` went on: it must not have changed
    assert continued.mu != rule.mu or name == "chord_mu"
    assert [continued.update(stream(step)) for step in range(35, 60)] == rest
    assert len(set(rest)) > 5 or name == "chord_mu"
    if name in ("gac", "nll_entropy"):  # and the state is needed for it
        fresh = RIVALS[name](options)
        assert [fresh.update(stream(step)) for step in range(35, 60)] != rest
