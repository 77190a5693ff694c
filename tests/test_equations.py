"""The equations of the AMFT paper (arXiv 2508.06944) written out as loops, against the package.

Every equation has a twin: plain Python that follows the print, one prompt, answer, token, word and
parameter after the other, without torch. A test compares value and gradient. The twin's gradient is
never autograd's: it is a central difference of the twin's value, or a formula worked out by hand.

The policy is a bigram model with 18 parameters: theta[previous][word] is the logit of `word` after
`previous`, which is the prompt (2 to 5) or the last word (0 or 1). Word 2 ends an answer. There are
so few answers that an expectation is a sum over all of them: nothing here is sampled.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from amft_lite import meta_gradient as mg
from amft_lite import objectives as ob
from amft_lite.weighting import RuleOptions, Signals, make_rule

WORDS, END = (0, 1, 2), 2
TRAINING, VALIDATION = (2, 3), (4, 5)  # they share only the rows of words 0 and 1
THETA = np.random.default_rng(0).normal(size=(6, 3))
ELSEWHERE = THETA + 0.5 * np.random.default_rng(1).normal(size=(6, 3))  # another policy

# (prompt, answer); the lengths differ, so that every batch is padded. Groups of 3 rollouts.
DEMOS = [(2, (0, 1, 2)), (3, (2,)), (3, (1, 0)), (2, (1, 2))]
ROLLOUTS = [(2, (0, 2)), (2, (1, 1, 2)), (2, (1, 2)), (3, (0, 0, 1)), (3, (2,)), (3, (1, 2))]


# --- the twins' tools (no torch), then the package's (torch) --------------------------------------
def slope(f, at, h=1e-3):
    """The gradient of f by central differences (of fourth order), a coordinate after the other."""
    at = np.asarray(at, dtype=float)
    slopes = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        for by, weight in ((h, 8), (-h, -8), (2 * h, -1), (-2 * h, 1)):
            point = at.copy()
            point[i] += by
            slopes[i] += weight * f(point) / (12 * h)
    return slopes


def next_word(theta, previous):
    """pi(. | previous): the softmax of one row."""
    weights = [math.exp(theta[previous][word]) for word in WORDS]
    return [weight / sum(weights) for weight in weights]


def steps_of(x, y):
    """(what was read, what was answered) at each token."""
    return list(zip((x, *y[:-1]), y, strict=True))


def token_chances(theta, x, y):
    """pi(y_t | x, y_<t) for each t; their product is pi(y | x)."""
    return [next_word(theta, read)[word] for read, word in steps_of(x, y)]


def all_answers(horizon):
    """Every answer: it stops with END or at the horizon."""
    tried = [y for n in range(1, horizon + 1) for y in itertools.product(WORDS, repeat=n)]
    return [y for y in tried if END not in y[:-1] and (y[-1] == END or len(y) == horizon)]


def reward(x, y):
    """R_explicit: 1 if verified correct, else 0. Correct: an odd number of 1s for odd prompts."""
    return 1.0 if y.count(1) % 2 == x % 2 else 0.0


def expected_reward(theta, prompts=VALIDATION, horizon=3):
    """Eq. 1: J_RL(theta) = E_{tau ~ pi_theta}[R_explicit(tau)], over the training prompts.
    Eq. 4: U(theta) = E_{(x, tau) ~ pi_theta(.|D_val)}[R_explicit(tau)], over held-out prompts."""
    total = 0.0
    for x, y in itertools.product(prompts, all_answers(horizon)):
        total += math.prod(token_chances(theta, x, y)) * reward(x, y) / len(prompts)
    return total


def tensor(data):
    return torch.as_tensor(data, dtype=torch.float64)


def padded(lists, dtype=torch.int64):
    return torch.tensor(list(itertools.zip_longest(*lists, fillvalue=0)), dtype=dtype).T


def logps_of(theta, rows):
    """log pi of each token [B, T], and the mask. Padding is a word too, and must not count."""
    read = padded([[read for read, _ in steps_of(x, y)] for x, y in rows])
    words, mask = padded([y for _, y in rows]), padded([[1] * len(y) for _, y in rows])
    return torch.log_softmax(theta, -1)[read, words], mask


def autograd(loss, theta):
    """loss(theta), and torch's gradient of it."""
    theta = tensor(theta).clone().requires_grad_()
    value = loss(theta)
    return value.item(), torch.autograd.grad(value, theta)[0]


