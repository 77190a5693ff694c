"""The rivals inside Algorithm 1: who imitates, what a step's gradient is, what stays the same."""

import copy
import functools
import math
from itertools import pairwise

import pytest
import torch
from test_loop import make, run, weights

from amft_lite import checkpoint
from amft_lite.config import ConfigError, build
from amft_lite.gate import EDGES, GatedController
from amft_lite.loop import AMFT
from amft_lite.methods import METHODS
from amft_lite.models import base_folder, load_policy
from amft_lite.rivals import RIVALS
from amft_lite.tasks import Reward, load_task

K = 8  # rollouts a prompt
PAIRED = 3  # of the 6 prompts of a step, in `make`
GATES = ["hpt", "superrl", "dyme"]
GROUPS = ["luffy", "rl_plus", "srft"]


@functools.cache
def warm():
    """The state after 20 steps of warm-up, when rewards differ. It is the same for all methods."""
    return run(make(steps=60, warmup_steps=20), 20).state_dict()


def trained(**settings):
    loop = make(steps=60, warmup_steps=20, **settings)
    loop.load_state_dict(copy.deepcopy(warm()) | {"rule": loop.rule.state_dict()})
    return loop


def flat(parameters):
    grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)
    return torch.cat([g.flatten() for g in grads])


def gradient_of(loop, scalar):
    """By a plain backward pass; leaves no gradient behind."""
    scalar.backward()
    grad = flat(loop.parameters)
    loop.optimizer.zero_grad()
    return grad


def log_p(loop, batch):
    """log pi of each answer token, by transformers' own forward pass."""
    positions = (batch.attention.cumsum(1) - 1).clamp(min=0)
    logits = loop.policy(
        input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions
    ).logits
    width = batch.tokens.shape[1]
    every = torch.log_softmax(logits[:, -width - 1 : -1], -1)
    return every.gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)


def reward_by(loop, decide):
    """Let `decide(number of the answer, example)` say which rollouts are right."""
    count = iter(range(10**9))

    def reward(example, completion):
        right = bool(decide(next(count), example))
        return Reward(float(right), "told", right)

    loop.task.reward = reward
    return loop


def demonstrated(loop):
    return {d.prompt for d in loop.demonstrations}


def hopeless(loop):
    """Demonstrated prompts all fail; a third of the other rollouts is right."""
    mine = demonstrated(loop)
    return reward_by(loop, lambda n, example: example.prompt not in mine and n % 3 == 0)


def step_gradient(loop):
    """(gradient that reaches the optimiser, facts) of the next step."""
    applied, apply = [], loop.apply
    loop.apply = lambda grad, facts: (applied.append(grad.clone()), apply(grad, facts))
    facts = loop.train_step()
    loop.apply = apply
    [grad] = applied
    return grad, facts


def uneven(loop):
    """Rollouts of several lengths (trained ones all have one): of every third, 5 tokens count."""
    plain = loop.roll_out

    def roll_out(facts):
        batch = plain(facts)
        batch.mask[::3, 5:] = 0
        return batch

    loop.roll_out = roll_out
    return loop


def near(a, b, tolerance=1e-4):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def group_centred(rewards, scale):
    """The group advantages of GRPO by a loop."""
    found = []
    for group in rewards.view(-1, K).tolist():
        mean = sum(group) / K
        spread = math.sqrt(sum((r - mean) ** 2 for r in group) / (K - 1)) + 1e-4
        found += [(r - mean) / (spread if scale == "std" else 1.0) for r in group]
    return torch.tensor(found)


