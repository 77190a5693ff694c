# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · The meta-gradient controller: which way should $\mu$ move?
#
# This is the heart of AMFT: a weight that learns. The idea is one line of calculus.
# Making it *work* is about signs, scales and noise, and here the paper, its code and
# the naive approach each trip over something (the paper as transcribed). We build it,
# measure it, and break it.
#
# **You will be able to**
#
# * derive $dU/d\mu$ through one step, and check it three independent ways;
# * say what Adam does to it, and show a case where the obvious shortcut has the wrong
#   sign;
# * say how many rollouts one trustworthy sign costs, and why validation must be fresh;
# * explain both signs of the entropy term, and which one steadies what;
# * ask the same question of each *token*, and say what the default rule adds;
# * diagnose a broken controller from its plots.
#
# *Under a minute to run on one CPU core, about 100 minutes with the exercises, under 1
# GB of memory. You need notebooks 01 and 02.*
#
# > **Sources.** Eq. 4-6 and the text about entropy: **second-hand notes** of arXiv
# > 2508.06944 (withdrawn in version 3). The released constants and code: read
# > first-hand (public repository TSYJ-He/AMFT, commit 0e030f4), not run. Derivations
# > and measurements: ours.

# %%
import math

import torch
from amft_lite import figures, meta_gradient, objectives, use_plotly
from amft_lite.provenance import versions
from amft_lite.results import recording

use_plotly()
torch.set_num_threads(1)
print(versions())

# %% tags=["parameters"]
MU = 0.5  # where derivatives are taken
SEED = 0
MOMENTS = (6, 8, 11, 15, 25, 60)  # steps of a live run to test the shortcut at

# %% [markdown]
# ## 1 · Two levels, one step
#
# The inner problem trains the weights for a given $\mu$; the outer one asks for the
# $\mu$ whose training solves most *validation* problems:
#
# $$\max_\mu\ U(\theta_T(\mu)),\qquad \theta_{t+1}=\theta_t-\alpha\big[(1-\mu)g_{RL}+\mu
# g_{SFT}\big],\qquad U=\mathbb{E}_{val}[R].$$
#
# Differentiating through all $T$ steps is out of reach, so AMFT looks *one step* ahead
# (Eq. 5). With the chain rule, and because $\mu$ enters the step linearly,
#
# $$\frac{dU}{d\mu}=\Big\langle\nabla_\theta U,\ \frac{d\theta'}{d\mu}\Big\rangle,\qquad
# \frac{d\theta'}{d\mu}=-\alpha\,(g_{SFT}-g_{RL}).$$
#
# No Hessian. $g_{SFT}$ and $g_{RL}$ training has anyway; $\nabla U$ costs validation
# rollouts and one backward pass. (The second line is our algebra; the notes of the
# paper do not show it.)
#
# ### Exercise 1 · The meta-gradient of one SGD step
# ●●○ · 6 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "mu_gradient", "grade": false, "locked": false, "solution": true}
def mu_gradient(grad_utility, grad_sft, grad_rl, lr):
    """dU/dmu through one SGD step. Flat gradients [N] -> scalar."""
    ### BEGIN SOLUTION
    return -lr * torch.dot(grad_utility, grad_sft - grad_rl)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_mu_gradient", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("mu_gradient", mu_gradient).require()

# %% [markdown]
# On the toy batch of notebook 01, by hand. The policy is a softmax over five answers
# (our four and "anything else"); training rewards pay `3 + 2` and `2 + 3`; the expert
# writes `3 + 2`; validation pays `2 + 3` only, so that there is something to disagree
# about.
#
# **Predict.** Imitation pushes an answer that validation does *not* pay. Is $dU/d\mu$
# negative?

# %%
prediction = None  # "+" or "-"

# %%
answers = ["3 + 2", "2 + 3", "3 - 2", "3 2", "else"]
probs = torch.tensor([0.10, 0.05, 0.125, 0.05, 0.675], dtype=torch.float64)
trained = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
validated = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
expert = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)

grad_sft = probs - expert  # of -log pi(expert)
grad_rl = -probs * (trained - probs @ trained)  # of -E[R]
grad_u = probs * (validated - probs @ validated)  # uphill in U
print("answer   g_SFT    g_RL   grad U   product")
for text, s, r, u in zip(answers, grad_sft, grad_rl, grad_u, strict=True):
    print(f"{text:6} {s:+.4f} {r:+.4f} {u:+.4f} {u * (s - r):+.5f}")
lr = 0.1
draft = -lr * sum(
    u * (s - r) for s, r, u in zip(grad_sft, grad_rl, grad_u, strict=True)
)
package = meta_gradient.mu_gradient(
    grad_u, meta_gradient.sgd_direction(grad_sft, grad_rl, lr)
)
print(f"dU/dmu = -0.1 * (sum of products) = {draft:+.6f}   package {package:+.6f}")
assert torch.allclose(draft, package)

# %% [markdown]
# It is *positive*, for a reason worth a look: the largest product is in the row `else`.
# One step of imitation takes far more probability from all the wrong answers than one
# step of RL, and `2 + 3` gets its share of what is set free. The meta-gradient weighs
# what a step *does*, not what the expert says. Two independent ways to the same number:
# *autograd* through one differentiable step, and *finite differences* through
# `torch.optim` itself. We take the utility after the step, as Eq. 5 has it; the closed
# form uses $\nabla U$ before the step.

# %%
logits = probs.log()


def utility(theta):
    return torch.softmax(theta, -1) @ validated


