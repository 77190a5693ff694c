# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · The two losses: imitation and exploration
#
# Before mixing two losses one should know both: what they average over, where their
# gradients stop, and what each of them learns. Most bugs of this field live on this
# page.
#
# **You will be able to**
#
# * say what a loss is the mean *of*, and what changes when it is not;
# * go from REINFORCE to PPO's clip, and draw the clip in all four quadrants;
# * compute advantages two ways: from a group of rollouts, and from a critic (GAE);
# * read entropy, and say what it is a symptom of;
# * tell memorising from generalising in a plot.
#
# *Half a minute to run on one CPU core, about 75 minutes with the exercises, under 1 GB
# of memory. You need notebook 01's toy batch; it is repeated here.*
#
# > **Sources.** Eq. 1 and 2, and that AMFT's RL loss is PPO-clip with a value function,
# > and its SFT loss the plain negative log-likelihood, reached us through **second-hand
# > notes** of arXiv 2508.06944 (withdrawn in version 3). The released code, read
# > first-hand, contains no working rollouts. PPO: arXiv 1707.06347. GAE: 1506.02438.
# > GRPO: 2402.03300.

# %%
import torch
from amft_lite import figures, objectives, use_plotly
from amft_lite.provenance import versions

use_plotly()
torch.set_num_threads(1)
print(versions())

# %% tags=["parameters"]
CLIP_RANGE = 0.2  # PPO's epsilon
EPOCHS = (1, 2, 4)  # optimiser steps on one batch of rollouts, section 3
STEPS = 12  # training steps of each of those short runs

# %% [markdown]
# ## The toy batch again
#
# Prompt `3 2 ; 5 |`, four sampled answers, their token probabilities and rewards.

# %%
answers = ["3 + 2", "2 + 3", "3 - 2", "3 2"]
token_probs = torch.tensor(
    [[0.50, 0.4, 0.5], [0.25, 0.4, 0.5], [0.50, 0.5, 0.5], [0.50, 0.1, 1.0]]
)
mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]])
rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
logps = token_probs.log()

# %% [markdown]
# ## 1 · Imitation: a mean, but of what?
#
# $L_{SFT}=-\mathbb{E}[\log\pi_\theta(y|x)]$ (Eq. 2). In code an expectation becomes a
# mean, and there are three candidates: the sum over all tokens (*sum*), the mean over
# all tokens (*token mean*), or the mean over answers of each answer's own mean (*mean
# of means*).
#
# **Predict.** Answer four has two tokens, the others three. Under which of the three
# does one of its tokens weigh more than one of the others' tokens?

# %%
prediction = None  # "sum", "token mean" or "mean of means"

# %%
nll = -logps
ways = {
    "sum": mask.float(),
    "token mean": mask / mask.sum(),
    "mean of means": mask / mask.sum(1, keepdim=True) / len(mask),
}
for name, weight in ways.items():
    long, short = weight[0, 0].item(), weight[3, 0].item()
    loss = (nll * weight).sum().item()
    print(f"{name:14} loss {loss:5.2f}   a token of a long answer weighs {long:.3f}, "
          f"of the short one {short:.3f}")  # fmt: skip
print(
    "as predicted" if prediction == "mean of means" else "mean of means: 1/8, not 1/12"
)

# %% [markdown]
# This repository takes the token mean everywhere, for SFT and for RL, over the *whole*
# batch. (A mean of means is a choice as well, and a legitimate one. The trap is to mix
# the two without knowing. A third-party study, arXiv 2604.23747 as transcribed, traces
# published SFT baselines that were too weak to just such a loss, and to a gradient
# accumulation bug.)
#
# ### Exercise 1 · The SFT loss
# ●○○ · 5 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "sft_loss", "grade": false, "locked": false, "solution": true}
def sft_loss(logps, mask):
    """Eq. 2 as a token mean over the batch. logps, mask: [B, T]. Returns a scalar."""
    ### BEGIN SOLUTION
    return -(logps * mask).sum() / mask.sum()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_sft_loss", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("sft_loss", sft_loss).require()

# %%
mine = -(logps * mask).sum() / mask.sum()  # the draft
package = objectives.sft_loss(logps, mask)
print(f"draft {mine:.4f}   package {package:.4f}   by hand "
      f"{(2.303 + 2.996 + 2.079 + 2.996) / 11:.4f}")  # fmt: skip
