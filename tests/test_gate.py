"""Learned weights of tokens and demonstrations: which way is up, who would rise, what follows."""

import copy
import dataclasses
import math

import pytest
import torch
from test_loop import make, run

from amft_lite import objectives
from amft_lite.config import build, read_file
from amft_lite.gate import (
    EDGES,
    QUARTERS,
    GatedController,
    agreement,
    bin_of,
    quarter_of,
    sceptical_weight,
    uphill_direction,
)
from amft_lite.meta_gradient import AdamState, adam_state, adam_update, clip_by_norm, flatten, mix
from amft_lite.methods import METHODS
from amft_lite.weighting import RuleOptions, Signals, make_rule

GATED = ["amft_gate", "amft_gate_only", "gate_placebo"]


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(data):
    return torch.tensor(data, dtype=torch.float64)


# --- w, the uphill direction ----------------------------------------------------------------------


def adam(n=5, **changes):
    settings = {"step": 9, "lr": 0.01, "betas": (0.9, 0.95)} | changes
    return AdamState(0.3 * randn(n, seed=1), randn(n, seed=2) ** 2 + 0.05, **settings)


CLIPS = pytest.mark.parametrize("max_norm", [None, 1e3, 0.7], ids=["none", "idle", "active"])


@CLIPS
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_direction_is_minus_the_transposed_jacobian(max_norm, decay):
    state = adam(max_norm=max_norm, weight_decay=decay, params=randn(5, seed=5))
    grad, uphill = randn(5, seed=3), randn(5, seed=4)
    assert max_norm != 0.7 or grad.norm() > 0.7
    columns = []
    for k in range(5):
        e = 1e-5 * torch.eye(5).double()[k]
        columns.append((adam_update(grad + e, state) - adam_update(grad - e, state)) / 2e-5)
    jacobian = torch.stack(columns, 1)  # [i, k] = d update_i / d g_k
    wanted = -jacobian.T @ uphill
    found = uphill_direction(uphill, grad, state)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-9)
    assert not found.requires_grad and grad.grad is None
    if max_norm == 0.7:  # the clip ties the coordinates to each other
        assert (jacobian - jacobian.diagonal().diag()).abs().max() > 1e-4
        assert not torch.allclose(-jacobian @ uphill, wanted, rtol=1e-2)


@CLIPS
def test_a_gradient_added_along_the_direction_lowers_utility_and_against_it_raises_it(max_norm):
    # g_SFT is minus a sum of grad log p: a token that rises along w adds -grad log p to g
    state, grad, uphill = adam(max_norm=max_norm), randn(5, seed=3), randn(5, seed=4)
    w = uphill_direction(uphill, grad, state)
    change = randn(5, seed=6)
    e = 1e-6
    gain = float(uphill @ (adam_update(grad - e * change, state) - adam_update(grad, state))) / e
    assert gain == pytest.approx(float(w @ change), rel=1e-3)


def test_the_direction_is_finite_where_adam_has_seen_nothing():
    zero = torch.zeros(3, dtype=torch.float64)
    state = AdamState(zero, zero, step=0, lr=0.01, betas=(0.9, 0.95), max_norm=1.0)
    w = uphill_direction(randn(3), tensor([0, 1, -1]), state)
    assert w.isfinite().all()


# --- bins, quarters, agreement --------------------------------------------------------------------