def three_ways(lr):
    closed = meta_gradient.mu_gradient(
        grad_u, meta_gradient.sgd_direction(grad_sft, grad_rl, lr)
    )
    autograd = meta_gradient.autograd_gradient(
        utility, logits, grad_sft, grad_rl, MU, lambda g: -lr * g
    )
    weight = torch.nn.Parameter(logits.clone())
    differences = meta_gradient.finite_difference(
        lambda params: utility(params[0]), torch.optim.SGD([weight], lr),
        grad_sft, grad_rl, MU,
    )  # fmt: skip
    return float(closed), autograd, differences


print("step size   closed form     autograd        finite differences")
for lr in (1.0, 0.1, 0.01):
    print(f"{lr:<9}" + "".join(f"   {x:+.6e}" for x in three_ways(lr)))

# %% [markdown]
# Autograd and finite differences agree to six digits. The closed form differs by a
# share that shrinks with the step: that is $\nabla U$ taken before and not after it, a
# first-order difference.
#
# A picture of the idea: weights in the plane, an expert that pulls one way, reward that
# pulls another, and a third place that validation would like best.

# %%
start, to_expert, to_reward = (
    torch.tensor(x) for x in ([0.0, 0.0], [3.0, 0.4], [0.6, 2.8])
)
mus = [n / 20 for n in range(21)]
figure = figures.new_figure("Utility after one step, by the mu of that step", "mu",
                            "U after the step, minus U before")  # fmt: skip
goals = {
    "near the expert": [2.6, 0.9],
    "between": [2.0, 1.8],
    "near the reward": [0.8, 2.6],
}
for n, (name, goal) in enumerate(goals.items()):
    goal = torch.tensor(goal)
    gain = []
    for mu in mus:
        new = start + 0.03 * ((1 - mu) * (to_reward - start) + mu * (to_expert - start))
        gain.append(float((start - goal).norm() ** 2 - (new - goal).norm() ** 2) / 2)
    figure.add_scatter(x=mus, y=gain, mode="lines", name=name,
                       line={"color": figures.PALETTE[n]})  # fmt: skip
figures.describe(
    figure, "Three lines over mu: one rises, one is nearly flat, one falls"
)

# %% [markdown]
# **How to read it.** Each line: validation likes another place best. Its slope at the
# present $\mu$ is the meta-gradient. Near the expert it rises: imitate more. Between,
# it is nearly flat: $\mu$ hardly matters, and *no controller can gain much there*. Keep
# that in mind.
#
# **What would prove it wrong.** A line with a strong bend. One *small* step ahead $U$
# is nearly linear in $\mu$ (take .3 for .03 in the cell and see it bend), so the
# meta-gradient can point to an end of the range, never to a best $\mu$ in the middle of
# one step.
#
# ## 2 · Estimating $\nabla U$ from rollouts
#
# $U$ is a reward, not a loss, so its gradient is a policy gradient on validation
# prompts. The baseline must not change whose gradient it is. The group mean would only
# shorten it, but GRPO's division by each prompt's spread weighs prompts unequally.
# Leaving one out does neither.
#
# A validation prompt is a hand like any other, but training never sees its cards, in
# whatever order they lie:

# %%
from amft_lite import load_task
from amft_lite.tasks.cards import any_suits, draw_hand

[hand] = load_task("general_points").prompts("validation", 1, seed=SEED)
print("a validation prompt:", hand.prompt)
figures.picture(draw_hand(any_suits(hand.cards), width=300, seed=1),
                "Its cards, drawn: " + " ".join(hand.cards))  # fmt: skip