# --- gates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", GATES)
def test_failing_prompts_imitate_and_their_rollouts_do_nothing(method):
    loop, twin = (uneven(hopeless(trained(method=method))) for _ in range(2))
    batch = twin.roll_out({})
    assert not batch.rewards[: PAIRED * K].any() and batch.rewards[PAIRED * K :].any()
    experts = twin.expert_answers.rows(twin.demonstrated_places())

    nll = -(log_p(twin, experts) * experts.mask).sum() / experts.mask.sum()
    g_sft = gradient_of(twin, nll / (K if method == "dyme" else 1))
    others = batch.rows(slice(PAIRED * K, None))
    advantages = group_centred(others.rewards, "none" if method == "hpt" else "std")
    surrogate = advantages.unsqueeze(1) * log_p(twin, others) * others.mask
    g_rl = gradient_of(twin, -surrogate.sum() / others.mask.sum())

    grad, facts = step_gradient(loop)
    assert facts["mu"] == facts["share_imitating"] == facts["share_applied"] == 0.5
    assert near(grad, 0.5 * g_sft + 0.5 * g_rl)
    assert g_sft.any() and g_rl.any() and not near(grad, g_sft)


def test_gated_rollouts_change_not_one_bit():
    a, b = (hopeless(trained(method="hpt")) for _ in range(2))
    plain = b.roll_out

    def with_garbage(facts):
        batch = plain(facts)
        gated = slice(0, PAIRED * K)
        batch.advantages[gated] = 1e6
        batch.tokens[gated] = 3
        batch.ids[gated, -batch.tokens.shape[1] :] = 3
        batch.mask[gated] = 1
        return batch

    b.roll_out = with_garbage
    assert torch.equal(step_gradient(a)[0], step_gradient(b)[0])


def test_where_every_prompt_fails_the_step_is_sft_on_those_demonstrations():
    found = {}
    for method in GATES:
        loop = hopeless(trained(method=method, demonstrated_prompts=1.0))
        batch = loop.expert_answers.rows(loop.demonstrated_places())
        assert len(batch.ids) == 6
        nll = -(log_p(loop, batch) * batch.mask).sum() / batch.mask.sum()
        wanted = gradient_of(loop, nll)
        found[method], facts = step_gradient(loop)
        assert facts["mu"] == facts["share_imitating"] == 1.0
        assert near(found[method], wanted / K if method == "dyme" else wanted)
    assert torch.equal(found["hpt"], found["superrl"])  # no advantage is left to differ in
    assert near(K * found["dyme"], found["hpt"], 1e-6)


def test_dyme_is_superrl_with_the_sft_part_divided_by_the_size_of_the_group():
    superrl, dyme, twin = (hopeless(trained(method=m)) for m in ("superrl", "dyme", "superrl"))
    batch = twin.expert_answers.rows(twin.demonstrated_places())
    g_sft = gradient_of(twin, -(log_p(twin, batch) * batch.mask).sum() / batch.mask.sum())
    difference = step_gradient(superrl)[0] - step_gradient(dyme)[0]
    assert near(difference, 0.5 * (1 - 1 / K) * g_sft, 1e-3)


@pytest.mark.parametrize("method", GATES)
def test_where_no_prompt_fails_the_run_is_rl_to_the_last_bit(method):
    scale = "none" if method == "hpt" else "std"
    rl = make(method="rl", demonstrated_prompts=0.5, advantage_scale=scale, warmup_steps=3)
    gated = make(method=method)
    for loop in (rl, gated):
        run(reward_by(loop, lambda n, example: n % 3 == 0), 6)  # 2 or 3 of every 8
    assert torch.equal(weights(rl), weights(gated))
    assert [r["mu"] for r in gated.records] == [1.0] * 3 + [0.0] * 3
    assert all("sft_loss" not in r and r["share_imitating"] == 0 for r in gated.records[3:])


def test_only_the_prompts_at_or_under_the_threshold_imitate():
    # the step's demonstrated prompts have 0, 2 and 3 of 8 right, all others none
    def decide(n, example):
        prompt, rollout = divmod(n, K)
        return rollout < [0, 2, 3, 0, 0, 0][prompt]

    for threshold, imitate in ((0.0, [0]), (0.25, [0, 1]), (1.0, [0, 1, 2])):
        loop = reward_by(make(method="hpt", gate_threshold=threshold), lambda n, example: False)
        run(loop, 4)
        rollouts = reward_by(loop, decide).roll_out({})
        kept, experts = loop.pair(rollouts, facts := {})
        places = loop.demonstrated_places()[imitate]
        assert torch.equal(experts.tokens, loop.expert_answers.tokens[places])
        assert facts["share_imitating"] == len(imitate) / 6
        left = [p for p in range(6) if p not in imitate]
        rows = torch.cat([torch.arange(p * K, p * K + K) for p in left])
        assert torch.equal(kept.tokens, rollouts.tokens[rows])
        assert torch.equal(kept.advantages, rollouts.advantages[rows])