def test_bins_by_hand_and_their_lower_edges_belong_to_them():
    assert EDGES == (0.03, 0.15, 0.5, 0.9)
    p = [0.0, 0.029, 0.03, 0.149, 0.15, 0.49, 0.5, 0.89, 0.9, 1.0]
    for dtype in (torch.float32, torch.float64):
        assert bin_of(torch.tensor(p, dtype=dtype)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert bin_of(tensor([[0.1, 0.6]])).tolist() == [[1, 3]]
    # bins 0 and 1 together are what the constant cut takes away
    p = torch.linspace(0, 1, 1001)
    assert torch.equal(bin_of(p) >= 2, objectives.cut_weight(p) > 0)


def test_quarters_by_hand():
    # means of log p: log of 1/2, 1/8 (of 1/4 and 1/16), 1/16, 3/4, 1/4, .9, .01, 1
    p = tensor([[0.5, 0.5], [0.25, 1 / 16], [1 / 16, 1], [0.75, 0.75],
                [0.25, 0.25], [0.9, 0.9], [0.01, 0.01], [1, 1]])  # fmt: skip
    mask = torch.ones(8, 2)
    mask[2, 1] = 0
    #   from below: .01 1/16 | 1/8 1/4 | 1/2 3/4 | .9 1
    assert quarter_of(p, mask).tolist() == [2, 1, 0, 2, 1, 3, 0, 3]
    for garbage in (0.0, 7.0, math.nan, math.inf):
        p[2, 1] = garbage
        assert quarter_of(p, mask).tolist() == [2, 1, 0, 2, 1, 3, 0, 3]


@pytest.mark.parametrize("n", range(1, 13))
def test_quarters_are_of_equal_size_as_far_as_they_can_be(n):
    quarters = quarter_of(torch.sigmoid(randn(n, 3)), torch.ones(n, 3))
    sizes = torch.bincount(quarters, minlength=QUARTERS)
    assert len(sizes) == QUARTERS and sizes.sum() == n and sizes.max() - sizes.min() <= 1


def test_agreement_by_hand_with_an_empty_group():
    groups = torch.tensor([0, 3, 0, 2, 3, 3, 4])
    rise = tensor([3, 1, 4, -2, -1, 0, 0])
    found = agreement(groups, rise, 5)
    # group 0: 3.5 / sqrt(12.5); 1 is empty; 2: all fall; 3: as much up as down; 4: nothing moves
    assert found.tolist() == pytest.approx([3.5 / math.sqrt(12.5), 0, -1, 0, 0])
    assert torch.allclose(agreement(groups, 1e-6 * rise, 5), found)
    assert torch.allclose(agreement(groups, -rise, 5), -found)


# --- how tokens fare along a direction ------------------------------------------------------------


def test_influence_is_the_dot_product_with_each_token_s_gradient():
    loop = run(make(method="sft", demonstrations=4, sft_batch=4, lr=5e-5), 3)
    batch, sizes = loop.expert_answers, [q.numel() for q in loop.parameters]
    # among other things towards the first demonstration, so that some tokens rise by much
    towards = -loop.gradient(loop.sft_loss, batch.rows(slice(1)), {})
    direction = towards / towards.norm() + randn(len(towards)).float() / len(towards) ** 0.5
    p, rise, mask = loop.influence(direction)
    assert p.shape == rise.shape == mask.shape == batch.tokens.shape

    logps = torch.log_softmax(loop.logits(batch), -1)
    logps = logps.gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)
    unit = (direction / direction.norm()).split(sizes)
    slopes = []
    for row in range(3):  # `influence` takes the demonstrations in an order of its own
        on = batch.mask[row] > 0
        apart = [((q - logps[row].exp())[on].abs().max() + (m != on).sum()).item()
                 for q, m in zip(p, mask > 0, strict=True)]  # fmt: skip
        place = apart.index(min(apart))
        assert apart[place] < 1e-3
        for t in range(0, int(on.sum()), 4):
            grads = torch.autograd.grad(logps[row, t], loop.parameters, retain_graph=True)
            slope = sum(float(g.flatten() @ u) for g, u in zip(grads, unit, strict=True))
            assert rise[place, t].item() == pytest.approx(slope, rel=0.01, abs=2e-3)
            slopes.append(slope)
    assert max(slopes) > 0.5 and min(slopes) < -0.02  # some rise, some fall


def test_influence_knows_lengths_only_by_direction_and_leaves_no_trace():
    loop = run(make(method="amft_gate"), 3)
    before = [q.detach().clone() for q in loop.parameters]
    moments = copy.deepcopy(loop.optimizer.state_dict()["state"])
    direction = randn(sum(q.numel() for q in loop.parameters)).float()
    p, rise, _ = loop.influence(direction)
    twice = loop.influence(2 * direction)
    back = loop.influence(-direction)
    assert torch.allclose(twice[1], rise, rtol=1e-2, atol=1e-3 * rise.abs().max())
    assert torch.allclose(back[1], -rise, rtol=1e-2, atol=1e-3 * rise.abs().max())
    assert all(torch.equal(a, b) for a, b in zip(before, loop.parameters, strict=True))
    assert all(q.grad is None and q.requires_grad for q in loop.parameters)
    after = loop.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[k]["exp_avg"], after[k]["exp_avg"]) for k in after)
    assert not p.requires_grad and not rise.requires_grad
    assert not loop.influence(torch.zeros_like(direction))[1].any()
    few = loop.influence(direction, demonstrations=5)
    assert len(few[0]) == 5 and len(p) == 20