assert torch.allclose(mine, package)

# %% [markdown]
# How far apart can they be? Take one answer of 4 tokens and one of $n$, and ask what
# share of the whole gradient the short answer gets.

# %%
lengths = list(range(4, 65))
figures.line_figure(
    "How much say has a 4-token answer?", "length of the other answer, tokens",
    "share of the loss's weight on the short answer",
    {
        "token mean": (lengths, [4 / (4 + n) for n in lengths]),
        "mean of means": (lengths, [0.5] * len(lengths)),
    },
    "The short answer's share falls from .5 to .06 under a token mean only",
)  # fmt: skip

# %% [markdown]
# **How to read it.** Right end: a 4-token answer next to one of 64 tokens. Under the
# token mean it has a seventeenth of the say; under the mean of means still half, so
# each of its tokens is sixteen times as loud. Where wrong answers are short, that
# shapes what is learned.
#
# **What would prove it wrong.** A batch of equal lengths in which the two losses
# differ. (They cannot: this is why such a bug can hide. In our card game nearly all
# answers have 14 tokens.)
#
# ### Exercise 2 · Accumulation
# ●●○ · 8 minutes
#
# Memory is short, so the batch is cut into pieces, each is backpropagated alone, and
# the gradients add up. Scale each piece so that the *sum* is exactly the gradient of
# the whole.
#
# <details><summary>Hint</summary>Which denominator does a token mean over the whole
# batch have? Every piece needs that one.</details>


# %% nbgrader={"schema_version": 3, "grade_id": "accumulated_losses", "grade": false, "locked": false, "solution": true}
def accumulated_losses(pieces, masks):
    """One loss a micro-batch; their gradients add up to that of sft_loss on the batch.

    pieces: list of logps [b_i, T]. masks: list of [b_i, T]. Returns one loss a piece.
    """
    ### BEGIN SOLUTION
    total = sum(mask.sum() for mask in masks)
    return torch.stack(
        [-(x * mask).sum() / total for x, mask in zip(pieces, masks, strict=True)]
    )
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_accumulated_losses", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("accumulated_losses", accumulated_losses).require()