def test_prompts_without_a_demonstration_never_imitate():
    loop = run(reward_by(make(method="hpt"), lambda n, example: False), 4)
    assert loop.records[3]["share_imitating"] == 0.5  # all six fail, three are demonstrated


# --- the demonstration in the group ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["luffy", "rl_plus"])
def test_a_right_demonstration_lowers_its_failing_group_and_no_other(method):
    loop = trained(method=method)
    rollouts = loop.roll_out({})
    rewards = torch.zeros(6, K)
    rewards[1, :2] = rewards[4, :3] = 1.0
    rewards[2] = 1.0
    rollouts.rewards = rewards.view(-1)
    rollouts.advantages = group_centred(rollouts.rewards, "none")
    before = rollouts.advantages.clone()
    same, experts = loop.pair(rollouts, facts := {})
    assert same is rollouts and facts["share_applied"] == 0.5
    assert torch.equal(rollouts.advantages[PAIRED * K :], before[PAIRED * K :])
    found = rollouts.advantages.view(6, K)
    assert found[0].tolist() == pytest.approx([-1 / 9] * K)
    assert found[1].tolist() == pytest.approx([1 - 3 / 9] * 2 + [-3 / 9] * 6)
    assert not found[2].any()  # solved, the demonstration too
    assert experts.advantages.tolist() == pytest.approx([8 / 9, 6 / 9, 0])


def test_a_wrong_demonstration_is_paid_as_the_wrong_answer_it_is():
    config = build({"steps": 6, "warmup_steps": 0, "demonstrations": 8, "prompts_per_step": 4,
                    "method": "luffy", "wrong_demonstrations": 1.0})  # fmt: skip
    task = load_task(config.task, **config.task_options())
    loop = AMFT(*load_policy(base_folder("general_points")), task, config)
    rollouts = loop.roll_out({})
    rollouts.rewards = torch.zeros(32)
    rollouts.rewards[8] = 1.0
    _, experts = loop.pair(rollouts, {})
    assert experts.advantages.tolist() == pytest.approx([0, -1 / 9])
    assert not rollouts.advantages[:8].any()


@pytest.mark.parametrize("method", GROUPS)
def test_a_step_is_the_token_mean_over_rollouts_and_demonstrations_together(method):
    loop, twin = (uneven(trained(method=method)) for _ in range(2))
    batch = twin.roll_out({})
    places = twin.demonstrated_places()
    experts = twin.expert_answers.rows(places)
    joined = torch.cat((batch.rewards[: PAIRED * K].view(PAIRED, K), torch.ones(PAIRED, 1)), 1)
    assert 0 < batch.rewards.mean() < 1
    centred = joined - joined.mean(1, keepdim=True)
    if method == "srft":
        spread = joined.std(1, keepdim=True) + 1e-4
        with torch.no_grad():
            positions = (batch.attention.cumsum(1) - 1).clamp(min=0)
            logits = twin.policy(
                input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions
            ).logits[:, -batch.tokens.shape[1] - 1 : -1]
        each = torch.distributions.Categorical(logits=logits).entropy()
        entropy = float((each * batch.mask).sum() / batch.mask.sum())
        expert_advantages = (centred / spread)[:, -1]
        advantages = batch.rewards * (0.1 * math.exp(entropy) + 1) - 1
    else:
        expert_advantages = centred[:, -1]
        others = group_centred(batch.rewards, "none")[PAIRED * K :]
        advantages = torch.cat((centred[:, :-1].reshape(-1), others))

    logps = log_p(twin, experts)
    p, a = logps.exp(), expert_advantages.unsqueeze(1)
    if method == "luffy":
        terms = -a * p / (p + 0.1)
    elif method == "rl_plus":
        frozen = p.detach()
        terms = -a * 2 * p / (1.5 * frozen + 0.5) * (1 - frozen) ** 0.5
    else:
        terms = -0.5 * math.exp(-entropy) * logps - a * p
    surrogate = -advantages.unsqueeze(1) * log_p(twin, batch) * batch.mask
    tokens = experts.mask.sum() + batch.mask.sum()
    whole = (terms * experts.mask).sum() + surrogate.sum()
    wanted = gradient_of(twin, whole / tokens)

    grad, facts = step_gradient(loop)
    share = float(experts.mask.sum() / tokens)
    assert facts["mu"] == facts["share_imitating"] == pytest.approx(share)
    assert near(grad, wanted, 1e-3)
    if method == "srft":
        assert loop.group_entropy == pytest.approx(entropy, rel=1e-4)
        assert entropy != pytest.approx(float(each.mean()), rel=1e-2)  # padding would count