def test_influence_at_a_run_s_own_step_length_is_the_slope():
    """In float32, along -grad L_SFT: the mean rise of log p is the gradient's own length."""
    loop = run(make(method="sft"), 3)
    direction = -loop.gradient(loop.sft_loss, loop.expert_answers, {})
    _, rise, mask = loop.influence(direction)
    assert ((rise * mask).sum() / mask.sum()).item() == pytest.approx(
        direction.norm().item(), rel=0.05
    )


# --- dU/dv and dU/du through a step of the real optimiser -----------------------------------------


class Toy:
    """A table of softmax policies; demonstrations are rows of (state, action); U is linear."""

    mu, states, actions = 0.4, 6, 4

    def __init__(self, max_norm, gate, trust):
        self.max_norm, self.gate, self.trust = max_norm, gate, trust
        self.theta = torch.nn.Parameter(2.5 * randn(self.states, self.actions, seed=11))
        self.optimizer = torch.optim.Adam([self.theta], lr=0.01, betas=(0.9, 0.95))
        for k in range(4):  # an optimiser in mid-run
            self.theta.grad = randn(self.states, self.actions, seed=20 + k)
            self.optimizer.step()
        draw = torch.Generator().manual_seed(3)
        self.where = torch.randint(self.states, (16, 3), generator=draw)
        self.what = torch.randint(self.actions, (16, 3), generator=draw)
        self.mask = (torch.arange(3) < torch.randint(1, 4, (16, 1), generator=draw)).double()
        self.rl = randn(self.states * self.actions, seed=12)
        self.uphill = randn(self.states * self.actions, seed=13)

    def logps(self, theta):
        return torch.log_softmax(theta.view(self.states, -1), -1)[self.where, self.what]

    def sft(self, gate, trust):
        """g_SFT [N] under the weights."""
        theta = self.theta.detach().clone().requires_grad_()
        logps = self.logps(theta)
        p = logps.detach().exp()
        omega = gate[bin_of(p)] * trust[quarter_of(p, self.mask)].unsqueeze(1)
        loss = -(omega * logps * self.mask).sum() / self.mask.sum()
        return torch.autograd.grad(loss, theta)[0].flatten()

    def gain(self, gate, trust):
        """U after one step of torch's own Adam."""
        trial = copy.deepcopy(self.optimizer)
        [theta] = trial.param_groups[0]["params"]
        grad = mix(self.sft(gate, trust), self.rl, self.mu)
        theta.grad = clip_by_norm(grad, self.max_norm).view_as(theta)
        trial.step()
        return float(self.uphill @ theta.detach().flatten())

    def slopes(self, e=1e-5):
        """dU/dv [5] and dU/du [4] by central differences through the optimiser."""
        found = []
        for name in ("gate", "trust"):
            parts = []
            for k in range(len(getattr(self, name))):
                values = []
                for sign in (1, -1):
                    moved = {"gate": self.gate.clone(), "trust": self.trust.clone()}
                    moved[name][k] += sign * e
                    values.append(self.gain(**moved))
                parts.append((values[0] - values[1]) / (2 * e))
            found.append(tensor(parts))
        return found

    def direction(self):
        state = adam_state(self.optimizer, self.max_norm)
        return uphill_direction(
            self.uphill, mix(self.sft(self.gate, self.trust), self.rl, self.mu), state
        )

    def influence(self, w):
        """(p, <w, grad log p>, mask) by the gradient of every token."""
        theta = self.theta.detach().flatten()
        every = torch.autograd.functional.jacobian(self.logps, theta)  # [16, 3, N]
        return self.logps(theta).exp(), every @ w, self.mask


@pytest.mark.parametrize("max_norm", [None, 0.3], ids=["free", "clipped"])
@pytest.mark.parametrize("learned", [False, True])
def test_the_sums_over_bins_and_quarters_are_the_derivatives_through_the_optimiser(
    max_norm, learned
):
    gate, trust = torch.ones(5).double(), torch.ones(4).double()
    if learned:
        gate = tensor([0.1, 0.9, 0.3, 0.6, 1.0])
    toy = Toy(max_norm, gate, trust)
    p, rise, mask = toy.influence(toy.direction())
    bins, quarters = bin_of(p), quarter_of(p, mask)
    assert len(set(bins[mask > 0].tolist())) == 5  # every bin has tokens
    by_bin = tensor([(rise * mask)[bins == k].sum() for k in range(5)])
    by_quarter = tensor([(gate[bins] * rise * mask)[quarters == j].sum() for j in range(4)])
    dv, du = toy.slopes()
    scale = toy.mu / mask.sum()
    assert torch.allclose(scale * by_bin, dv, rtol=1e-4, atol=1e-9)
    assert torch.allclose(scale * by_quarter, du, rtol=1e-4, atol=1e-9)
    assert dv.abs().min() > 1e-7 and du.abs().min() > 1e-7  # all have a sign
    assert (dv > 0).any() and (dv < 0).any()