# %% [markdown]
# ## 2 · Exploration: REINFORCE and its advantages
#
# RL maximises $J=\mathbb{E}_{y\sim\pi}[R(y)]$ (Eq. 1: $R$ is 1 if a checker accepts the
# answer, else 0). The sample itself depends on $\theta$, so we use
# $\nabla\pi=\pi\nabla\log\pi$:
#
# $$\nabla J=\mathbb{E}_{y\sim\pi}\big[(R(y)-b)\,\nabla\log\pi(y)\big].$$
#
# Any baseline $b$ that does not depend on $y$ leaves the expectation as it is, because
# $\mathbb{E}[\nabla\log\pi]=0$, and may shrink the noise. GRPO subtracts the mean
# reward of the prompt's own group of rollouts, and divides the difference by the
# group's spread.
#
# ### Exercise 3 · Group advantages
# ●●○ · 8 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "group_advantages", "grade": false, "locked": false, "solution": true}
def group_advantages(rewards, group_size):
    """(reward - its group's mean) / (the group's sample standard deviation + 1e-4).

    rewards: [B], consecutive runs of group_size belong to one prompt. Returns [B].
    """
    ### BEGIN SOLUTION
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).view(-1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_group_advantages", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("group_advantages", group_advantages).require()

# %%
advantages = objectives.group_advantages(rewards, 4)
for text, r, a in zip(answers, rewards, advantages, strict=True):
    print(f"{text:6} reward {r:.0f}   advantage {a:+.4f}")
print("by hand: (1 - 1/2) / (sqrt(1/3) + 1e-4) = +0.8659")
print(
    "a group of equal rewards:", objectives.group_advantages(torch.ones(4), 4).tolist()
)

# %% [markdown]
# The last line is the weakness of all such methods: where every rollout fails, or every
# one succeeds, there is nothing to learn. A base that is almost never right gives
# almost no gradient. This is where demonstrations come in.
#
# ### Exercise 4 · REINFORCE
# ●●○ · 8 minutes
#
# The gradient of $\log\pi(y)$ is a *sum* over the answer's tokens, so here the tokens
# are summed and the answers averaged. And advantages are data: no gradient flows into
# them.


# %% nbgrader={"schema_version": 3, "grade_id": "policy_gradient_loss", "grade": false, "locked": false, "solution": true}
def policy_gradient_loss(logps, advantages, mask):
    """Minus the mean over answers of A * log pi(answer). Returns a scalar.

    logps, mask: [B, T]. advantages: [B], data (no gradient).
    """
    ### BEGIN SOLUTION
    return -(advantages.detach() * (logps * mask).sum(1)).mean()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_policy_gradient_loss", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("policy_gradient_loss", policy_gradient_loss).require()

# %% [markdown]
# Is it unbiased, and what does a baseline buy? Take a policy over five answers (our
# four, and "anything else" with reward 0), whose exact gradient we know. **Predict:**
# add a constant to all rewards. What happens to the noise of the estimate, with and
# without a baseline?

# %%
probs = torch.tensor([0.10, 0.05, 0.125, 0.05, 0.675], dtype=torch.float64)
pay = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
exact = probs * (pay - probs @ pay)  # d E[R] / d logits of a softmax
source = torch.Generator().manual_seed(0)
drawn = torch.multinomial(probs, 8 * 4000, True, generator=source).view(4000, 8)
score = torch.eye(5, dtype=torch.float64)[drawn] - probs  # grad log pi, [4000, 8, 5]


def spread(constant, baseline):
    """Noise of the 8-rollout estimate, as a share of the exact gradient's length."""
    r = pay[drawn] + constant
    if baseline == "leave one out":
        r = objectives.leave_one_out_advantages(r.flatten(), 8).view(4000, 8)
    elif baseline == "group mean":
        r = r - r.mean(1, keepdim=True)
    estimates = (r.unsqueeze(-1) * score).mean(1)
    return ((estimates - estimates.mean(0)).norm(dim=1).mean() / exact.norm()).item()


constants = [x / 4 for x in range(-4, 9)]
figures.line_figure(
    "Noise of a policy gradient from 8 rollouts", "constant added to every reward",
    "noise, in lengths of the exact gradient",
    {b: (constants, [spread(c, b) for c in constants])
     for b in ("no baseline", "group mean", "leave one out")},
    "Without a baseline the noise grows on both sides; with one it is flat",
    markers=True,
)  # fmt: skip

# %% [markdown]
# **How to read it.** Without a baseline the noise depends on where zero was put: paying
# 2 and 1 in place of 1 and 0 makes learning far noisier. With one, the constant
# cancels. Note the left axis: from eight rollouts the noise is nearly as long as the
# signal. (Near -.4 no baseline does even better: against noise alone the best constant
# is not the mean reward, .15.)
#
# **What would prove it wrong.** A baseline that changes the *mean* of the estimates.
# The group mean does, slightly: it holds the answer's own reward and shrinks the
# gradient to $(n-1)/n$. "Leave one out" does not.

# %%
for baseline in ("no baseline", "group mean", "leave one out"):
    r = pay[drawn]
    if baseline == "group mean":
        r = r - r.mean(1, keepdim=True)
    elif baseline == "leave one out":
        r = objectives.leave_one_out_advantages(r.flatten(), 8).view(4000, 8)
    mean = (r.unsqueeze(-1) * score).mean((0, 1))
    ratio = (mean @ exact) / (exact @ exact)
    print(f"{baseline:14} mean estimate, in exact gradients: {ratio:.3f}")

# %% [markdown]
# ## 3 · PPO's clip
#
# Rollouts are dear, so one wants several optimiser steps on one batch. From the second
# step on the policy is no longer the one that sampled, and the ratio
# $r=\pi_\theta(y_t)/\pi_{old}(y_t)$ corrects for it. PPO stops the pull once a token
# has moved far enough:
#
# $$L_{RL}=-\,\mathrm{mean}\;\min\big(rA,\
# \mathrm{clip}(r,1-\epsilon,1+\epsilon)\,A\big).$$
#
# **Predict**, before the figure: four cases, $A>0$ or $A<0$, and $r$ above $1+\epsilon$
# or below $1-\epsilon$. In which two is the gradient cut off?

# %%
prediction = None  # for example {("+", "above"), ("-", "above")}

# %%
ratios = [0.4 + n / 100 for n in range(121)]
figure = figures.new_figure("PPO's surrogate (to be maximised)", "ratio r", "objective")
for a in (1.0, -1.0):
    r = torch.tensor(ratios)
    clipped = torch.minimum(r * a, r.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE) * a)
    figure.add_scatter(x=ratios, y=(r * a).tolist(), name="r A, not clipped",
                       line={"color": "#7f7f7f", "dash": "dot"})  # fmt: skip
    figure.add_scatter(x=ratios, y=clipped.tolist(), name="PPO",
                       line={"color": figures.PALETTE[0]})  # fmt: skip