def expected(loss, theta, sampler, prompts, horizon, size):
    """Value and gradient of E[-loss(theta, rows, rewards)], rows being `size` answers to a prompt:
    exact, every group of answers with its probability under `sampler`."""

    def whole(t):
        total = 0.0
        for x in prompts:
            for ys in itertools.product(all_answers(horizon), repeat=size):
                weight = math.prod(p for y in ys for p in token_chances(sampler, x, y))
                one = loss(t, [(x, y) for y in ys], tensor([reward(x, y) for y in ys]))
                total = total - weight * one / len(prompts)
        return total

    return autograd(whole, theta)


def frozen(x, theta):
    """x with a graph to theta, as where a critic shares weights; the equations hold x fixed."""
    return x + theta.sum() - theta.sum().detach()


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(tensor(a), tensor(b), rtol=tolerance, atol=tolerance)


# --- Eq. 1: reward, climbed through PPO-clip ------------------------------------------------------
def surrogate(theta, rows, old, advantages, epsilon=0.2):
    """L_RL = - mean of min(r_t A, clip(r_t, 1 - eps, 1 + eps) A), where r_t is the ratio of
    pi_theta(y_t | x, y_<t) to pi_old's, `old`. The mean over all tokens of the batch is this
    repository's; the paper as transcribed names none."""
    total, tokens = 0.0, 0
    for (x, y), old_chances, advantage in zip(rows, old, advantages, strict=True):
        for new, before in zip(token_chances(theta, x, y), old_chances, strict=True):
            r = new / before
            total += min(r * advantage, min(max(r, 1 - epsilon), 1 + epsilon) * advantage)
            tokens += 1
    return -total / tokens


def package_surrogate(theta, rows, old, advantages):
    logps, mask = logps_of(theta, rows)
    old_logps = padded([[math.log(p) for p in chances] for chances in old], torch.float64)
    advantages = frozen(tensor(advantages), theta)
    return ob.ppo_clip_loss(logps, frozen(old_logps, theta), advantages, mask)


def old_policy(rows, ratios):
    """pi_old of every token of `rows`, such that pi_theta / pi_old is the next of `ratios`."""
    return [[p / next(ratios) for p in token_chances(THETA, x, y)] for x, y in rows]


def test_eq1_with_one_token_the_unclipped_surrogate_is_j():
    # E_{y ~ old}[pi/pi_old R] = sum_y pi R = J(theta), however far theta is from the old policy.
    def loss(theta, rows, rewards):
        (logps, mask), (old, _) = logps_of(theta, rows), logps_of(tensor(THETA), rows)
        return ob.ppo_clip_loss(logps, old, rewards, mask, clip_range=1e9)

    value, gradient = expected(loss, ELSEWHERE, THETA, TRAINING, horizon=1, size=1)
    close(value, expected_reward(ELSEWHERE, TRAINING, 1))
    close(gradient, slope(lambda t: expected_reward(t, TRAINING, 1), ELSEWHERE))


def test_eq1_at_ratio_1_ppo_climbs_j():
    # The mean of the group holds the answer itself, which takes 1/3 of the gradient away.
    def loss(theta, rows, rewards):
        logps, mask = logps_of(theta, rows)
        advantages = ob.group_advantages(rewards, 3, "none")
        return ob.ppo_clip_loss(logps, logps, advantages, mask, total=len(rows))

    exact = slope(lambda t: expected_reward(t, TRAINING, 2), THETA)
    close(expected(loss, THETA, THETA, TRAINING, horizon=2, size=3)[1], exact * 2 / 3)


@pytest.mark.parametrize("ratio", [0.6, 0.9, 1.1, 1.6])
@pytest.mark.parametrize("advantage", [1.5, -0.7])
def test_eq1_clip_on_each_side_for_each_sign(advantage, ratio):
    batch = ROLLOUTS, old_policy(ROLLOUTS, itertools.repeat(ratio)), [advantage] * len(ROLLOUTS)
    value, gradient = autograd(lambda t: package_surrogate(t, *batch), THETA)
    wanted = slope(lambda t: surrogate(t, *batch), THETA)
    close(value, surrogate(THETA, *batch))
    close(gradient, wanted)
    # by hand: the clip ends the pull where the ratio has already gone the advantage's way
    cut = ratio == (1.6 if advantage > 0 else 0.6)
    assert (abs(wanted).max() < 1e-12) == cut
    close(value, -advantage * ({0.6: 0.8, 1.6: 1.2}[ratio] if cut else ratio))