# %% [markdown]
# ### Exercise 2 · Leave one out
# ●●○ · 6 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "leave_one_out_advantages", "grade": false, "locked": false, "solution": true}
def leave_one_out_advantages(rewards, group_size):
    """Reward minus the mean reward of the OTHER rollouts of its prompt. [B] -> [B]."""
    ### BEGIN SOLUTION
    groups = rewards.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).view(-1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_leave_one_out_advantages", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("leave_one_out_advantages", leave_one_out_advantages).require()

# %%
rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
print(
    objectives.leave_one_out_advantages(rewards, 4).tolist(), "by hand: 1 - 1/3 = 2/3"
)

# %% [markdown]
# ## 3 · What Adam does to the direction
#
# Nobody trains a language model with SGD. Adam's update is $-\alpha\,\hat m/(\sqrt{\hat
# v}+\epsilon)$, and both averages contain the *fresh* gradient.
#
# ### Exercise 3 · Adam's update
# ●●○ · 10 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "adam_update", "grade": false, "locked": false, "solution": true}
def adam_update(grad, m, v, step, lr, beta1, beta2, eps):
    """theta' - theta of one Adam step.

    m, v: averages before the step, [N]. step: number of this step, 1 for the first.
    """
    ### BEGIN SOLUTION
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return -lr * m_hat / (v_hat.sqrt() + eps)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_adam_update", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("adam_update", adam_update).require()

# %% [markdown]
# How does $\theta'$ move with $\mu$ now? The *obvious shortcut* treats $1/\sqrt{\hat
# v}$ as a fixed scale for each weight and multiplies SGD's direction by it. But the
# mixture we ask about changes $\hat v$, too. Here are two weights. The first has had
# tiny gradients so far, the second large ones: $v=(10^{-8},.5)$, no momentum. Now
# $g_{SFT}=(.30,1.0)$, $g_{RL}=(.35,.2)$ and $\nabla U=(1,.5)$. **Predict** the sign of
# $dU/d\mu$ by the shortcut.

# %%
prediction = None  # "+" or "-"

# %%
g_sft, g_rl = torch.tensor([0.30, 1.0]), torch.tensor([0.35, 0.2])
u = torch.tensor([1.0, 0.5])  # uphill in U
history = torch.tensor([1e-8, 0.5])  # v before the step
state = meta_gradient.AdamState(
    torch.zeros(2), history, 100, lr=0.01, betas=(0.9, 0.95)
)
naive = meta_gradient.naive_direction(g_sft, g_rl, state)
real = meta_gradient.adam_direction(g_sft, g_rl, state, MU, 0.02)
print(f"shortcut    direction {[f'{x:+.4f}' for x in naive.tolist()]}   dU/dmu "
      f"{u @ naive:+.4f}")  # fmt: skip
print(f"real Adam   direction {[f'{x:+.4f}' for x in real.tolist()]}   dU/dmu "
      f"{u @ real:+.4f}")  # fmt: skip
weights = [torch.nn.Parameter(torch.zeros(2))]
adam = torch.optim.Adam(weights, 0.01, betas=(0.9, 0.95))
weights[0].grad = torch.zeros(2)
adam.step()
adam.state[weights[0]].update(step=torch.tensor(100.0), exp_avg_sq=history.clone())
oracle = meta_gradient.finite_difference(
    lambda p: p[0] @ u, adam, g_sft, g_rl, MU, 0.01
)
print(f"torch.optim.Adam itself, by finite differences: {oracle:+.4f}")
print("as predicted" if prediction == "+" else "the shortcut says +; the truth is -")

# %% [markdown]
# The quiet weight makes the shortcut explode: a tiny $v$, a huge scale. In the real
# step the fresh gradient enters $v$ at once, and the step is bounded by a few $\alpha$
# however tiny $v$ was. So do not linearise Adam: *apply* it, twice.
#
# ### Exercise 4 · The direction through any optimiser
# ●●○ · 8 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "adam_direction", "grade": false, "locked": false, "solution": true}
def adam_direction(update, grad_sft, grad_rl, mu, width):
    """d theta'/d mu: two updates, at mu - width/2 and mu + width/2, both cut to [0, 1],
    divided by the distance that is left between them.

    update: a function from a gradient [N] to the weights' change [N]; not linear.
    """
    ### BEGIN SOLUTION
    low, high = max(0.0, mu - width / 2), min(1.0, mu + width / 2)
    upper = update((1 - high) * grad_rl + high * grad_sft)
    lower = update((1 - low) * grad_rl + low * grad_sft)
    return (upper - lower) / (high - low)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_adam_direction", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("adam_direction", adam_direction).require()

# %% [markdown]
# Is this a made-up case? We train the card game live (15 steps of imitation, then the
# mix) and ask at several moments, four times each: what does the *real* optimiser do to
# $\langle\nabla U,\theta'\rangle$ between $\mu=.25$ and $.75$? And what do the two
# formulas say?

# %%
from amft_lite import AMFT, build_config, load_policy, load_task
from amft_lite.batches import generator, graded_rollouts
from amft_lite.models import base_folder

task = load_task("general_points")
policy, tokenizer = load_policy(base_folder("general_points"))
amft = AMFT(policy, tokenizer, task, build_config({"method": "fixed", "seed": SEED}))


def rollouts(split, prompts, number, advantages):
    """8 fresh graded answers to each of `prompts` prompts."""
    hands = task.prompts(split, prompts, seed=50 + number)
    source = generator(SEED, f"notebook 03, {split}", number)
    batch = graded_rollouts(policy, tokenizer, task, hands, 8, 1.0, source)
    batch.advantages = advantages(batch.rewards, 8)
    return batch


# %%
def compare(number):
    """dU/dmu by the real optimiser, by two updates and by the shortcut."""
    s = amft.gradient(amft.sft_loss, amft.sft_batch(number), {})
    train = rollouts("train", 16, number, objectives.group_advantages)
    r = amft.gradient(amft.rl_loss, train, {})
    held_out = rollouts("validation", 32, number, objectives.leave_one_out_advantages)
    u = -amft.gradient(amft.utility_loss, held_out, {})
    state = meta_gradient.adam_state(amft.optimizer, 1.0)
    real = meta_gradient.adam_direction(s, r, state, MU, 0.5)
    naive = meta_gradient.naive_direction(s, r, state)
    oracle = meta_gradient.finite_difference(
        lambda params: u @ meta_gradient.flatten(params),
        amft.optimizer,
        s,
        r,
        MU,
        0.25,
        1.0,
    )
    return {
        "truth": oracle, "two updates": float(u @ real), "shortcut": float(u @ naive),
        "agreement": meta_gradient.cosine(real, naive),
    }  # fmt: skip


# %%
cases = []
for moment in MOMENTS:
    while amft.step < moment:
        amft.train_step()
    cases += [{"step": moment, **compare(10 * moment + k)} for k in range(4)]
cases = [c for c in cases if c["truth"]]  # early, all validation rollouts may fail

# %%
for name in ("two updates", "shortcut"):
    count = sum(c["truth"] * c[name] < 0 for c in cases)
    print(f"{name:12} wrong sign in {count} of {len(cases)} cases")
off = max(abs(c["truth"] - c["two updates"]) / abs(c["truth"]) for c in cases)
print(f"two updates differ from torch.optim.AdamW by at most {off:.1%}")
figure = figures.new_figure("Does the shortcut point where Adam goes?", "training step",
                            "cosine of shortcut and real direction")  # fmt: skip
for name, wanted, place in (("sign right", True, 0), ("sign wrong", False, 4)):
    part = [c for c in cases if (c["truth"] * c["shortcut"] > 0) == wanted]
    figure.add_scatter(
        x=[c["step"] for c in part], y=[c["agreement"] for c in part], mode="markers",
        name=name, marker={"color": figures.PALETTE[place], "size": 9},
    )  # fmt: skip
figures.add_warmup(figure, 15)
figure.update_yaxes(range=[-0.05, 1.05])
figures.describe(figure, "Dots rise from near 0 in warm-up to about .9 at step 60")

# %% [markdown]
# **How to read it.** One dot a case: how well the shortcut's direction agrees with what
# Adam does (1 = the same). Early, while many weights have had tiny gradients only, it
# points almost *elsewhere*; once $v$ has settled it is close. Red: the inner product
# with $\nabla U$ came out with the wrong sign. (The shortcut is also several times too
# long; a cosine hides that.)
#
# **What would prove it wrong.** Dots near 1 from the first step on: then the shortcut
# would do. Two updates must have no wrong sign at any moment: they *are* the optimiser.
#
# When we built this, the wrong signs fell in warm-up, where AMFT takes no meta step,
# and none after it. In an earlier, unpublished trial of ours one came late, at one of
# five moments. Nothing guarantees it either way, and two updates cost no extra backward
# pass.
#
# ## 4 · How much is one estimate worth?
#
# Now the sobering part. $\nabla U$ comes from a few hundred coin-flip-like rewards, and
# $g_{SFT}$, $g_{RL}$ from one minibatch. How often does one estimate have the right
# sign?
#
# ### Exercise 5 · Share of right signs
# ●○○ · 4 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "sign_agreement", "grade": false, "locked": false, "solution": true}
def sign_agreement(estimates, reference):
    """Share of the estimates [R] that have the sign of reference (0 has none)."""
    ### BEGIN SOLUTION
    return (estimates * reference > 0).double().mean()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_sign_agreement", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("sign_agreement", sign_agreement).require()

# %% [markdown]
# Recorded at three moments of a run with $\mu=.5$ (`make recordings`): a reference from
# 32,768 validation rollouts, 64 training minibatches and all demonstrations; then
# estimates from others. **Predict:** with 256 rollouts, AMFT's default here, how many
# in a hundred are right if all training gradients are exact? And if they come from one
# minibatch?

# %%
noise = recording("noise")["blocks"]
print("through Adam       formula (32,768 rollouts)     measured (rollouts reweighted)")
for b in noise:
    f, m = b["formula"]["adam"], b["measured"]["adam"]
    print(f"step {b['step']:3}    {f['value']:+.6f} +- {1.96 * f['error']:.6f}       "
          f"{m['value']:+.6f} +- {1.96 * m['error']:.6f}")  # fmt: skip

# %%
figure = figures.new_figure("How often has one estimate the right sign?",
                            "validation rollouts in the estimate",
                            "share of right signs")  # fmt: skip
for b in noise:
    for n, (kind, label) in enumerate(
        (("exact", "training gradients exact"), ("minibatch", "from one minibatch"))
    ):
        x = [s["rollouts"] for s in b["shares"]]
        y = [s[kind] for s in b["shares"]]
        n_free = [min(s["estimates"], (512, 64)[n]) for s in b["shares"]]
        half = [1.96 * math.sqrt(0.25 / k) for k in n_free]
        figures.add_band(
            figure, x, [v - h for v, h in zip(y, half, strict=True)],
            [min(1.0, v + h) for v, h in zip(y, half, strict=True)],
            figures.PALETTE[n], label,
        )  # fmt: skip
        figure.add_scatter(x=x, y=y, mode="lines+markers", name=label,
                           line={"color": figures.PALETTE[n]})  # fmt: skip
figure.add_hline(y=0.5, line={"color": "#7f7f7f", "dash": "dash", "width": 1})
figure.update_xaxes(type="log").update_yaxes(range=[0, 1.05])
figures.describe(
    figure, "With one minibatch the share stays near one half; exact ones rise"
)
figures.add_slider(figure, "training step", {
    str(b["step"]): list(range(4 * n, 4 * n + 4)) for n, b in enumerate(noise)
})  # fmt: skip

# %% [markdown]
# **How to read it.** Dashed: a coin. Bands: 95 % for the number of independent
# estimates (512 at the left end, 16 at the right; there are only 64 different
# minibatches). With exact training gradients, 256 rollouts give the right sign in about
# two of three cases. With *one minibatch* for $g_{SFT}$ and $g_{RL}$, which is what a
# trainer has, they are hardly better than a coin, and more validation rollouts hardly
# help: the noise of the *direction* is in the way.
#
# **What would prove it wrong.** A minibatch line well above the dashed one at 256. On
# your task it may well be; this is the plot to make before trusting a meta-gradient.
#
# What does one trustworthy sign cost? With exact training gradients 256 rollouts are
# right in two of three cases, about 1,000 in three of four, about 2,000 in nine of ten
# (16 estimates). From one minibatch: no number that we tried. This is one possible
# reason why a placebo that flips coins does as well as AMFT in notebook 00. AMFT itself
# uses averages over time, at the price of being late: notebook 05 measures *those*.
#
# ### Exercise 6 · A moving average
# ●○○ · 4 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "moving_average", "grade": false, "locked": false, "solution": true}
def moving_average(values, decay):
    """a <- decay * a + (1 - decay) * new over a list of [N], started at the first."""
    ### BEGIN SOLUTION
    average = values[0].clone()
    for new in values[1:]:
        average = decay * average + (1 - decay) * new
    return average
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_moving_average", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("moving_average", moving_average).require()

# %% [markdown]
# ## 5 · Why training rollouts must not serve as validation
#
# One could save rollouts and take $\nabla U$ from those that $g_{RL}$ was made of. But
# then both contain *the same noise*, and a vector agrees with itself.

# %%
figure = figures.new_figure("Cosine of grad U with the direction of mu", "cosine",
                            "number of minibatches (of 64)")  # fmt: skip
edges = [-0.9 + n / 10 for n in range(13)]
for b in noise:
    for n, (kind, label) in enumerate(
        (("same", "same rollouts as g_RL"), ("fresh", "fresh validation rollouts"))
    ):
        values = [pair[kind] for pair in b["leak"]]
        counts = [sum(e <= v < e + 0.1 for v in values) for e in edges]
        figure.add_bar(x=[f"{e + 0.05:+.2f}" for e in edges], y=counts, name=label,
                       marker={"color": figures.PALETTE[(4, 0)[n]]})  # fmt: skip
        print(f"step {b['step']:3} {label:26} mean {sum(values) / 64:+.3f}")
figures.describe(figure, "Same rollouts: all far below 0. Fresh ones: around 0")
figures.add_slider(figure, "training step", {
    str(b["step"]): [2 * n, 2 * n + 1] for n, b in enumerate(noise)
})  # fmt: skip

# %% [markdown]
# **How to read it.** Below 0 means "more RL". With the same rollouts the answer is a
# loud "more RL" at all three moments, and would be if the truth were the opposite; with
# fresh ones it is a whisper around 0.
#
# **What would prove it wrong.** The red bars around 0. `AMFT` refuses to start where a
# validation hand is also trained on.
#
# ## 6 · The entropy term and its two signs
#
# Eq. 6 has a second term. As transcribed, the *equation* adds $+\eta_H(H^*-H)$: entropy
# above the target $H^*$ (that when warm-up ends) lowers $\mu$. The *text* says: entropy
# above $H^*$ raises $\mu$. They cannot both be meant. (The released code follows the
# equation.)
#
# ### Exercise 7 · Both pushes
# ●○○ · 4 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "entropy_pushes", "grade": false, "locked": false, "solution": true}
def entropy_pushes(entropy, target, eta):
    """The push on mu by Eq. 6 and by the text. Floats -> (equation, text)."""
    ### BEGIN SOLUTION
    return eta * (target - entropy), eta * (entropy - target)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_entropy_pushes", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("entropy_pushes", entropy_pushes).require()

# %% [markdown]
# Which one *steadies* entropy? That is a question of feedback, and depends on one sign:
# does imitation raise entropy or lower it, $dH/d\mu>0$ or $<0$? **Predict** before you
# run: four combinations; which two come back to $H^*$?

# %%
figure = figures.new_figure("A model of the loop: entropy from below H*", "step",
                            "entropy, nats")  # fmt: skip
for pull, regime in ((0.3, "imitation raises H"), (-0.2, "imitation lowers H")):
    for n, (form, push) in enumerate((("equation", 1), ("text", -1))):
        h, mu, path = 0.2, 0.5, []
        for _ in range(150):
            h += 0.1 * (0.25 + pull * (mu - 0.5) - h)  # .25: RL drains entropy
            mu = min(max(mu + push * 0.1 * (0.3 - h), 0.05), 0.95)
            path.append(h)
        figure.add_scatter(
            x=list(range(150)), y=path, mode="lines", name=f"{regime}, {form}",
            line={"color": figures.PALETTE[n], "dash": "solid" if pull > 0 else "dash"},
        )  # fmt: skip
figure.add_hline(y=0.3, line={"color": "#7f7f7f", "dash": "dot"}, annotation_text="H*",
                 annotation_position="top right")  # fmt: skip
figures.describe(figure, "Two of four curves return to H*, two run away from it")

# %% [markdown]
# **How to read it.** Solid: imitation raises entropy; the equation brings it back.
# Dashed: imitation lowers it; the text does. The two others run to a rail. (A model
# with made-up numbers: only the signs matter.)
#
# **What would prove it wrong.** A sign that is right in both regimes. There is none: it
# is the sign of $dH/d\mu$, a property of the data.
#
# Which regime is the card game? Recorded, five seeds: an entropy-only controller with
# either sign.

# %%
from amft_lite.statistics import mean_interval

runs = recording("runs")["blocks"]
figure = figures.new_figure(
    "Entropy-only controllers, five seeds", "training step", "mu"
)
for n, form in enumerate(("equation", "text")):
    chosen = [b for b in runs if b["name"] == f"entropy only ({form})"]
    for k, b in enumerate(chosen):
        figure.add_scatter(
            x=list(range(150)), y=b["metrics"]["mu"], mode="lines", showlegend=k == 0,
            name=form, line={"color": figures.PALETTE[n], "width": 1.5},
        )  # fmt: skip
    late = [sum(b["metrics"]["entropy"][-30:]) / 30 for b in chosen]
    goal = [b["target_entropy"] for b in chosen]
    print(f"{form:9} entropy of the last 30 steps {mean_interval(late)}, "
          f"H* {sum(goal) / len(goal):.3f}")  # fmt: skip
figures.describe(figure, "By the equation mu rises to .95, by the text it falls to .05")

# %% [markdown]
# **How to read it.** After warm-up mu goes to one rail or the other, because entropy
# stays below $H^*$ after the first steps: training uses it up under any mixture.
# Compare the two printed entropies. The form that imitates *more* (equation) ends with
# *less* entropy: a hundred memorised answers leave nothing undecided. So here
# $dH/d\mu<0$, the text's sign pushes the right way, and neither reaches the target.
#
# **What would prove it wrong.** Intervals that overlap widely. With plenty of
# demonstrations the sign may well be the other one.
#
# So the scalar `amft` of this repository has `entropy_form: off`, which departs from
# the paper; both signs are settings. A third form, `gradient`, ours, asks the
# *validation gradient* for entropy too, and needs no guess about the sign: section 8.
#
# ## 7 · The released constants, and the released sign
#
# The official configuration has $\alpha=10^{-6}$, $\eta_\mu=10^{-4}$, one meta step
# in 20. How far can $\mu$ move? Take the largest inner product of our own recorded run.

# %%
bugs = {b["name"]: b for b in recording("bugs")["blocks"]}
m = bugs["healthy"]["metrics"]
products = [
    u * (s + r)
    for u, s, r in zip(
        m["grad_norm_utility"], m["grad_norm_sft"], m["grad_norm_rl"], strict=True
    )
    if u is not None
]
most = max(products)  # |<grad U, g_SFT - g_RL>| cannot be larger
print(f"largest possible |<grad U, g_SFT - g_RL>| in that run: {most:.1f}")
print(f"one update of mu: at most {1e-4 * 1e-6 * most:.1e};  25 of them (500 steps): "
      f"{25 * 1e-4 * 1e-6 * most:.1e}")  # fmt: skip
print(f"spacing of float32 numbers at .8: {torch.finfo(torch.float32).eps / 2:.1e}")

# %% [markdown]
# Less than float32 can add to .8. At such inner products the meta-gradient is inert
# with the released constants, and "AMFT" is a fixed $\mu$ with a slow entropy term.
# (For one update to register, the product would have to be in the hundreds.) `--method
# published` keeps it as evidence.
#
# And the *sign*. The released code takes a cross-entropy on held-out expert answers as
# its utility, computes $-\alpha\langle\nabla L_{val},g_{SFT}-g_{RL}\rangle$, and *adds*
# it to $\mu$. That is the derivative of a **loss**: adding it climbs. A check on toy
# numbers:

# %%
grad_loss = probs - validated  # of the cross-entropy -log pi(2 + 3)
code = -0.1 * torch.dot(grad_loss, grad_sft - grad_rl).item()
truth = meta_gradient.autograd_gradient(
    lambda theta: -torch.log_softmax(theta, -1)[1], logits, grad_sft, grad_rl, MU,
    lambda g: -0.1 * g,
)  # fmt: skip
print(
    f"the code adds {code:+.5f} to mu (times eta); "
    f"d(validation loss)/dmu is {truth:+.5f}"
)
print(
    "raising mu would lower the loss, and the code lowers mu"
    if code < 0
    else "and so on"
)

# %% [markdown]
# ## 8 · A controller that moves
#
# What survives all this is the method `amft` (`weighting.py`, ours):
#
# 1. moving averages of $g_{SFT}$, $g_{RL}$ (decay .9) and $\nabla U$ (.5): against
#    noise;
# 2. the direction through Adam's own update: against wrong signs;
# 3. a *cosine* in place of the product: no scale, so no constant that is inert;
# 4. $|\Delta\mu|\le .05$ an update, bounds .05 and .95: no single estimate is trusted;
# 5. nothing at all where validation rollouts all had one reward: silence is no signal.
#
# ### Exercise 8 · One controller step
# ●●○ · 6 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "controller_step", "grade": false, "locked": false, "solution": true}
def controller_step(mu, signal, eta, max_change, low, high):
    """Move mu by eta * signal, by at most max_change, inside [low, high]. Floats."""
    ### BEGIN SOLUTION
    change = min(max(eta * signal, -max_change), max_change)
    return min(max(mu + change, low), high)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_controller_step", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("controller_step", controller_step).require()

# %% [markdown]
# ### The default, on one page: the same question, asked of each token
#
# `amft` learns one number for all that experts say. The default of the lite game,
# `amft_full` (`gate.py`, ours), keeps that number and also learns *what* to imitate. A
# demonstration's token gets the weight $\omega_t=v_k\,u_j$ in $L_{SFT}$: $k$ is the bin
# of its probability (edges .03, .15, .5, .9), $j$ the quarter of its demonstration,
# from the least likely to the likeliest. Every 5 steps:
#
# 1. $w=-J^{T}\nabla U$, the direction in which a step of Adam would climb in $U$ ($J$
#    is the derivative of Adam's update at the present mixture);
# 2. two forward passes, at $\theta\pm\varepsilon w$, tell how much each token's $\log
#    p$ would *rise* along $w$, which is what $dU/d\omega_t$ comes to;
# 3. $v_k\leftarrow\mathrm{clip}(v_k+\eta\,a_k,\,0,\,1)$ with the *agreement* $a_k$:
#    mean over root mean square of the bin's rises, in $[-1,1]$; $u_j$ likewise, by the
#    sums over whole demonstrations. (Exercise: notebook 05.)
#
# It starts sceptical, $v=(0,0,1,1,1)$, $u=(0,0,1,1)$ and $\mu=.3$: what looks absurd
# has to earn its weight ($\eta=.2$). **Entropy is asked for, too**: while it is below
# $H^*$, $\nabla U$ becomes $\nabla(U+\beta H)$, $\beta=.1$. Then whatever *keeps*
# entropy up counts as better, for $\mu$ and for the weights, and section 6's question
# of the sign does not come up. (Gently: entropy still ends near or below half of
# $H^*$.)
#
# Which parts help? Success on *validation* problems: seventeen variants (two seeds: the
# best is flattered), then the leader and its rivals on other seeds.
#
# **Predict.** Two regimes: all experts right, or half of them wrong. In which will the
# less likely half of the demonstrations, which starts at weight 0, be let in?

# %%
prediction = None  # "right" or "half wrong"

# %%
from amft_lite.results import shipped
from amft_lite.tables import comparison

for name in ("controllers", "controllers_again"):
    rows = comparison(shipped(name))["means"]
    print(f"\n{name}: mean over regimes and seeds")
    for arm in sorted(rows, key=lambda a: -rows[a]["validation"]["mean"]):
        of = [rows[arm][m]["mean"] for m in ("validation", "validation_greedy")]
        print(f"{arm:30} sampled {of[0]:.3f}   greedy {of[1]:.3f}")

# %%
cells = [
    c for name in ("controllers", "controllers_again")
    for c in shipped(name)["cells"] if c["arm"] == "amft_gate-entropy"
]  # fmt: skip
figure = figures.new_figure("Weights at the end of training, one dot a run", "",
                            "weight")  # fmt: skip
groups = ("p < .03", ".03 - .15", ".15 - .5", ".5 - .9", "p > .9",
          "least likely", "second", "third", "likeliest")  # fmt: skip
shown = {
    "all-clean-middle": "903 experts, right", "all-wrong-middle": "903, half wrong",
    "d100-clean-middle": "100, right", "d100-wrong-sparse": "100, half wrong",
}  # fmt: skip
for n, (regime, label) in enumerate(shown.items()):
    found = [c["gate"] + c["trust"] for c in cells if c["regime"] == regime]
    for k, run in enumerate(found):
        figure.add_scatter(
            x=[place + 0.15 * n - 0.2 for place in range(9)], y=run, mode="markers",
            name=label, showlegend=k == 0, legendgroup=label,
            marker={"color": figures.PALETTE[n], "size": 8, "opacity": 0.6},
        )  # fmt: skip
    lower = [sum(run[5:7]) / 2 for run in found]
    print(f"{label:20} weight of the less likely half {sum(lower) / len(lower):.2f} "
          f"({min(lower):.2f} to {max(lower):.2f}, n = {len(found)})")  # fmt: skip
figure.update_xaxes(tickvals=list(range(9)), ticktext=list(groups))
figures.describe(figure, "Tokens likelier than .15 mostly keep weight 1, others stay "
                         "low. The less likely half of 903 demonstrations rises to "
                         "about one half where experts are right, and stays low "
                         "where they err; with 100 it does not tell")  # fmt: skip

# %% [markdown]
# **How to read it.** `amft_gate-entropy` is the default; `-still` keeps its weights
# where they start; `gate_placebo` moves them by a coin; `cut_low` and `cut_half` are
# constants (all names: `data/studies/README.md`).
#
# Rules that are sceptical lead, learned or not. In the second list the default is .034
# above the scalar ([.025, .044], three seeds), `cut_low` .029; *learning* the weights
# gains .014 on leaving them where they start, an interval that includes 0 ([-.010,
# .038]), and a coin did as well as `amft_gate` in the first. So what is shown is that
# it pays to be sceptical, and not that it pays to learn it.
#
# In the figure: five bins of tokens, four quarters of demonstrations. With 903 of them
# the rule lets more of the unlikely half in where experts are right, and nobody told it
# which ones err. With 100 it cannot tell.
#
# **What would prove it wrong.** Blue and orange dots in the same places.

# %% [markdown]
# ## 9 · Myopia: one step against twenty
#
# One step ahead is all that the formula sees. What if one holds $\mu$ for 20 steps?
# Recorded from the same three moments: 20 more steps at $\mu=.05$, $.5$, $.95$ (8 seeds
# each, all 202 validation problems with 16 draws).
#
# **Predict.** The formula of section 4 says "less imitation" at all three moments. Will
# $\mu=.05$ be best after 20 steps?

# %%
ahead = recording("lookahead")["blocks"]
figure = figures.new_figure("Validation reward after 20 steps with one mu", "mu held",
                            "share of right answers")  # fmt: skip
print("step   mu = .95 minus mu = .05, paired by seed   one-step formula")
for n, b in enumerate(noise):
    rows = [a["after"] for a in ahead if a["step"] == b["step"]]
    stats = {
        mu: mean_interval([row[mu] for row in rows]) for mu in ("0.05", "0.5", "0.95")
    }
    figure.add_scatter(
        x=[float(mu) for mu in stats], y=[s.mean for s in stats.values()],
        error_y={"type": "data", "array": [s.high - s.mean for s in stats.values()]},
        mode="lines+markers", name=f"from step {b['step']}",
        line={"color": figures.PALETTE[n]},
    )  # fmt: skip
    far = mean_interval([row["0.95"] - row["0.05"] for row in rows])
    print(f"{b['step']:3}    {far}      {b['formula']['adam']['value']:+.5f}")
figures.describe(figure, "Three lines over mu .05, .5, .95, one a starting moment")

# %% [markdown]
# **How to read it.** Each line starts from one set of weights; bars: 95 % over 8 seeds
# of rollouts. Here $\mu=.5$ had the highest mean at all three moments (at step 120 not
# distinguished from .95): a maximum inside, which a linear signal cannot see. And of
# the two ends, *more* imitation was better after 20 steps at step 120 (at 60 just so),
# where the formula says less.
#
# **What would prove it wrong.** Lines whose slope always agrees with the formula's sign
# and whose best $\mu$ is at that end. Where table and formula disagree, following the
# meta-gradient is short-sighted.

# %% [markdown]
# ## 10 · The planted-bug lab
#
# Five recorded runs of the controller (seed 1). One is healthy; A, B, C and D have
# *one* bug each, in some order: **reversed meta sign** ($\mu$ steps against its
# signal), **stale gradient** ($\nabla U$ measured once and kept), **mean of means**
# (both losses average each answer first), **leaking validation** ($\nabla U$ from the
# training rollouts). In all five a third of the expert answers stop after the cards, so
# that answers differ in length.
#
# Look at the plots, decide, then write your diagnosis. Three of the four look alike in
# $\mu$ itself (A lies under B)!

# %%
from amft_lite.exercises.controller import RUNS

lab = {"healthy": bugs["healthy"]}
lab |= {
    letter: bugs[RUNS[letter]] for letter in "ABCD"
}  # RUNS knows; you should not look
quantities = {
    "mu": "mu", "signal (cosine)": "mu_signal", "norm of grad U": "grad_norm_utility",
    "cosine of grad U with a step along RL": "cos_utility_rl", "L_RL": "rl_loss",
    "tokens of 128 rollouts": "rollouts_tokens", "reward": "reward",
}  # fmt: skip
figure = figures.new_figure("The lab: five runs, four bugs", "training step", "", 440)
for column in quantities.values():
    for n, (name, b) in enumerate(lab.items()):
        pairs = [(t, v) for t, v in enumerate(b["metrics"][column]) if v is not None]
        x, y = zip(*[p for p in pairs if p[0] >= 15], strict=True)
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines+markers" if len(x) < 40 else "lines",
            line={"color": ("#7f7f7f", *figures.PALETTE)[n], "width": 1.5},
        )  # fmt: skip