@pytest.mark.parametrize("max_norm", [None, 0.3], ids=["free", "clipped"])
def test_the_controller_moves_every_weight_the_way_that_raises_utility(max_norm):
    options = RuleOptions(mu_start=Toy.mu, eta_mu=0.0, eta_gate=0.2, eta_trust=0.2)
    rule = GatedController("amft_gate", options)
    toy = Toy(max_norm, torch.full((5,), 0.5).double(), torch.ones(4).double())
    rule.gate, rule.trust = toy.gate.clone(), torch.full((4,), 0.5).double()
    signals = Signals(
        0, 100, 0, toy.sft(toy.gate, toy.trust), toy.rl, adam_state(toy.optimizer, max_norm),
        toy.uphill, influence=toy.influence,
    )  # fmt: skip
    rule.update(signals)
    dv, du = toy.slopes()
    assert torch.equal((rule.gate - 0.5).sign(), dv.sign())
    assert torch.equal((rule.trust - 0.5).sign(), du.sign())


# --- the controller -------------------------------------------------------------------------------


def told(p, rise, mask, seed=0, **changes):
    """Signals whose demonstrations fare as told; the gradients are noise."""
    n = 6
    state = AdamState(0 * randn(n), randn(n, seed=seed) ** 2 + 0.1, 20, 1e-3, (0.9, 0.95))
    signals = Signals(
        seed, 100, 0, randn(n, seed=seed + 50), randn(n, seed=seed + 90), state,
        randn(n, seed=seed + 130), influence=lambda w: (p, rise, mask),
    )  # fmt: skip
    return dataclasses.replace(signals, **changes)


#: four demonstrations, from unlikely to likely; one token in each bin but the third
P = tensor([[0.01, 0.01], [0.1, 0.1], [0.6, 0.6], [0.95, 0.95]])
ON = torch.ones(4, 2)


def test_open_weights_start_at_one_so_that_the_first_steps_are_plain():
    rule = GatedController("amft_gate", RuleOptions(gate_start="open"))
    assert torch.equal(rule.token_weight(P, ON), torch.ones(4, 2).double())


def test_sceptical_weights_start_with_likely_tokens_of_the_likelier_half():
    p = tensor([[0.9, 0.1], [0.2, 0.2], [0.14, 1.0], [0.15, 0.95]])
    #   means of log p, from below: row 1, row 0, row 2, row 3
    wanted = [[0, 0], [0, 0], [0, 1], [1, 1]]
    rule = GatedController("amft_gate", RuleOptions(gate_start="sceptical"))
    assert rule.token_weight(p, ON).tolist() == wanted
    assert METHODS["cut_half"].token_weight(p, ON).tolist() == wanted  # the same, for good
    assert METHODS["cut_half"].token_weight(p, ON).dtype == p.dtype


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_constant_is_the_start_whatever_the_batch(n):
    p, mask = torch.sigmoid(2 * randn(n, 5, seed=n)), (randn(n, 5, seed=n + 1) < 1).double()
    mask[:, 0] = 1
    start = GatedController("amft_gate", RuleOptions(gate_start="sceptical")).token_weight(p, mask)
    assert torch.equal(sceptical_weight(p, mask), start)
    assert 0 < start.sum() < start.numel()


def test_a_weight_is_its_token_s_bin_times_its_demonstration_s_quarter():
    rule = GatedController("amft_gate", RuleOptions())
    rule.gate, rule.trust = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]), torch.tensor([1, 0.5, 0.25, 0])
    p = tensor([[0.99, 0.2], [0.4, 0.01], [0.6, 0.6], [0.05, 0.9]])
    #   means of log p, from below: row 1, row 3, row 0, row 2
    wanted = [[0.4 * 0.25, 0.2 * 0.25], [0.2, 0.0], [0, 0], [0.1 * 0.5, 0.4 * 0.5]]
    found = rule.token_weight(p, ON)
    assert found.dtype == p.dtype
    assert torch.allclose(found, tensor(wanted))