# --- Eq. 2: imitation -----------------------------------------------------------------------------
def sft(theta, rows, total=None):
    """Eq. 2: L_SFT(theta) = -E_{(x, y_demo) ~ D_SFT}[log pi_theta(y_demo | x)]. The print means
    one term an answer: `total` = their number. This repository divides by the tokens instead."""
    log_likelihood = sum(math.log(math.prod(token_chances(theta, x, y))) for x, y in rows)
    return -log_likelihood / (total or sum(len(y) for _, y in rows))


def sft_slope(theta, rows, total=None):
    """Eq. 2's gradient by hand: each token adds softmax minus one-hot to the row it was read in."""
    gradient = np.zeros_like(theta)
    for x, y in rows:
        for read, shown in steps_of(x, y):
            for word in WORDS:
                gradient[read][word] += next_word(theta, read)[word] - (word == shown)
    return gradient / (total or sum(len(y) for _, y in rows))


@pytest.mark.parametrize("total", [None, len(DEMOS)], ids=["tokens", "answers"])
def test_eq2_is_the_loop_and_its_gradient_softmax_minus_one_hot(total):
    value, gradient = autograd(lambda t: ob.sft_loss(*logps_of(t, DEMOS), total=total), THETA)
    close(value, sft(THETA, DEMOS, total), 1e-14)
    close(gradient, sft_slope(THETA, DEMOS, total), 1e-14)
    close(gradient, slope(lambda t: sft(t, DEMOS, total), THETA))


# --- Eq. 3: the mixture ---------------------------------------------------------------------------
# Rollouts of an older policy, with tokens beyond the clip on both sides. They earned 1, 1, 0 and
# 1, 0, 1: the mean is 2/3 and the sample spread sqrt(1/3) in both groups.
OLD = old_policy(ROLLOUTS, itertools.cycle([0.6, 1.6, 0.9, 1.1]))
ADVANTAGES = [a / (math.sqrt(1 / 3) + 1e-4) for a in (1 / 3, 1 / 3, -2 / 3, 1 / 3, -2 / 3, 1 / 3)]


def total_loss(theta, mu):
    """Eq. 3: L_total(theta; mu) = (1 - mu) L_RL(theta) + mu L_SFT(theta)."""
    l_rl, l_sft = surrogate(theta, ROLLOUTS, OLD, ADVANTAGES), sft(theta, DEMOS)
    return (1 - mu) * l_rl + mu * l_sft


def package_losses():
    """(values, flat gradients) of L_SFT and L_RL at THETA."""
    advantages = ob.group_advantages(tensor([reward(x, y) for x, y in ROLLOUTS]), 3)
    l_sft, g_sft = autograd(lambda t: ob.sft_loss(*logps_of(t, DEMOS)), THETA)
    l_rl, g_rl = autograd(lambda t: package_surrogate(t, ROLLOUTS, OLD, advantages), THETA)
    return (l_sft, l_rl), (g_sft.flatten(), g_rl.flatten())


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
def test_eq3_mixes_the_values_and_so_the_gradients(mu):
    (l_sft, l_rl), (g_sft, g_rl) = package_losses()
    close(mg.mix(l_sft, l_rl, mu), total_loss(THETA, mu), 1e-12)
    close(mg.mix(g_sft, g_rl, mu), slope(lambda t: total_loss(t, mu), THETA).ravel())
    close(l_sft - l_rl, slope(lambda m: total_loss(THETA, m), mu))  # Eq. 3 is a line in mu


# --- Eq. 4: the utility ---------------------------------------------------------------------------
def utility_gradient(theta):
    """The package's estimate of grad U in expectation over all pairs of answers, flat. (It has no
    function for U's value, a mean of rewards.)"""

    def loss(t, rows, rewards):
        logps, mask = logps_of(t, rows)
        advantages = frozen(ob.leave_one_out_advantages(rewards, 2), t)
        return ob.policy_gradient_loss(logps, advantages, mask)

    return expected(loss, theta, theta, VALIDATION, horizon=3, size=2)[1].flatten()


def test_eq4_the_policy_gradient_is_in_expectation_that_of_u():
    wanted = slope(expected_reward, THETA).ravel()
    assert abs(wanted).max() > 0.01
    close(utility_gradient(THETA), wanted)


