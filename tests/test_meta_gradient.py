"""dU/dmu against finite differences through real optimiser steps, and the Adam it is built on
against torch's own; float64 throughout."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from amft_lite import meta_gradient as mg

SHAPES = ((3, 4), (5,), (2, 1, 2))
ADAMS = [
    functools.partial(kind, betas=(0.9, beta2), weight_decay=decay)
    for kind in (Adam, AdamW)
    for beta2 in (0.95, 0.999)
    for decay in (0.0, 0.1)
]
DECAYING = [o for o in ADAMS if o.keywords["weight_decay"]]


def with_scaled_gradients(state, factor):
    """The state Adam would be in had every gradient so far been `factor` times as large."""
    return dataclasses.replace(
        state, exp_avg=state.exp_avg * factor, exp_avg_sq=state.exp_avg_sq * factor**2
    )


def name_of(make):
    settings = getattr(make, "keywords", {})
    return getattr(make, "func", make).__name__ + "".join(f" {v}" for v in settings.values())


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(data):
    return torch.tensor(data, dtype=torch.float64)


def difference(a, b):
    """Relative, by norm."""
    return float((a - b).norm() / b.norm())


def set_gradients(params, vector):
    """Gradients from a flat vector; `torch.split` in place of the module's own unflattening."""
    for p, part in zip(params, vector.split([p.numel() for p in params]), strict=True):
        p.grad = part.reshape(p.shape).clone()


def real_step(optimizer, params, vector, max_norm=None):
    set_gradients(params, vector)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(params, max_norm)
    optimizer.step()


def flat(params):
    return torch.cat([p.detach().flatten() for p in params])


def warm(make, lr=1e-2, steps=6):
    """Parameters and an optimiser with several real steps behind it, their gradients uneven."""
    params = [randn(*shape, seed=i).requires_grad_() for i, shape in enumerate(SHAPES)]
    optimizer = make(params, lr=lr)
    sizes = 10 ** randn(21, seed=3)  # some coordinates see gradients 100 times as large as others
    for step in range(steps):
        real_step(optimizer, params, sizes * (0.5 + randn(21, seed=10 + step)))
    return params, optimizer, sizes * randn(21, seed=4), sizes * randn(21, seed=5)


def stepped(optimizer, params, vector, max_norm=None):
    """theta' after a real step along `vector`, taken by a twin optimiser on copies."""
    copies = [p.detach().clone().requires_grad_() for p in params]
    twin = type(optimizer)(copies, lr=1.0)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # brings lr, betas, moments
    real_step(twin, copies, vector, max_norm)
    return flat(copies)


def own_finite_difference(utility, optimizer, params, g_sft, g_rl, mu, h=1e-3, max_norm=None):
    up, down = (
        utility(stepped(optimizer, params, (1 - at) * g_rl + at * g_sft, max_norm))
        for at in (mu + h, mu - h)
    )
    return float(up - down) / (2 * h)


# --- the update rule ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ADAMS, ids=name_of)
@pytest.mark.parametrize("max_norm", [None, 1.0, 1e3])
def test_adam_update_is_torch_s_own_step(make, max_norm):
    params, optimizer, *_ = warm(make, steps=0)  # from the very first step on
    for step in range(8):
        grad = randn(21, seed=step) * 10 ** randn(21, seed=100)
        state, before = mg.adam_state(optimizer, max_norm), flat(params)
        assert state.step == step
        real_step(optimizer, params, grad, max_norm)
        assert difference(mg.adam_update(grad, state), flat(params) - before) < 1e-12


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clip_by_norm_is_clip_grad_norm(max_norm):
    params, _, grad, _ = warm(SGD)
    set_gradients(params, grad)
    torch.nn.utils.clip_grad_norm_(params, max_norm)
    wanted, before = torch.cat([p.grad.flatten() for p in params]), grad.clone()
    assert difference(mg.clip_by_norm(grad, max_norm), wanted) < 1e-14
    assert torch.equal(grad, before)
    assert torch.equal(wanted, grad) == (max_norm == 1e3)  # one case clips, the other does not
    assert mg.clip_by_norm(grad, None) is grad