@pytest.mark.parametrize("method", [*GATES, *GROUPS])
@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_change_no_step_of_a_pairing_method(method, size):
    whole, parts = (uneven(trained(method=method)) for _ in range(2))
    parts.config = build(vars(parts.config), {"micro_batch": size})
    a, facts = step_gradient(whole)
    b, pieces = step_gradient(parts)
    assert near(a, b, 1e-3)
    assert facts["mu"] == pieces["mu"]


# --- demonstrated prompts -------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*GATES, *GROUPS])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"demonstrated_prompts": 0.0}, "needs demonstrated_prompts above 0"),
        ({"prompts_per_step": 4, "demonstrated_prompts": 0.1}, "needs demonstrated_prompts"),
        ({"inner_epochs": 2}, "inner_epochs 1"),
        ({"advantage": "gae"}, "advantage group only"),
    ],
)
def test_a_method_that_pairs_refuses_what_it_cannot_do(method, settings, message):
    build({"method": method})
    build(settings)  # fine for methods that do not pair
    with pytest.raises(ConfigError, match=f"^{method}.*{message}"):
        build({"method": method}, settings)


@pytest.mark.parametrize("method", [*GATES, "srft"])
def test_a_method_that_counts_right_answers_takes_no_points_for_them(method):
    """A walk that is lost at its last point has a reward above 0 where rewards are shaped."""
    build({"method": "luffy", "reward": "shaped"})
    with pytest.raises(ConfigError, match=f"^{method} counts .* reward must be binary"):
        build({"method": method, "reward": "shaped"})


def test_the_demonstrated_prompts_come_first_and_are_demonstrated():
    loop = make(method="hpt")
    seen = []
    for step in range(12):
        loop.step = step
        prompts, places = loop.step_prompts(), loop.demonstrated_places().tolist()
        assert len(prompts) == 6 and len(places) == PAIRED
        assert prompts[:PAIRED] == [loop.demonstrations[p].example for p in places]
        assert prompts[PAIRED:] == loop.train_prompts[6 * step + PAIRED : 6 * step + 6]
        seen += places
    # shuffled passes over 20 demonstrations: each once before any comes again
    assert sorted(seen[:20]) == list(range(20)) and seen[:20] != list(range(20))
    assert len(set(seen)) == 20


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_method_meets_the_same_prompts(share):
    lists = []
    names = ["amft", "rl", "cut_low"] + (["hpt", "luffy"] if share else [])
    for method in names:
        loop = make(method=method, demonstrated_prompts=share)
        met = []
        for step in range(5):
            loop.step = step
            met.append([e.prompt for e in loop.step_prompts()])
        shown = [len(set(prompts) & demonstrated(loop)) for prompts in met]
        assert all(n >= 6 * share for n in shown)
        lists.append(met)
    assert all(met == lists[0] for met in lists)
    loop = make(seed=1, demonstrated_prompts=share)
    assert [e.prompt for e in loop.step_prompts()] != lists[0][0]