@pytest.mark.parametrize("name", ["amft_gate", "amft_gate_only"])
def test_bins_and_quarters_that_rise_go_up_and_those_that_fall_go_down(name):
    rise = tensor([[-1, -1], [2, 2], [-0.3, 0.3], [5, 5]])
    rule = GatedController(name, RuleOptions(eta_gate=0.1, eta_trust=0.2))
    rule.gate, rule.trust = torch.full((5,), 0.5), torch.full((4,), 0.5)
    rule.update(told(P, rise, ON))
    assert rule.gate.tolist() == pytest.approx([0.4, 0.6, 0.5, 0.5, 0.6])  # no token in bin 2
    assert rule.trust.tolist() == pytest.approx([0.3, 0.7, 0.5, 0.7])
    for k in range(5):
        assert rule.parts[f"gate_{k}"] == pytest.approx(float(rule.gate[k]))
    for j in range(4):
        assert rule.parts[f"trust_{j}"] == pytest.approx(float(rule.trust[j]))


def test_a_quarter_is_judged_by_tokens_as_the_gate_of_before_weighs_them():
    # of both tokens of demonstration 0 the gate only lets the second through
    p = tensor([[0.01, 0.2], [0.95, 0.95]])
    rule = GatedController("amft_gate", RuleOptions(eta_gate=1.0, eta_trust=0.2))
    rule.gate, rule.trust = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5]), torch.full((4,), 0.5)
    rule.update(told(p, tensor([[-9, 1], [1, 1]]), torch.ones(2, 2)))
    assert rule.trust.tolist() == pytest.approx([0.7, 0.5, 0.7, 0.5])


def test_padding_has_no_say():
    rise = tensor([[1, -7], [1, -7], [1, -7], [1, -7]])
    mask = tensor([[1, 0]] * 4)
    rule = GatedController("amft_gate", RuleOptions(eta_gate=0.1, eta_trust=0.1))
    rule.gate, rule.trust = torch.full((5,), 0.5), torch.full((4,), 0.5)
    rule.update(told(P, rise, mask))
    assert rule.gate.tolist() == pytest.approx([0.6, 0.6, 0.5, 0.6, 0.6])
    assert rule.trust.tolist() == pytest.approx([0.6] * 4)


@pytest.mark.parametrize("name", GATED)
def test_weights_stay_between_0_and_1(name):
    rule = GatedController(name, RuleOptions(eta_gate=0.7, eta_trust=0.7))
    seen = []
    for step in range(40):
        rule.update(told(P, randn(4, 2, seed=step), ON, seed=step))
        seen += [*rule.gate.tolist(), *rule.trust.tolist()]
    assert min(seen) == 0.0 and max(seen) == 1.0 and len(set(seen)) > 20


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("nothing", [{"grad_utility": None}, {"informative": False}])
def test_without_a_validation_signal_no_weight_moves(name, nothing):
    rule = GatedController(name, RuleOptions(gate_start="open", eta_gate=0.5, eta_trust=0.5))
    rule.update(told(P, -ON.double(), ON))
    gate, trust = rule.gate.clone(), rule.trust.clone()
    rule.update(told(P, -ON.double(), ON, seed=1, **nothing))
    assert torch.equal(rule.gate, gate) and torch.equal(rule.trust, trust)
    assert gate.min() < 1 and trust.min() < 1
    assert not any(part.startswith(("gate", "trust")) for part in rule.parts)


@pytest.mark.parametrize("name", GATED)
def test_mu_is_amft_s_own_or_stays_where_only_the_weights_learn(name):
    amft = make_rule("amft", RuleOptions(mu_start=0.4))
    rule = GatedController(name, RuleOptions(mu_start=0.4))
    for step in range(12):
        signals = told(P, randn(4, 2, seed=step), ON, seed=step)
        wanted = amft.update(signals)
        found = rule.update(signals)
        assert found == rule.mu == (0.4 if name == "amft_gate_only" else wanted)
    assert amft.mu != 0.4