figures.describe(
    figure, "mu of five runs: four fall to .05 (A lies under B), one rises to .95"
)
figures.add_slider(
    figure, "quantity",
    {name: list(range(5 * n, 5 * n + 5)) for n, name in enumerate(quantities)},
    y={name: name for name in quantities},
)  # fmt: skip

# %%
figure = figures.new_figure(
    "Does mu follow its signal?", "signal (cosine)", "change of mu"
)
for n, (name, b) in enumerate(lab.items()):
    m = b["metrics"]
    pairs = [
        (s, c)
        for s, c in zip(m["mu_signal"], m["mu_meta"], strict=True)
        if s is not None
    ]
    x, y = zip(*pairs, strict=True)
    figure.add_scatter(x=x, y=y, mode="markers", name=name,
                       marker={"size": 7,
                               "color": ("#7f7f7f", *figures.PALETTE)[n]})  # fmt: skip
figure.add_hline(y=0, line={"color": "#7f7f7f", "width": 1})
figures.describe(
    figure, "Change of mu over its signal; in one run the slope is downwards"
)

# %% [markdown]
# **How to read it.** Move the slider through the quantities, then compare with the
# second figure. Each bug leaves exactly one fingerprint that no other bug leaves.
#
# **What would prove it wrong.** A diagnosis that fits one plot and contradicts another.
#
# ### Exercise 9 · Diagnosis
# ●●● · 20 minutes
#
# <details><summary>Hint 1</summary>With group advantages, the mean over answers of A
# is 0. What is then L_RL on-policy, if every answer weighs the same?</details>
# <details><summary>Hint 2</summary>What does a measured gradient's norm do from one
# measurement to the next, if it is really measured?</details>