def test_rollouts_and_entropy_are_of_the_step_s_prompts():
    loop, asked = make(method="hpt", warmup_steps=0), []
    plain = loop.sample

    def sample(prompts, *rest, **named):
        asked.append([e.prompt for e in prompts])
        return plain(prompts, *rest, **named)

    loop.sample = sample
    wanted = [e.prompt for e in loop.step_prompts()]
    loop.train_step()
    assert asked == [wanted] * 2


# --- replay ---------------------------------------------------------------------------------------


def test_a_replay_under_the_same_seed_is_the_same_run_so_only_another_seed_s_is_a_control():
    def trace(loop):
        return " ".join(str(r["mu"]) for r in loop.records[3:])

    settings = {"meta_every": 2, "prompts_per_step": 3}
    amft, other = run(make(**settings), 7), run(make(seed=1, **settings), 7)
    assert len(set(trace(amft).split())) > 1 and trace(amft) != trace(other)
    same = run(make(method="replay", trace=trace(amft), **settings), 7)
    control = run(make(method="replay", trace=trace(other), **settings), 7)
    assert torch.equal(weights(amft), weights(same))
    assert not torch.equal(weights(amft), weights(control))
    assert [r["mu"] for r in control.records] == [r["mu"] for r in other.records]
    assert not any("validation_reward" in r for r in same.records)


# --- token weights --------------------------------------------------------------------------------


GATE, TRUST = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0]), torch.tensor([0.2, 0.4, 0.7, 1.0])


def set_gates(loop):
    """Weights as a run might have learned them, where the method learns any."""
    if hasattr(loop.rule, "gate"):
        loop.rule.gate, loop.rule.trust = GATE.clone(), TRUST.clone()
    return loop


@pytest.mark.parametrize("method", ["chord_phi", "cut_low", "gac", "amft_gate", "dyme"])
def test_token_weights_wait_for_the_end_of_warm_up(method):
    plain, weighted = run(make(method="fixed"), 3), run(set_gates(make(method=method)), 3)
    assert torch.equal(weights(plain), weights(weighted))
    batch = plain.sft_batch(0)
    after = weighted.gradient(weighted.sft_loss, batch, {})
    unweighted = plain.gradient(plain.sft_loss, batch, {})
    assert not near(after, unweighted, 1e-2)
    weighted.step = 2
    assert torch.equal(weighted.gradient(weighted.sft_loss, batch, {}), unweighted)


