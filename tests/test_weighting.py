"""Every rule for mu on signals whose right answer is known beforehand; float64 gradients."""

import dataclasses
import math

import pytest
import torch

from amft_lite.meta_gradient import AdamState, adam_direction, cosine
from amft_lite.weighting import RULES, RuleOptions, Signals, make_rule

CONTROLLERS = ["amft", "meta_only", "placebo"]


def with_scaled_gradients(state, factor):
    """The state Adam would be in had every gradient so far been `factor` times as large."""
    return dataclasses.replace(
        state, exp_avg=state.exp_avg * factor, exp_avg_sq=state.exp_avg_sq * factor**2
    )


def tensor(data):
    return torch.tensor(data, dtype=torch.float64)


def random_adam(generator, n=8, **changes):
    """The state of an Adam in mid-run."""
    settings = {"step": 20, "lr": 1e-3, "betas": (0.9, 0.95)} | changes
    normal = torch.randn(2, n, dtype=torch.float64, generator=generator)
    return AdamState(0.1 * normal[0], normal[1] ** 2 + 0.01, **settings)


def random_signals(seed, step=0, meta=True, n=8, **changes):
    generator = torch.Generator().manual_seed(seed)
    g_sft, g_rl, g_u, g_nll = torch.randn(4, n, dtype=torch.float64, generator=generator)
    signals = Signals(
        step, 100, 3, g_sft, g_rl, random_adam(generator, n),
        g_u if meta else None, g_nll if meta else None, entropy=0.5 + step / 100,
        target_entropy=0.6,
    )  # fmt: skip
    return dataclasses.replace(signals, **changes)


# --- rules that are a function of time ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step", "steps", "warmup", "mu"),
    [
        # the switch counts all steps, warm-up included: 1/3 of 30
        ("sft_then_rl", 0, 30, 5, 1.0),
        ("sft_then_rl", 9, 30, 5, 1.0),
        ("sft_then_rl", 10, 30, 5, 0.0),
        ("sft_then_rl", 29, 30, 5, 0.0),
        # 2 warm-up steps of 6: progress 0, 1/3, 2/3, 1 at steps 2 to 5
        ("linear", 0, 6, 2, 0.95),
        ("linear", 2, 6, 2, 0.95),
        ("linear", 3, 6, 2, 0.65),
        ("linear", 4, 6, 2, 0.35),
        ("linear", 5, 6, 2, 0.05),
        ("linear", 2, 5, 0, 0.5),
        # (1 + cos(pi p)) / 2 is 1, 3/4, 1/4, 0 there
        ("cosine", 0, 6, 2, 0.95),
        ("cosine", 2, 6, 2, 0.95),
        ("cosine", 3, 6, 2, 0.725),
        ("cosine", 4, 6, 2, 0.275),
        ("cosine", 5, 6, 2, 0.05),
        ("cosine", 2, 5, 0, 0.5),
        # one step after warm-up: no division by zero
        ("linear", 2, 3, 2, 0.95),
        ("sft", 7, 9, 2, 1.0),
        ("rl", 7, 9, 2, 0.0),
        ("fixed", 7, 9, 2, 0.5),
    ],
)
def test_schedules_at_points_worked_out_by_hand(name, step, steps, warmup, mu):
    rule = make_rule(name)
    assert rule.planned(step, steps, warmup) == pytest.approx(mu, abs=1e-12)
    assert rule.update(Signals(step, steps, warmup)) == pytest.approx(mu, abs=1e-12)
    assert rule.mu == pytest.approx(mu, abs=1e-12)
    assert rule.validation is None


def test_schedules_take_their_ends_from_the_options():
    options = RuleOptions(mu_start=0.3, mu_min=0.2, mu_max=0.8, switch=0.6)
    assert make_rule("fixed", options).planned(0, 5, 0) == 0.3
    for name in ("linear", "cosine"):
        mus = [make_rule(name, options).planned(step, 5, 0) for step in range(5)]
        assert [mus[0], mus[2], mus[4]] == pytest.approx([0.8, 0.5, 0.2])
    steps = [make_rule("sft_then_rl", options).planned(step, 10, 0) for step in range(10)]
    assert steps == [1.0] * 6 + [0.0] * 4