# %% nbgrader={"schema_version": 3, "grade_id": "diagnosis", "grade": false, "locked": false, "solution": true}
def diagnosis():
    """A dict from 'A', 'B', 'C', 'D' to the bug's name, as written in bold above."""
    ### BEGIN SOLUTION
    return {
        "A": "mean of means",
        "B": "leaking validation",
        "C": "reversed meta sign",
        "D": "stale gradient",
    }
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_diagnosis", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("diagnosis", diagnosis).require()

# %% [markdown]
# ## Self-test
#
# 1. Why does no Hessian appear in $dU/d\mu$?
# 2. $\langle\nabla U,g_{SFT}\rangle<\langle\nabla U,g_{RL}\rangle$ (gradients of
#    losses). Does $\mu$ rise?
# 3. You double the validation rollouts and the signs get no better. What now?
# 4. Entropy is below $H^*$ and falls when $\mu$ rises. Which form steadies it?
# 5. $\mu$ sits at .05 for the last hundred steps. Name three causes.
#
# <details><summary>Answers</summary>
#
# 1. mu enters the step's gradient linearly, and only one step is unrolled.
# 2. Yes: the step goes against the gradients, so SFT's step helps more.
# 3. Average the training gradients: the direction is the noisy part.
# 4. The text's: below H* it lowers mu, which raises entropy.
# 5. RL really helps more, one step ahead; validation leaks; the sign of a term is
#    reversed; the gradient is stale. Its plot alone cannot tell.
#
# </details>
#
# ## What was left out
#
# Unrolls over several steps and implicit differentiation; and whether any of this beats
# a fixed $\mu$: notebook 04 looks, and notebook 05 decides.