# --- Eq. 5: how U moves with mu -------------------------------------------------------------------
def utility_after_sgd(mu, alpha):
    """U(theta') of Eq. 5's one-step unroll, theta' = theta - alpha grad L_total(theta; mu)."""
    after, gradient = THETA.copy(), slope(lambda t: total_loss(t, mu), THETA)
    for i in np.ndindex(after.shape):
        after[i] -= alpha * gradient[i]
    return expected_reward(after)


def explicit_form(grad_u, g_sft, g_rl, alpha):
    """Eq. 5 for SGD as derived from it: dU/dmu = -alpha <grad U, grad L_SFT - grad L_RL>."""
    return -alpha * sum(u * (s - r) for u, s, r in zip(grad_u, g_sft, g_rl, strict=True))


def test_eq5_for_sgd_is_the_chain_rule():
    mu, errors, (_, (g_sft, g_rl)) = 0.3, [], package_losses()
    slopes = [slope(lambda t, m=m: total_loss(t, m), THETA).ravel() for m in (1, 0)]
    before = utility_gradient(THETA)  # where the package takes it
    for alpha in (1.0, 0.1):
        wanted = slope(lambda m, a=alpha: utility_after_sgd(m, a), mu, h=1e-2)  # nothing assumed
        direction = mg.sgd_direction(g_sft, g_rl, alpha)
        theta = THETA - alpha * mg.mix(g_sft, g_rl, mu).numpy().reshape(6, 3)
        # exact where grad U is taken after the step, whatever alpha is
        close(mg.mu_gradient(utility_gradient(theta), direction) / alpha, wanted / alpha)
        close(explicit_form(slope(expected_reward, theta).ravel(), *slopes, alpha), wanted, 1e-10)
        errors.append(mg.mu_gradient(before, direction).item() - wanted)
    assert abs(errors[0]) > 1e-6
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)  # of second order in alpha


def adam_step(grad, state):
    """Adam (arXiv 1412.6980, Algorithm 1), a coordinate after the other; returns theta' - theta.
    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
    theta' - theta = -lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)."""
    (b1, b2), t, steps = state.betas, state.step + 1, []
    for g, m, v in zip(grad, state.exp_avg.tolist(), state.exp_avg_sq.tolist(), strict=True):
        m_hat = (b1 * m + (1 - b1) * g) / (1 - b1**t)
        v_hat = (b2 * v + (1 - b2) * g**2) / (1 - b2**t)
        steps.append(-state.lr * m_hat / (math.sqrt(v_hat) + state.eps))
    return np.array(steps)


M, V = tensor(np.random.default_rng(2).normal(size=(2, 18)))
MID_RUN = mg.AdamState(0.1 * M, V**2 + 0.01, step=7, lr=0.5, betas=(0.9, 0.95), eps=1e-3)
FIRST = mg.AdamState(0 * M, 0 * V, step=0, lr=0.5, betas=(0.9, 0.95), eps=0.1)  # an eps that shows


@pytest.mark.parametrize("state", [MID_RUN, FIRST], ids=["mid-run", "first step"])
def test_eq5_for_adam_is_the_loop_in_update_direction_and_utility(state):
    grad, weights = np.random.default_rng(3).normal(size=(2, 18))
    close(mg.adam_update(tensor(grad), state), adam_step(grad, state), 1e-14)
    # its derivative in the gradient: all 18 steps, with a weight each, in one sum
    _, got = autograd(lambda g: tensor(weights) @ mg.adam_update(g, state), grad)
    close(got, slope(lambda g: sum(weights * adam_step(g, state)), grad, h=1e-4))
    mu, (_, (g_sft, g_rl)) = 0.4, package_losses()

    def step(m):
        """theta'(mu) - theta"""
        pairs = zip(g_sft.tolist(), g_rl.tolist(), strict=True)
        return adam_step([(1 - m) * r + m * s for s, r in pairs], state)

    direction = mg.adam_direction(g_sft, g_rl, state, mu, width=1e-4)
    close(direction, [float(slope(lambda m, i=i: step(m)[i], mu)) for i in range(18)], 1e-7)
    wanted = slope(lambda m: expected_reward(THETA + step(m).reshape(6, 3)), mu)  # dU/dmu
    assert abs(wanted) > 1e-5
    grad_u = slope(expected_reward, THETA + step(mu).reshape(6, 3)).ravel()
    close(mg.mu_gradient(tensor(grad_u), direction), wanted)