for edge in (1 - CLIP_RANGE, 1 + CLIP_RANGE):
    figure.add_vline(x=edge, line={"color": "#7f7f7f", "width": 1, "dash": "dot"})
figures.describe(
    figure, "For A = +1 PPO's objective is flat above 1.2 and rises below it"
)
cut = {("+", "above"), ("-", "below")}
print("as predicted" if prediction == cut else "cut off: A > 0 above, and A < 0 below")
figures.add_slider(figure, "advantage", {"+1 (good)": [0, 1], "-1 (bad)": [2, 3]})

# %% [markdown]
# **How to read it.** Flat means no gradient. $A=+1$: flat *above* $1.2$; a good token
# that became likelier has had enough. Below $.8$ the line still rises: a good token
# that fell must come back, however far it fell. $A=-1$ is its mirror image.
#
# **What would prove it wrong.** A slope at $A=-1$, $r=.5$. A common bug has just that:
# it takes the *maximum* for $A<0$. On-policy, with one step a batch, $r=1$ and it never
# shows.
#
# ### Exercise 5 · PPO-clip
# ●●● · 12 minutes
#
# A token mean; no gradient into `old_logps` or `advantages`; the minimum for both
# signs.


# %% nbgrader={"schema_version": 3, "grade_id": "ppo_clip_loss", "grade": false, "locked": false, "solution": true}
def ppo_clip_loss(logps, old_logps, advantages, mask, clip_range):
    """Minus the token mean of min(r A, clip(r) A).

    logps, old_logps, mask: [B, T]; advantages: [B], one an answer. Returns a scalar.
    """
    ### BEGIN SOLUTION
    ratio = (logps - old_logps.detach()).exp()
    a = advantages.detach().unsqueeze(1)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    surrogate = torch.minimum(ratio * a, clipped * a)
    return -(surrogate * mask).sum() / mask.sum()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_ppo_clip_loss", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("ppo_clip_loss", ppo_clip_loss).require()

# %% [markdown]
# ### Exercise 6 · Clip fraction
# ●●○ · 6 minutes
#
# The share of tokens on which the clip acts is what one plots to see whether the steps
# are too long. Count the tokens *without gradient*, not all that left the range.


# %% nbgrader={"schema_version": 3, "grade_id": "clip_fraction", "grade": false, "locked": false, "solution": true}
def clip_fraction(ratio, advantages, mask, clip_range):
    """Share of unmasked tokens whose gradient the clip cuts off. Returns a scalar."""
    ### BEGIN SOLUTION
    a = advantages.unsqueeze(1)
    high = (a > 0) & (ratio > 1 + clip_range)
    low = (a < 0) & (ratio < 1 - clip_range)
    return ((high | low) * mask).sum() / mask.sum()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_clip_fraction", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("clip_fraction", clip_fraction).require()

# %% [markdown]
# Now live: the card game, 15 steps of imitation, then RL with 1, 2 and 4 optimiser
# steps on each batch of rollouts.

# %%
from amft_lite import AMFT, build_config, load_policy, load_task
from amft_lite.models import base_folder

task = load_task("general_points")


def short_run(epochs):
    """Clip fraction of STEPS steps of RL, after 15 of imitation."""
    policy, tokenizer = load_policy(base_folder("general_points"))
    settings = {"method": "sft_then_rl", "warmup_steps": 0, "inner_epochs": epochs}
    settings |= {
        "steps": 15 + STEPS,
        "switch": 15 / (15 + STEPS),
        "clip_range": CLIP_RANGE,
    }
    amft = AMFT(policy, tokenizer, task, build_config(settings))
    lines = [amft.train_step() for _ in range(15 + STEPS)][15:]
    return list(range(1, STEPS + 1)), [line["clip_fraction"] for line in lines]