def test_an_unknown_rule_is_refused_with_the_names_of_the_known():
    with pytest.raises(ValueError, match="amfd") as refusal:
        make_rule("amfd")
    assert all(name in str(refusal.value) for name in RULES)
    assert {make_rule(name).mu for name in RULES} <= {0.0, 0.5, 0.95, 1.0}  # the known all exist


# --- the controller -------------------------------------------------------------------------------


def agreeing(sign, n=4):
    """Signals whose cosine is exactly `sign`.

    All coordinates have the same moments and, up to a pattern of signs, the same gradients, so
    Adam moves them all alike and d theta'/d mu is parallel to the pattern.
    """
    pattern = tensor([1.0, -1.0] * (n // 2))
    adam = AdamState(0 * pattern, pattern**2, step=100, lr=1e-3, betas=(0.9, 0.95))
    return Signals(0, 100, 0, -pattern, pattern, adam, sign * pattern)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_steady_signal_moves_mu_by_a_fifth_within_ten_updates(sign):
    rule, signals = make_rule("amft"), agreeing(sign)
    mus = [rule.update(signals) for _ in range(10)]
    assert rule.parts["signal"] == pytest.approx(sign, abs=1e-12)
    assert sign * (mus[-1] - 0.5) >= 0.2
    assert all(sign * (b - a) >= 0 for a, b in zip([0.5, *mus], mus, strict=False))
    assert 0.05 <= mus[-1] <= 0.95


def test_one_update_is_limited_and_eta_mu_scales_small_ones():
    signals = random_signals(3)
    assert abs(make_rule("amft", RuleOptions(eta_mu=100.0)).update(signals) - 0.5) <= 0.05 + 1e-12
    slow = make_rule("amft", RuleOptions(eta_mu=0.01))
    slow.update(signals)
    assert 0 < abs(slow.parts["signal"]) <= 1
    assert slow.parts["meta"] == pytest.approx(0.01 * slow.parts["signal"], rel=1e-12)
    assert slow.mu == pytest.approx(0.5 + slow.parts["meta"], rel=1e-12)


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_the_learning_rate_does_not_change_the_signal(max_norm):
    signals = random_signals(1)
    seen = []
    for factor in (1, 10):
        adam = dataclasses.replace(
            signals.adam, lr=factor * signals.adam.lr, max_norm=max_norm, weight_decay=0.1,
            params=torch.ones(8).double(),
        )  # fmt: skip
        rule = make_rule("amft")
        rule.update(dataclasses.replace(signals, adam=adam))
        seen.append(rule.parts["signal"])
    assert seen[1] == pytest.approx(seen[0], rel=1e-6) and abs(seen[0]) > 1e-2


def test_the_scale_of_the_losses_does_not_change_the_signal():
    signals = random_signals(1)
    adam = dataclasses.replace(signals.adam, eps=1e-12)

    def signal(factor, adam):
        rule = make_rule("amft")
        g_sft, g_rl = factor * signals.grad_sft, factor * signals.grad_rl
        rule.update(dataclasses.replace(signals, grad_sft=g_sft, grad_rl=g_rl, adam=adam))
        return rule.parts["signal"]

    plain = signal(1, adam)
    assert signal(10, with_scaled_gradients(adam, 10)) == pytest.approx(plain, rel=1e-3)
    # tenfold gradients that Adam has not got used to are another situation: the test can tell
    assert signal(10, adam) != pytest.approx(plain, rel=1e-2)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_validation_without_reward_variance_says_nothing(name):
    rule = make_rule(name)
    rule.update(random_signals(0))
    mu, utility, sft = rule.mu, rule.averages.utility.clone(), rule.averages.sft.clone()
    rule.update(random_signals(1, informative=False))
    assert rule.parts["meta"] == 0 and "signal" not in rule.parts and rule.mu == mu
    assert torch.equal(rule.averages.utility, utility) and rule.averages.updates == 1
    assert not torch.equal(rule.averages.sft, sft)  # g_SFT is as good as ever


def test_averages_by_hand_and_the_signal_at_the_current_mu():
    # decays .9 and .5 from the first value; the gradients also advance where no meta step is due
    a, b, c = (random_signals(seed, meta=seed != 1) for seed in range(3))
    rule = make_rule("amft")
    for signals in (a, b):
        rule.update(signals)
    mu = rule.mu
    rule.update(c)

    def average(x, y, z):
        return 0.81 * x + 0.09 * y + 0.1 * z

    g_sft = average(a.grad_sft, b.grad_sft, c.grad_sft)
    g_rl = average(a.grad_rl, b.grad_rl, c.grad_rl)
    g_u = 0.5 * a.grad_utility + 0.5 * c.grad_utility
    torch.testing.assert_close(rule.averages.sft, g_sft)
    torch.testing.assert_close(rule.averages.rl, g_rl)
    torch.testing.assert_close(rule.averages.utility, g_u)
    assert mu != 0.5
    wanted = cosine(g_u, adam_direction(g_sft, g_rl, c.adam, mu, width=0.5))
    assert rule.parts["signal"] == pytest.approx(wanted, rel=1e-9)


def test_a_trace_of_directions_by_hand():
    # three meta steps, a step without one between them; plain SGD directions, as vectors
    stream = [random_signals(seed, meta=seed != 1) for seed in range(4)]
    options = RuleOptions(direction="sgd", trace_decay=0.5, ema_gradients=0.0, ema_utility=0.0)
    rule = make_rule("amft", options)
    for signals in stream:
        rule.update(signals)
    first, _, second, third = (-s.adam.lr * (s.grad_sft - s.grad_rl) if s.adam else None
                               for s in stream)  # fmt: skip
    wanted = cosine(stream[3].grad_utility, 0.25 * first + 0.5 * second + third)
    assert rule.parts["signal"] == pytest.approx(wanted, rel=1e-9)
    plain = make_rule("amft", dataclasses.replace(options, trace_decay=0.0))
    for signals in stream:
        plain.update(signals)
    assert plain.parts["signal"] == pytest.approx(cosine(stream[3].grad_utility, third), rel=1e-9)
    assert plain.parts["signal"] != pytest.approx(wanted, rel=1e-3)


def spread_under_coin_flips(strength, options, updates=27):
    """sd over 20 seeds of mu after a signal +-`strength` whose sign is a coin flip each time."""
    signals = agreeing(1)
    across = tensor([1, 1, -1, -1])  # orthogonal to the direction, so the cosine is `strength`
    g_u = strength * signals.grad_utility + (1 - strength**2) ** 0.5 * across
    final = []
    for seed in range(20):
        coins = torch.Generator().manual_seed(seed)
        rule = make_rule("amft", options)
        for _ in range(updates):
            sign = 1 if torch.rand((), generator=coins) < 0.5 else -1
            rule.update(dataclasses.replace(signals, grad_utility=sign * g_u))
        assert abs(rule.parts["signal"]) == pytest.approx(strength)
        final.append(rule.mu)
    return torch.tensor(final).std().item()


@pytest.mark.parametrize("strength", [0.02, 1.0], ids=["weak", "strong"])
def test_coin_flips_do_not_carry_mu_away(strength):
    spread = spread_under_coin_flips(strength, RuleOptions())
    print(f"sd of mu after 27 coin flips of {strength}: {spread:.3f}")
    assert spread < 0.3


# --- the sign: does mu rise where imitation helps? ------------------------------------------------


def bandit(shown):
    """A uniform softmax policy over 3 actions, p = (1/3, 1/3, 1/3); validation rewards action 0.

    Demonstrations show action `shown` of 0 and 1, the training reward pays for the other one. So
    with shown = 0 SFT makes action 0 likelier and RL rarer, and mu should rise; with shown = 1 it
    should fall. All gradients by hand: grad log p_a = e_a - p, grad p_a = p_a (e_a - p). The
    validation demonstrations show action 0 too: their cross-entropy wants what U wants.
    """
    towards = torch.eye(3).double() - 1 / 3
    adam = AdamState(torch.zeros(3).double(), torch.ones(3).double(), 50, 1e-3, (0.9, 0.95))
    return Signals(
        0, 100, 0,
        grad_sft=-towards[shown], grad_rl=-towards[1 - shown] / 3, adam=adam,
        grad_utility=towards[0] / 3, grad_validation_nll=-towards[0],
    )  # fmt: skip


def test_the_bandit_is_what_it_says():
    def reward(theta):
        return torch.softmax(theta, 0)[0]

    for shown, better in ((0, "grad_sft"), (1, "grad_rl")):
        signals = bandit(shown)
        gain = {
            name: reward(-0.1 * getattr(signals, name)) - 1 / 3 for name in ("grad_sft", "grad_rl")
        }
        assert max(gain, key=gain.get) == better and max(gain.values()) > 0 > min(gain.values())
    # U and the validation cross-entropy agree: downhill in the one is uphill in the other
    assert cosine(signals.grad_utility, -signals.grad_validation_nll) == pytest.approx(1)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (by_autograd,) = torch.autograd.grad(reward(theta), theta)
    torch.testing.assert_close(by_autograd, signals.grad_utility)


def follows_validation(name):
    """Does `name` raise mu where SFT helps validation reward, and lower it in the mirror?"""
    signs = []
    for shown in (0, 1):
        rule = make_rule(name)
        for _ in range(3):
            rule.update(bandit(shown))
        signs.append(math.copysign(1, rule.mu - 0.5))
    assert signs[0] == -signs[1]
    return signs == [1, -1]


@pytest.mark.parametrize("name", ["amft", "meta_only", "published"])
def test_mu_rises_where_imitation_helps_and_falls_in_the_mirror(name):
    assert follows_validation(name)


def test_official_code_fails_exactly_that_test():
    assert not follows_validation("official_code")


@pytest.mark.parametrize("shown", [0, 1])
def test_official_code_adds_a_loss_s_derivative_as_if_it_were_a_utility_s(shown):
    # here grad L_val = -3 grad U (the factor p_0 = 1/3), and so are the meta parts
    published, official = make_rule("published"), make_rule("official_code")
    published.update(bandit(shown))
    official.update(bandit(shown))
    assert published.parts["meta"] != 0
    assert official.parts["meta"] == pytest.approx(-3 * published.parts["meta"], rel=1e-9)


# --- the released constants -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["published", "official_code"])
def test_released_rules_by_hand(name):
    # <(2, -1), -1e-6 ((3, 1) - (1, 4))> = <(2, -1), (-2e-6, 3e-6)> = -7e-6, times 1e-4
    signals = Signals(0, 100, 0, tensor([3, 1]), tensor([1, 4]), entropy=0.4, target_entropy=1.0)
    outer = {"published": "grad_utility", "official_code": "grad_validation_nll"}[name]
    rule = make_rule(name)
    rule.update(dataclasses.replace(signals, **{outer: tensor([2, -1])}))
    assert rule.parts["meta"] == pytest.approx(-7e-10, rel=1e-9)
    assert rule.parts["entropy"] == pytest.approx(5e-4 * 0.6, rel=1e-9)
    assert rule.mu == pytest.approx(0.5 - 7e-10 + 3e-4, rel=1e-12)
    rule.update(signals)  # between meta steps only the entropy pushes
    assert rule.parts == {"meta": 0.0, "entropy": pytest.approx(3e-4)}


def test_released_rules_ask_for_the_validation_they_use():
    assert make_rule("published").validation == "reward"
    assert make_rule("official_code").validation == "demonstrations"
    # and take nothing from the other kind
    signals = dataclasses.replace(bandit(0), grad_utility=None)
    rule = make_rule("published")
    rule.update(signals)
    assert rule.parts["meta"] == 0


# --- the entropy term -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "below", "above"),  # the push with H a nat below, a nat above H*
    [
        ("equation", 0.05, -0.05),  # as printed: too little entropy, more imitation
        ("text", -0.05, 0.05),  # as told: too little entropy, more exploration
        ("off", 0, 0),
        ("gradient", 0, 0),  # pushes through U
    ],
)
def test_entropy_forms_push_as_their_table_says(form, below, above):
    for entropy, push in ((1.0, below), (3.0, above), (2.0, 0)):
        signals = Signals(0, 9, 0, tensor([1]), tensor([2]), entropy=entropy, target_entropy=2.0)
        rule = make_rule("amft", RuleOptions(entropy_form=form))
        assert rule.update(signals) == pytest.approx(0.5 + push)
        assert rule.parts["entropy"] == pytest.approx(push)
        assert rule.parts["meta"] == 0


@pytest.mark.parametrize("name", ["amft", "entropy_only", "published", "official_code"])
@pytest.mark.parametrize(("entropy", "target"), [(math.nan, 1.0), (1.0, math.nan)])
def test_an_unknown_entropy_pushes_nothing(name, entropy, target):
    rule = make_rule(name, RuleOptions(entropy_form="equation"))
    signals = Signals(0, 9, 0, tensor([1]), tensor([2]), entropy=entropy, target_entropy=target)
    assert rule.update(signals) == 0.5 and rule.parts["entropy"] == 0


@pytest.mark.parametrize(
    ("name", "form", "push"),
    [
        ("meta_only", "equation", 0),
        ("meta_only", "text", 0),
        ("entropy_only", "equation", 0.05),
        ("entropy_only", "text", -0.05),
        ("entropy_only", "off", 0.05),  # it would be `fixed` otherwise
        ("entropy_only", "gradient", 0.05),
    ],
)
def test_the_one_sided_rules_keep_one_side(name, form, push):
    rule = make_rule(name, RuleOptions(entropy_form=form))
    rule.update(random_signals(0, entropy=1.0, target_entropy=2.0))
    assert rule.parts["entropy"] == pytest.approx(push)
    assert (rule.parts["meta"] != 0) == (name == "meta_only")


def test_entropy_only_never_asks_for_validation():
    rule = make_rule("entropy_only")
    assert rule.validation is None
    assert rule.update(Signals(0, 9, 0, entropy=1.0, target_entropy=2.0)) == pytest.approx(0.55)


@pytest.mark.parametrize("name", ["amft", "entropy_only", "published", "official_code"])
@pytest.mark.parametrize(("entropy", "end"), [(-1e6, 0.95), (1e6, 0.05)])
def test_mu_stays_within_its_bounds(name, entropy, end):
    rule = make_rule(name, RuleOptions(entropy_form="equation"))
    assert rule.update(random_signals(0, entropy=entropy, target_entropy=0.0)) == end


# --- the placebo, and continuing ------------------------------------------------------------------


def test_placebo_differs_from_amft_only_in_the_sign_of_the_meta_part():
    options = RuleOptions(entropy_form="equation", eta_mu=0.1)
    signs = {0: [], 1: []}
    for seed, found in signs.items():
        amft, placebo = (
            make_rule(n, dataclasses.replace(options, seed=seed)) for n in ("amft", "placebo")
        )
        for step in range(40):
            mu = placebo.mu = amft.mu  # the signal depends on mu, so both start from the same
            signals = random_signals(step, step)
            amft.update(signals)
            placebo.update(signals)
            assert abs(placebo.parts["meta"]) == abs(amft.parts["meta"]) > 0
            assert placebo.parts["entropy"] == amft.parts["entropy"]
            assert placebo.parts["signal"] == amft.parts["signal"]
            moved = mu + placebo.parts["meta"] + placebo.parts["entropy"]
            assert placebo.mu == pytest.approx(min(max(moved, 0.05), 0.95))
            found.append(placebo.parts["meta"] == amft.parts["meta"])
    # a fair coin of 40 flips leaves [8, 32] once in 30000 times
    assert 8 <= sum(signs[0]) <= 32 and 8 <= sum(signs[1]) <= 32
    assert signs[0] != signs[1]  # the seed is the coin's


@pytest.mark.parametrize("name", RULES)
def test_a_rule_continued_from_its_state_goes_on_identically(name):
    options = RuleOptions(entropy_form="equation", eta_entropy=0.01, eta_mu=0.2, trace_decay=0.7)
    stream = [random_signals(step, step, meta=step % 3 == 0) for step in range(40)]
    rule = make_rule(name, options)
    for signals in stream[:20]:
        rule.update(signals)
    state = rule.state_dict()
    rest = [(rule.update(signals), rule.parts) for signals in stream[20:]]

    continued = make_rule(name, options)
    continued.load_state_dict(state)  # taken before `rule` went on: it must not have changed
    assert [(continued.update(signals), continued.parts) for signals in stream[20:]] == rest
    if name not in ("sft", "rl", "fixed", "sft_then_rl"):
        assert len({mu for mu, _ in rest}) > 5  # 7 meta steps at least: something happened


def test_the_width_of_the_difference_is_that_of_the_options():
    a = random_signals(0)
    for width in (0.2, 0.5):
        rule = make_rule("amft", RuleOptions(width=width))
        rule.update(a)
        wanted = cosine(a.grad_utility, adam_direction(a.grad_sft, a.grad_rl, a.adam, 0.5, width))
        assert rule.parts["signal"] == pytest.approx(wanted, rel=1e-9)