# --- Eq. 6: the controller ------------------------------------------------------------------------
def controller(mu, h, target, grad_u, g_sft, g_rl, eta_mu, eta_h, alpha, sign=1):
    """Eq. 6: mu_{t+1} = clip(mu_t + eta_mu dU/dmu + eta_H (H* - H), mu_min, mu_max), with Eq. 5's
    dU/dmu. The paper's text says the opposite of the last term: `sign` = -1."""
    du_dmu = explicit_form(grad_u, g_sft, g_rl, alpha)
    return min(max(mu + eta_mu * du_dmu + sign * eta_h * (target - h), 0.05), 0.95)


def test_eq6_s_entropy_is_the_mean_over_the_tokens_of_minus_p_log_p():
    reads = [[read for read, _ in steps_of(x, y)] for x, y in ROLLOUTS]

    def entropy(theta):
        """H(pi) = - mean over tokens of sum over words of p log p"""
        terms = [p * math.log(p) for row in reads for read in row for p in next_word(theta, read)]
        return -sum(terms) / sum(len(row) for row in reads)

    def package(theta):
        return ob.masked_mean(ob.token_entropy(theta[padded(reads)]), logps_of(theta, ROLLOUTS)[1])

    value, gradient = autograd(package, THETA)
    close(value, entropy(THETA), 1e-14)
    close(gradient, slope(entropy, THETA))


@pytest.mark.parametrize("start", [0.5, 0.9499, 0.0501])
@pytest.mark.parametrize(
    ("name", "form", "sign"),
    [("published", "text", 1), ("entropy_only", "equation", 1), ("entropy_only", "text", -1)],
)
def test_eq6_is_the_loop_with_the_released_constants(name, form, sign, start):
    # `published` has Eq. 6's sign whatever the options say; `entropy_only` leaves out dU/dmu
    rng, mu, clipped = np.random.default_rng(4), start, 0
    rule = make_rule(name, RuleOptions(mu_start=start, entropy_form=form, eta_entropy=5e-4))
    for step in range(40):
        h, target = rng.uniform(0, 2, size=2)
        # 1000 times too large: the meta part of real gradients, some 1e-10, would not show
        grad_u, g_sft, g_rl = 1e3 * rng.normal(size=(3, 18))
        g_sft_rl = tensor(g_sft), tensor(g_rl)
        signals = Signals(step, 40, 0, *g_sft_rl, entropy=h, target_entropy=target)
        eta_mu = 0.0  # off meta steps the meta part is 0
        if step % 2 and name == "published":
            signals.grad_utility, eta_mu = tensor(grad_u), 1e-4
        mu = controller(mu, h, target, grad_u, g_sft, g_rl, eta_mu, 5e-4, 1e-6, sign)
        assert rule.update(signals) == pytest.approx(mu, abs=1e-14)
        clipped += mu in (0.05, 0.95)
    assert (clipped > 0) == (start != 0.5)


@pytest.mark.parametrize(("mu", "inside"), [(0.5, True), (0.9, False), (0.1, False)])
def test_eq6_s_slope_in_every_input_inside_the_clip_and_beyond(mu, inside):
    eta_mu, eta_h, alpha = 0.3, 0.4, 0.7
    gap = 0.2 if inside else math.copysign(2.0, mu - 0.5)  # drives mu over the nearer end
    inputs = [mu, 1.0, 1.0 + gap, *0.2 * np.random.default_rng(6).normal(size=9)]

    def package(at):
        options = RuleOptions(
            mu_start=at[0], published_lr=alpha, published_eta_mu=eta_mu, published_eta_entropy=eta_h
        )
        g_u, g_sft, g_rl = tensor(at[3:]).reshape(3, 3)
        signals = Signals(0, 9, 0, g_sft, g_rl, None, g_u, entropy=at[1], target_entropy=at[2])
        return make_rule("published", options).update(signals)

    (u, s, r), k = np.reshape(inputs[3:], (3, 3)), eta_mu * alpha
    close(package(inputs), controller(*inputs[:3], u, s, r, eta_mu, eta_h, alpha), 1e-14)
    by_hand = [1, -eta_h, eta_h, *(-k * (s - r)), *(-k * u), *(k * u)]
    close(slope(package, inputs), by_hand if inside else [0.0] * 12)