@pytest.mark.parametrize(
    "method", ["chord_phi", "cut_low", "cut_half", "nll_entropy_phi", "amft_gate"]
)
def test_a_weighted_gradient_by_hand_and_its_facts(method):
    loop = set_gates(run(make(method=method), 3))
    batch = loop.expert_answers.rows(slice(16))  # each once: ranks have no ties
    facts = {}
    ours = loop.gradient(loop.sft_loss, batch, facts)
    logps = log_p(loop, batch)
    p = logps.detach().exp()
    inside = [(p >= low).long() for low in EDGES]  # bins by counting the edges passed
    omega = {"chord_phi": p - p**2, "cut_low": inside[1], "nll_entropy_phi": 4 * (p - p**2)}
    if method in ("amft_gate", "cut_half"):
        means = [(logps[i] * batch.mask[i]).sum().item() / batch.mask[i].sum() for i in range(16)]
        worse = torch.tensor([sum(other < mine for other in means) for mine in means])
        omega["amft_gate"] = GATE[sum(inside)] * TRUST[worse // 4].unsqueeze(1)  # 16: 4 a quarter
        omega["cut_half"] = inside[1] * (worse >= 8).unsqueeze(1)
    n = batch.mask.sum()
    loss = -(omega[method] * logps * batch.mask).sum() / n
    assert facts["sft_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert facts["nll"] == pytest.approx(-(logps * batch.mask).sum().item() / n.item(), rel=1e-4)
    assert near(ours, gradient_of(loop, loss))


@pytest.mark.parametrize("method", ["cut_half", "amft_gate"])
def test_methods_that_rank_a_batch_refuse_micro_batches(method):
    with pytest.raises(ConfigError, match="micro_batch must be 0"):
        build({"method": method, "micro_batch": 4})


@pytest.mark.parametrize("method", ["chord_phi", "cut_low"])
def test_micro_batches_change_no_weighted_gradient(method):
    loop = set_gates(run(make(method=method), 3))
    batch = loop.expert_answers.rows(slice(16))
    whole = loop.gradient(loop.sft_loss, batch, {})
    for size in (1, 5):
        loop.config = build(vars(loop.config), {"micro_batch": size})
        assert near(loop.gradient(loop.sft_loss, batch, {}), whole)


def test_gac_is_shown_the_demonstrations_and_rollouts_of_its_step():
    loop = make(method="gac", micro_batch=5)
    seen, plain = [], loop.rule.measure
    loop.rule.measure = lambda s: seen.append(s) or plain(s)
    run(loop, 5)
    [s] = seen  # the first step after warm-up, then every ten
    assert [len(logps) for logps, _ in s.experts] == [5, 5, 5, 1]  # of sft_batch 16
    assert s.advantages.shape == (6 * K,)
    assert not any(logps.requires_grad for logps, _ in s.experts)
    assert [r["mu"] for r in loop.records[:3]] == [1.0] * 3
    assert all(abs(b["mu"] - a["mu"]) <= 0.01 + 1e-9 for a, b in pairwise(loop.records[3:]))


def test_a_rule_s_mu_weighs_the_two_gradients():
    loop = run(make(method="nll_entropy"), 6)
    facts = loop.records
    assert facts[3]["mu"] == 0.5
    wanted = facts[3]["nll"] / (facts[3]["nll"] + facts[3]["entropy"])
    assert facts[4]["mu"] == pytest.approx(wanted)
    sft = loop.gradient(loop.sft_loss, loop.sft_batch(0), {})
    rl = loop.gradient(loop.rl_loss, loop.roll_out({}), {})
    grad, now = step_gradient(loop)
    assert near(grad, now["mu"] * sft + (1 - now["mu"]) * rl)


# --- continuing -----------------------------------------------------------------------------------

TRACE = " ".join(str(0.1 + k / 13) for k in range(9))
NEW = [n for n, m in METHODS.items() if m.rule in RIVALS or m.token_weight or "gate" in m.rule]


def test_the_list_of_new_methods_is_whole():
    assert {METHODS[n].rule for n in NEW} > set(RIVALS)
    assert {"amft_full", "amft_gate", "amft_gate_only", "gate_placebo"} <= set(NEW)
    assert all(
        isinstance(make(method=n).rule, GatedController) for n in NEW if "gate" in METHODS[n].rule
    )


@pytest.mark.parametrize("method", NEW)
def test_every_new_method_continued_from_a_file_is_the_same_run(method, tmp_path):
    settings = {"method": method, "trace": TRACE if method == "replay" else "", "meta_every": 2}
    settings |= {"validation_prompts": 3, "validation_rollouts": 2}
    settings |= {"prompts_per_step": 4, "rollouts_per_prompt": 2, "warmup_steps": 1}
    straight = run(set_gates(make(**settings)), 6)
    for record in straight.records:
        assert 0.0 <= record["mu"] <= 1.0 and math.isfinite(record["grad_norm"])
    first = run(set_gates(make(**settings)), 4)
    path = checkpoint.save(tmp_path, 4, first.state_dict())
    second = make(**settings)
    second.load_state_dict(checkpoint.load(path))
    run(second, 2)
    assert torch.equal(weights(straight), weights(second))
    assert str(straight.records[4:]) == str(second.records)
    if isinstance(straight.rule, GatedController):
        assert torch.equal(straight.rule.gate, second.rule.gate)
        assert torch.equal(straight.rule.trust, second.rule.trust)