runs = {f"{n} optimiser steps a batch": short_run(n) for n in EPOCHS}
figures.line_figure(
    "The clip acts from the second step on a batch", "training step of RL",
    "share of tokens without gradient, last inner step", runs,
    "One step a batch: always 0. Two: around one per cent. Four: several per cent",
    markers=True,
)  # fmt: skip

# %% [markdown]
# **How to read it.** Clip fraction in the *last* optimiser step on each batch. With one
# step a batch, $r=1$ and the clip never acts: PPO, GRPO and REINFORCE, all with token
# means, then share one gradient but for the scale of each group's advantages. This is
# this repository's default.
#
# **What would prove it wrong.** Anything but zeros in the first line.
#
# ## 4 · Advantages from a critic: GAE
#
# AMFT's algorithm (second-hand) uses a value function $V$ in place of groups. $V_t$ is
# the critic's hope *before* token $t$ is written. With $\delta_t=r_t+\gamma
# V_{t+1}-V_t$, the surprise at token $t$, GAE adds up later surprises with fading
# weight: $A_t=\delta_t+\gamma\lambda A_{t+1}$. After the last token there is nothing:
# $V=0$.
#
# ### Exercise 7 · GAE
# ●●● · 12 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "gae", "grade": false, "locked": false, "solution": true}
def gae(rewards, values, mask, gamma, lam):
    """A_t = delta_t + gamma lam A_{t+1}; 0 on padding. All [B, T], right-padded."""
    ### BEGIN SOLUTION
    advantages = torch.zeros_like(values)
    after = torch.zeros_like(values[:, 0])
    running = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * after - values[:, t]
        running = mask[:, t] * (delta + gamma * lam * running)
        advantages[:, t] = running
        after = mask[:, t] * values[:, t]
    return advantages
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_gae", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("gae", gae).require()

# %%
words = "3 + 2 = 5 end".split()
values = torch.tensor([[0.2, 0.25, 0.3, 0.75, 0.8, 0.9]])  # the critic's hope
paid = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])  # the reward comes at the end
places = list(range(6))
lines = {
    f"lambda = {lam}": (
        places, objectives.gae(paid, values, torch.ones(1, 6), 1.0, lam)[0][0].tolist()
    )
    for lam in (0.0, 0.5, 0.95, 1.0)
}  # fmt: skip
figure = figures.line_figure(
    "Who gets the credit? Advantages of one right answer", "token", "advantage", lines,
    "lambda = 0 peaks where the critic's hope jumped; lambda = 1 falls from .8 to .1",
    markers=True,
)  # fmt: skip
figure.update_xaxes(tickvals=places, ticktext=words)
figure