def test_adam_state_does_not_change_when_the_optimiser_moves_on():
    params, optimizer, grad, _ = warm(functools.partial(AdamW, weight_decay=0.1))
    state = mg.adam_state(optimizer)
    frozen = copy.deepcopy(state)
    real_step(optimizer, params, grad)
    for one, other in zip(vars(state).values(), vars(frozen).values(), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_scaled_gradients_give_the_state_of_a_scaled_history():
    states = []
    for factor in (1.0, 10.0):
        params = [torch.zeros(21, dtype=torch.float64, requires_grad=True)]
        optimizer = Adam(params)
        for step in range(5):
            real_step(optimizer, params, factor * randn(21, seed=step))
        states.append(mg.adam_state(optimizer))
    scaled = with_scaled_gradients(states[0], 10.0)
    assert difference(scaled.exp_avg, states[1].exp_avg) < 1e-14
    assert difference(scaled.exp_avg_sq, states[1].exp_avg_sq) < 1e-14


# --- dU/dmu against the real step -----------------------------------------------------------------

WEIGHTS = randn(21, seed=6)


def linear(theta):
    return WEIGHTS @ theta


def curved(theta):
    return torch.tanh(WEIGHTS @ theta / 10) + torch.sin(theta).sum()


def of_flat(utility):
    return lambda params: utility(flat(params))


def slope(utility, params):
    theta = flat(params).requires_grad_()
    return torch.autograd.grad(utility(theta), theta)[0]


# grad U is taken before the step, so a curved U needs a small step: its error is of order lr
UTILITIES = pytest.mark.parametrize(
    ("utility", "lr"), [(linear, 1e-2), (curved, 1e-5)], ids=["linear", "curved"]
)


@UTILITIES
@pytest.mark.parametrize("make", DECAYING, ids=name_of)
@pytest.mark.parametrize("mu", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_mu_gradient_is_the_finite_difference_through_adam(make, utility, lr, mu, max_norm):
    params, optimizer, g_sft, g_rl = warm(make, lr)
    state = mg.adam_state(optimizer, max_norm)
    direction = mg.adam_direction(g_sft, g_rl, state, mu, width=1e-3)
    got = mg.mu_gradient(slope(utility, params), direction).item()

    oracle = mg.finite_difference(of_flat(utility), optimizer, g_sft, g_rl, mu, max_norm=max_norm)
    own = own_finite_difference(utility, optimizer, params, g_sft, g_rl, mu, max_norm=max_norm)
    through = mg.autograd_gradient(
        utility, flat(params), g_sft, g_rl, mu, lambda g: mg.adam_update(g, state)
    )
    assert oracle == pytest.approx(own, rel=1e-6)  # the oracle is checked too
    assert got == pytest.approx(own, rel=1e-3)
    assert through == pytest.approx(own, rel=1e-3)


@UTILITIES
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_mu_gradient_is_the_finite_difference_through_sgd(utility, lr, decay):
    params, optimizer, g_sft, g_rl = warm(functools.partial(SGD, weight_decay=decay), lr)
    got = mg.mu_gradient(slope(utility, params), mg.sgd_direction(g_sft, g_rl, lr)).item()
    oracle = mg.finite_difference(of_flat(utility), optimizer, g_sft, g_rl, 0.4)
    own = own_finite_difference(utility, optimizer, params, g_sft, g_rl, 0.4)

    def update(g):
        return -lr * (g + decay * flat(params))

    through = mg.autograd_gradient(utility, flat(params), g_sft, g_rl, 0.4, update)
    assert oracle == pytest.approx(own, rel=1e-6)
    assert got == pytest.approx(own, rel=1e-3)
    assert through == pytest.approx(own, rel=1e-3)


@pytest.mark.parametrize("make", DECAYING, ids=name_of)
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize(
    ("mu", "low", "high"), [(0.5, 0.25, 0.75), (0.05, 0, 0.3), (0.9, 0.65, 1), (1, 0.75, 1)]
)
def test_a_wide_direction_is_the_difference_of_two_real_steps(make, max_norm, mu, low, high):
    params, optimizer, g_sft, g_rl = warm(make)
    upper, lower = (
        stepped(optimizer, params, (1 - at) * g_rl + at * g_sft, max_norm) for at in (high, low)
    )
    state = mg.adam_state(optimizer, max_norm)
    direction = mg.adam_direction(g_sft, g_rl, state, mu, width=0.5)
    assert difference(direction, (upper - lower) / (high - low)) < 1e-11


def test_finite_difference_leaves_everything_of_the_caller_alone():
    params, optimizer, g_sft, g_rl = warm(AdamW)
    before = copy.deepcopy((params, [p.grad for p in params], optimizer.state_dict(), g_sft, g_rl))
    mg.finite_difference(of_flat(curved), optimizer, g_sft, g_rl, 0.5, max_norm=1.0)
    torch.testing.assert_close(
        (params, [p.grad for p in params], optimizer.state_dict(), g_sft, g_rl),
        before, rtol=0, atol=0,
    )  # fmt: skip
    assert optimizer.param_groups[0]["params"][0] is params[0]


# --- its sign -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shown", "sign"), [(0, +1), (1, -1)])
@pytest.mark.parametrize("make", [SGD, *DECAYING], ids=name_of)
def test_mu_should_rise_exactly_where_imitation_helps_validation_reward(make, shown, sign):
    # A softmax policy over three actions. Validation rewards action 0. The demonstrations show
    # action `shown`, the training reward pays for the other one of 0 and 1. With shown = 0 a step
    # along SFT makes action 0 likelier and a step along RL makes it rarer, so more SFT means more
    # reward: dU/dmu > 0. With shown = 1 it is RL that leads to action 0.
    theta = tensor([0.1, 0.0, -0.1]).requires_grad_()
    optimizer = make([theta], lr=0.05)
    for _ in range(3):  # moments that know both losses
        real_step(optimizer, [theta], tensor([0.3, -0.3, 0.1]))
        real_step(optimizer, [theta], tensor([-0.3, 0.3, -0.1]))

    def validation(t):
        return torch.softmax(t, -1)[0]

    g_sft, g_rl, g_u = (
        torch.autograd.grad(value, theta)[0]
        for value in (
            -torch.log_softmax(theta, -1)[shown],
            -torch.softmax(theta, -1)[1 - shown],
            validation(theta),
        )
    )
    if make is SGD:
        direction = mg.sgd_direction(g_sft, g_rl, 0.05)
    else:
        direction = mg.adam_direction(g_sft, g_rl, mg.adam_state(optimizer), 0.5)
    assert sign * mg.mu_gradient(g_u, direction).item() > 1e-4
    # and the case is what the comment says: compare the two pure steps themselves
    gain = validation(stepped(optimizer, [theta], g_sft)) - validation(
        stepped(optimizer, [theta], g_rl)
    )
    assert sign * gain > 1e-4


def test_the_naive_direction_can_have_the_wrong_sign():
    # Coordinate 0 has seen only gradients of 1e-6, so its sqrt(v) is 1e-6, and a fixed
    # preconditioner multiplies the fresh difference g_SFT - g_RL = 0.4 by a million. The real v
    # takes in the fresh gradient, some 1 at any mu, and m / sqrt(v) then is the same constant:
    # mu hardly moves this coordinate. Coordinate 1, whose v is an honest 1, moves by its
    # difference, and there more SFT is bad for U.
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = AdamW([theta], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(50):
        real_step(optimizer, [theta], tensor([1e-6, 1.0]))
    g_sft, g_rl, g_u = tensor([1.2, 1.0]), tensor([0.8, 0.0]), tensor([-1.0, 1.0])

    def utility(params):
        return g_u @ flat(params)

    state = mg.adam_state(optimizer)
    naive = mg.mu_gradient(g_u, mg.naive_direction(g_sft, g_rl, state)).item()
    exact = mg.mu_gradient(g_u, mg.adam_direction(g_sft, g_rl, state, 0.5, 1e-3)).item()
    wide = mg.mu_gradient(g_u, mg.adam_direction(g_sft, g_rl, state, 0.5)).item()
    oracle = mg.finite_difference(utility, optimizer, g_sft, g_rl, 0.5)
    own = own_finite_difference(lambda t: g_u @ t, optimizer, [theta], g_sft, g_rl, 0.5)
    assert own < 0 and oracle < 0 and wide < 0 and naive > 0
    assert oracle == pytest.approx(own, rel=1e-6)
    assert exact == pytest.approx(own, rel=1e-3)
    assert naive > 1e3 * abs(own)  # not a near miss


def test_the_naive_direction_is_right_where_the_fresh_gradient_is_small():
    # Its definition by hand: v_hat = 4 everywhere (v = 4 (1 - .95^3) after 3 steps), lr = 0.1.
    zero, v = torch.zeros(2), torch.full((2,), 4 * (1 - 0.95**3))
    state = mg.AdamState(zero.double(), v.double(), step=3, lr=0.1, betas=(0.9, 0.95), eps=0.0)
    naive = mg.naive_direction(tensor([3, 1]), tensor([1, 5]), state)
    assert difference(naive, tensor([-0.1, 0.2])) < 1e-6


def test_mu_gradient_and_cosine_by_hand():
    a, b = tensor([3, 4]), tensor([4, -3])
    assert mg.mu_gradient(a, tensor([1, -2])).item() == -5
    assert mg.cosine(a, b) == 0 and mg.cosine(a, a + b) == pytest.approx(0.5**0.5)
    assert mg.cosine(a, -7 * a) == pytest.approx(-1) and mg.cosine(a, 0 * a) == 0
    assert math.isnan(mg.cosine(a, a * math.nan))  # and not 0, as if there were no signal


# --- small parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mix_is_exactly_one_gradient_at_its_ends(dtype):
    g_sft, g_rl = randn(50).to(dtype), randn(50, seed=1).to(dtype)
    assert torch.equal(mg.mix(g_sft, g_rl, 0.0), g_rl)
    assert torch.equal(mg.mix(g_sft, g_rl, 1.0), g_sft)
    assert torch.equal(mg.mix(tensor([4, 8]), tensor([0, 4]), 0.25), tensor([1, 5]))


def test_flatten_and_unflatten_are_inverse():
    params = [randn(*shape, seed=i).requires_grad_() for i, shape in enumerate(SHAPES)]
    mg.unflatten_into(torch.arange(21.0), params)
    assert all(p.grad.shape == p.shape and p.grad.dtype == p.dtype for p in params)
    assert torch.equal(mg.flatten(p.grad for p in params), torch.arange(21.0).double())
    assert not mg.flatten(params).requires_grad


@pytest.mark.parametrize("size", [0, 20, 22])
def test_unflatten_refuses_a_vector_of_the_wrong_size(size):
    params = [torch.zeros(shape, requires_grad=True) for shape in SHAPES]
    with pytest.raises((ValueError, RuntimeError)):  # torch's own error where it is too short
        mg.unflatten_into(torch.zeros(size), params)


def test_adam_state_refuses_what_it_cannot_reproduce():
    a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
    with pytest.raises(TypeError, match="SGD"):
        mg.adam_state(SGD([a], lr=0.1))
    for changed in ({"lr": 1.0}, {"betas": (0.5, 0.9)}, {"eps": 1e-3}):
        with pytest.raises(ValueError, match="share all but weight decay"):
            mg.adam_state(AdamW([{"params": [a]}, {"params": [b], **changed}]))
    for wrong in ({"amsgrad": True}, {"maximize": True}):
        with pytest.raises(ValueError, match="amsgrad or maximize"):
            mg.adam_state(Adam([a], **wrong))
    optimizer = Adam([a, b])
    a.grad = torch.ones(2)  # b gets no gradient, so only a takes the step
    optimizer.step()
    with pytest.raises(ValueError, match="different numbers of steps"):
        mg.adam_state(optimizer)


@pytest.mark.parametrize("chunk", [1, 4, 20, 21, 100])
def test_directions_and_cosines_are_the_same_in_chunks(monkeypatch, chunk):
    """Temporary vectors of a large model are made a piece at a time."""
    _, optimizer, g_sft, g_rl = warm(functools.partial(AdamW, weight_decay=0.1))
    state = mg.adam_state(optimizer, max_norm=0.5)
    whole = mg.adam_direction(g_sft, g_rl, state, 0.4)
    cos = mg.cosine(g_sft, whole)
    monkeypatch.setattr(mg, "CHUNK", chunk)
    assert torch.equal(mg.adam_direction(g_sft, g_rl, state, 0.4), whole)
    assert mg.cosine(g_sft, whole) == pytest.approx(cos, abs=1e-15)
    assert float(mg.mu_gradient(g_sft, whole)) == pytest.approx(float(g_sft @ whole), abs=1e-15)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_groups_may_differ_in_weight_decay(kind):
    """As transformers' Trainer makes them: decay on matrices, none on biases and norms."""
    params = [randn(*shape, seed=i).requires_grad_() for i, shape in enumerate(SHAPES)]
    groups = [
        {"params": [params[0], params[2]], "weight_decay": 0.3},
        {"params": [params[1]], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=0.01)
    order = [params[0], params[2], params[1]]
    for seed in range(3):
        vector = randn(21, seed=10 + seed)
        before = mg.flatten(order)
        predicted = mg.adam_update(vector, mg.adam_state(optimizer))
        real_step(optimizer, order, vector)
        assert difference(predicted, mg.flatten(order) - before) < 1e-10


def test_adam_state_knows_whose_weight_decay_it_is():
    p = [torch.zeros(2, requires_grad=True)]
    assert mg.adam_state(AdamW(p)).decoupled and not mg.adam_state(Adam(p)).decoupled
    assert mg.adam_state(Adam(p)).params is None and mg.adam_state(AdamW(p)).params is not None


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_a_direction_without_adamw_s_decay_is_the_same_and_holds_no_weights(kind):
    _, optimizer, g_sft, g_rl = warm(functools.partial(kind, weight_decay=0.3))
    whole = mg.adam_state(optimizer, max_norm=0.5)
    lean = mg.adam_state(optimizer, max_norm=0.5, decay=False)
    assert (lean.params is None) == (kind is AdamW) and whole.params is not None
    one, other = (mg.adam_direction(g_sft, g_rl, state, 0.4) for state in (whole, lean))
    assert difference(one, other) < 1e-11