def test_the_direction_is_taken_at_the_averages_and_the_mu_of_this_step():
    asked = []
    rule = GatedController("amft_gate", RuleOptions())
    first, second = (
        told(P, None, None, seed=s, influence=lambda w: asked.append(w) or (P, ON.double(), ON))
        for s in (0, 1)
    )
    rule.update(first)
    mu = rule.update(second)
    sft, rl = (0.9 * getattr(first, g) + 0.1 * getattr(second, g) for g in ("grad_sft", "grad_rl"))
    uphill = 0.5 * first.grad_utility + 0.5 * second.grad_utility
    wanted = uphill_direction(uphill, mu * sft + (1 - mu) * rl, second.adam)
    assert len(asked) == 2 and torch.allclose(asked[1], wanted, rtol=1e-9)


def test_the_placebo_moves_as_far_with_signs_of_a_coin():
    options = RuleOptions(eta_gate=1e-3, eta_trust=1e-3, mu_start=0.3)
    kept = {}
    for seed in (0, 1):
        placebo = GatedController("gate_placebo", dataclasses.replace(options, seed=seed))
        real = GatedController("amft_gate", options)
        kept[seed] = []
        for step in range(20):
            for rule in (placebo, real):
                rule.gate, rule.trust = torch.full((5,), 0.5), torch.full((4,), 0.5)
                rule.update(told(P, randn(4, 2, seed=step), ON, seed=step))
            a, b = (torch.cat((r.gate, r.trust)) - 0.5 for r in (placebo, real))
            assert torch.allclose(a.abs(), b.abs(), atol=1e-7)
            assert placebo.mu == real.mu
            kept[seed] += (a[b != 0] * b[b != 0] > 0).tolist()
        # 160 fair coins (one bin is empty) leave [55, 105] once in ten thousand times
        assert len(kept[seed]) == 160 and 55 <= sum(kept[seed]) <= 105
        assert all(0 < sum(kept[seed][k::8]) < 20 for k in range(8))  # new coins in every update
    assert kept[0] != kept[1]


@pytest.mark.parametrize("name", GATED)
def test_a_gate_continued_from_its_state_goes_on_identically(name):
    options = RuleOptions(eta_gate=0.05, eta_trust=0.05)

    def go(rule, steps):
        found = []
        for step in steps:
            meta = {} if step % 3 else {"grad_utility": None}
            mu = rule.update(told(P, randn(4, 2, seed=step), ON, seed=step, **meta))
            found.append((mu, rule.parts, rule.gate.tolist(), rule.trust.tolist()))
        return found

    rule = GatedController(name, options)
    go(rule, range(11))
    state = rule.state_dict()
    rest = go(rule, range(11, 25))
    continued = GatedController(name, options)
    continued.load_state_dict(state)  # taken before `rule` went on: it must not have changed
    assert go(continued, range(11, 25)) == rest
    assert len({str(weights) for _, _, *weights in rest}) > 5


# --- in the loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GATED)
def test_in_a_run_the_weights_move_and_are_recorded(name):
    loop = run(make(method=name, meta_every=2, steps=20, warmup_steps=8, validation_rollouts=8), 13)
    measured = [r for r in loop.records if "mu_gate_0" in r]
    assert measured and all(r["step"] in (8, 10, 12) for r in measured)
    for record in measured:
        every = [record[f"mu_gate_{k}"] for k in range(5)]
        every += [record[f"mu_trust_{j}"] for j in range(4)]
        assert all(0 <= x <= 1 for x in every)
    start = GatedController(name, loop.config.rule_options())
    assert not torch.equal(loop.rule.gate, start.gate)
    assert not torch.equal(loop.rule.trust, start.trust)
    assert flatten(loop.parameters).isfinite().all()
    if name == "amft_gate_only":
        assert {r["mu"] for r in loop.records[8:]} == {loop.config.mu_start}


def test_the_lite_game_s_default_learns_gates_too_and_asks_validation_for_entropy():
    full = build(read_file("lite"))
    assert (full.method, full.entropy_form, full.mu_start) == ("amft_full", "gradient", 0.3)
    rule = METHODS["amft_full"].make_rule(full.rule_options())
    assert isinstance(rule, GatedController) and rule.entropy_form == "gradient"
    assert rule.gate.tolist() == [0, 0, 1, 1, 1] and rule.trust.tolist() == [0, 0, 1, 1]
    # a setting still wins, and the scalar beside it is as it was
    assert build(read_file("lite"), {"entropy_form": "off"}).entropy_form == "off"
    scalar = build(read_file("lite"), {"method": "amft"})
    assert (scalar.entropy_form, scalar.mu_start) == ("off", 0.5)