# %% [markdown]
# **How to read it.** The critic's hope jumps from .3 to .75 once `2` is written. With
# $\lambda=0$ that token gets most of the credit: precise, but only as good as the
# critic. With $\lambda=1$ every token gets "final reward minus hope at that point":
# right on average, and noisy. $\lambda=.95$ lies between.
#
# **What would prove it wrong.** $\lambda=1$, $\gamma=1$ must be $1-V_t$ exactly: .8,
# .75, .7, .25, .2, .1. Read it off.
#
# The group advantage of section 2 gives one number to all tokens of an answer. It needs
# no critic, and it cannot tell which token did it.
#
# ## 5 · Entropy: how undecided is the policy?
#
# $H=-\sum_y\pi(y)\log\pi(y)$ for one token, in nats: 0 when it always says the same,
# the log of the vocabulary's size when it has no idea. RL lives off it (what is never
# tried is never rewarded), and training uses it up.
#
# ### Exercise 8 · Token entropy
# ●○○ · 5 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "token_entropy", "grade": false, "locked": false, "solution": true}
def token_entropy(logits):
    """Entropy of each next-token distribution, nats: [..., V] -> [...]."""
    ### BEGIN SOLUTION
    logps = torch.log_softmax(logits, -1)
    return -(logps.exp() * logps).sum(-1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_token_entropy", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("token_entropy", token_entropy).require()

# %%
even = objectives.token_entropy(torch.zeros(1, 8)).item()
sure = objectives.token_entropy(torch.tensor([[20.0, 0, 0, 0, 0, 0, 0, 0]])).item()
print(f"eight words, all alike: {even:.4f} = log 8;  one sure word: {sure:.6f}")

# %% [markdown]
# ## 6 · Memorising or generalising?
#
# Recorded runs (seeds 1 to 5; `make recordings` makes them again): success on the 100
# hands that were *demonstrated*, on *test* hands under the same rule, and under a *new
# rule* (J, Q, K = 11, 12, 13), along imitation, exploration, and their mix at $\mu=.5$.
#
# The same cards are another problem under the new rule: this hand is worth 10, 10 and 4
# in training and 13, 11 and 4 in the test.

# %%
from amft_lite.tasks.cards import any_suits, draw_hand

figures.picture(draw_hand(any_suits(["K", "J", "4"]), width=300, seed=1),
                "King, jack and four")  # fmt: skip

# %% [markdown]
# **Predict.** Which of the three lines of which method will be highest at the end?

# %%
from amft_lite.results import recording
from amft_lite.statistics import mean_interval

blocks = recording("runs")["blocks"]
kinds = {
    "demonstrated": "demonstrated hands",
    "test": "new hands",
    "ood_rule": "new rule",
}
names = {"sft": "imitation (sft)", "rl": "exploration (rl)", "fixed": "mix, mu = .5"}
figure = figures.new_figure("Success along training, mean of 5 seeds", "training step",
                            "share of right answers")  # fmt: skip
for method in names:
    curves = [b["curve"] for b in blocks if b["name"] == method]
    steps = [point["step"] for point in curves[0]]
    for place, kind in enumerate(kinds):
        stats = [mean_interval([c[i][kind] for c in curves]) for i in range(len(steps))]
        shade = figures.PALETTE[place]
        figures.add_band(figure, steps, [s.low for s in stats], [s.high for s in stats],
                         shade, kind)  # fmt: skip
        figure.add_scatter(x=steps, y=[s.mean for s in stats], mode="lines+markers",
                           line={"color": shade}, name=kinds[kind])  # fmt: skip
figure.update_yaxes(rangemode="tozero")
figures.describe(figure, "Imitation: demonstrated hands rise far above new hands")
figures.add_slider(figure, "method", {
    title: list(range(6 * n, 6 * n + 6)) for n, title in enumerate(names.values())
})  # fmt: skip

# %%
for method, title in names.items():
    row = []
    for kind in kinds:
        values = [b["final"][kind] for b in blocks if b["name"] == method]
        row.append(f"{kind} {mean_interval(values)}")
    print(f"{title:17} " + "   ".join(row))

# %% [markdown]
# **How to read it.** Move the slider. The gap between demonstrated and new hands is
# memorising. Bands: 95 % intervals over five seeds, with Student's t.
#
# * *Imitation* climbs fastest on its own hands, then leaves the new ones behind: it
#   knows the examples.
# * *Exploration* starts late, because almost nothing it tries is paid. When it moves,
#   it moves on demonstrated and new hands nearly alike: it never saw which were
#   demonstrated.
# * *The mix* memorises nearly as much, and still gets further on new hands. Under the
#   new rule it gains nothing over exploration.
#
# **What would prove it wrong.** For exploration, a gap anywhere near imitation's. (It
# has a small one: the demonstrated hands are among those it trains on by reward.) For
# imitation, no gap at all.
#
# "SFT memorises, RL generalises" (Chu et al., arXiv 2501.17161) is then half of the
# story here: exploration alone generalises what little it has found. Whether a
# *learned* mix beats a fixed one is another question. Notebooks 03 and 04.
#
# ## Self-test
#
# 1. Your token-mean loss and a colleague's mean of means agree to the last digit. Why?
# 2. Eight rollouts, all wrong. What is the gradient of GRPO? Of SFT?
# 3. $A=-2$, $r=.5$, $\epsilon=.2$: in which direction does PPO push this token?
# 4. One optimiser step a batch. What does $\epsilon$ do?
# 5. Entropy falls while test success rises. A bad sign?
#
# <details><summary>Answers</summary>
#
# 1. All answers in the batch have one length.
# 2. Exactly 0; SFT's does not depend on rollouts.
# 3. In none: it is bad, and already much less likely.
# 4. Nothing: r = 1.
# 5. Not by itself: it decides itself for right answers. It is one where success falls
#    too.
#
# </details>
#
# ## What was left out
#
# KL penalties to a reference model; PPO's value clip (it is in
# `objectives.value_loss`); importance weights for expert answers in the RL loss (LUFFY
# and others); length penalties. Next: `03_meta_gradient_controller`.
