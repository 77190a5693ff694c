# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Implicit rewards: what does imitation reward?
#
# AMFT adds two losses that seem to have nothing in common: one copies an expert, the
# other chases reward. Its claim is that imitation, too, maximises a reward, only an
# unspoken one. This notebook takes that claim apart.
#
# **You will be able to**
#
# * write SFT as the minimisation of a divergence, and say which constant is left out;
# * name the reward whose policy gradient *is* the SFT gradient, and why no sampler
#   could live off it;
# * say what $\mu$ multiplies, and why that is $\mu/(1-\mu)$ and not $\mu$;
# * read, token by token, which reward a trained model behaves as if it had been paid.
#
# *Half a minute to run on one CPU core, about 45 minutes with the exercises, under 1 GB
# of memory. You need: PyTorch, and what a language model is. Notebook 00 shows the
# game.*
#
# > **Sources.** AMFT is arXiv 2508.06944, withdrawn by its authors in version 3. We
# > read its abstract and its released code ourselves. The theory of this notebook (its
# > section 3.4) reached us through **second-hand notes**; what goes beyond them is
# > marked as ours.

# %%
import math

import torch
from amft_lite import figures, implicit_reward, use_plotly
from amft_lite.provenance import versions

use_plotly()
torch.set_num_threads(1)
print(versions())

# %% tags=["parameters"]
SEED = 0
SFT_STEPS = 60  # of the small live training in section 6
HANDS = 8  # hands to look at, token by token

# %% [markdown]
# ## A batch small enough for pencil and paper
#
# One prompt, `3 2 ; 5 |` (make 5 from 3 and 2), and four answers that a policy gave.
# All that a loss sees of them: the probability of each token, where the answer ends,
# and a reward. We carry these four through every formula of notebooks 01 to 03.

# %%
answers = ["3 + 2", "2 + 3", "3 - 2", "3 2"]
token_probs = torch.tensor(
    [[0.50, 0.4, 0.5], [0.25, 0.4, 0.5], [0.50, 0.5, 0.5], [0.50, 0.1, 1.0]]
)
mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]])
rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
logps = token_probs.log()  # log pi(token), in nats

for text, row, m, r in zip(answers, logps, mask, rewards, strict=True):
    shown = " ".join(
        f"{x:6.2f}" if on else "   pad" for x, on in zip(row, m, strict=True)
    )
    print(f"{text:6} log pi(token): {shown}   reward {r:.0f}")

# %% [markdown]
# ## 1 · The probability of a whole answer
#
# A language model writes token by token, so an answer's probability is a product:
# $\pi(y|x)=\prod_t \pi(y_t|x,y_{<t})$. Its log is a sum over the answer's own tokens.
#
# ### Exercise 1 · Sequence log-probability
# ●○○ · 5 minutes
#
# Answers have different lengths and are padded to one; `mask` is 1 on real tokens.
#
# <details><summary>Hint</summary>The log of a product is a sum. What must padding
# add?</details>


# %% nbgrader={"schema_version": 3, "grade_id": "sequence_logp", "grade": false, "locked": false, "solution": true}
def sequence_logp(logps, mask):
    """log pi(answer | prompt) of each answer.

    logps: [B, T] log pi(token), nats. mask: [B, T], 1 on the answer's tokens.
    Returns [B].
    """
    ### BEGIN SOLUTION
    return (logps * mask).sum(1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_sequence_logp", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("sequence_logp", sequence_logp).require()

# %% [markdown]
# By hand for the first answer: $.5\times.4\times.5=.10$. The package's `sequence_logps`
# and a product of plain numbers must agree.

# %%
for text, row, m, logp in zip(
    answers, token_probs, mask, implicit_reward.sequence_logps(logps, mask), strict=True
):
    by_hand = math.prod(p for p, on in zip(row.tolist(), m.tolist(), strict=True) if on)
    print(f"{text:6} product {by_hand:.4f}   exp(sum of logs) {logp.exp():.4f}")
    assert abs(by_hand - logp.exp().item()) < 1e-6

# %% [markdown]
# ## 2 · SFT minimises a divergence
#
# SFT makes the expert's answers likelier: it minimises the cross-entropy
# $-\mathbb{E}_{y\sim\pi_{demo}}[\log\pi_\theta(y)]$ (Eq. 2, second-hand). Add and
# subtract the demonstrator's own entropy and you get
#
# $$\underbrace{-\mathbb{E}_{demo}[\log \pi_\theta]}_{\text{what SFT minimises}}
# = \mathrm{KL}(\pi_{demo}\,\|\,\pi_\theta) +
# \underbrace{H(\pi_{demo})}_{\text{constant}} .$$
#
# The last term does not contain $\theta$. So the two have one minimum and one gradient,
# and the loss of a perfect imitator is **not 0 but $H(\pi_{demo})$**: an expert who
# solves a hand in two ways leaves half of the choice open.
#
# ### Exercise 2 · KL divergence
# ●●○ · 8 minutes
#
# $\mathrm{KL}(p\|q)=\sum_y p(y)\log\frac{p(y)}{q(y)}$. Mind the words that $p$ never
# says.


# %% nbgrader={"schema_version": 3, "grade_id": "kl_divergence", "grade": false, "locked": false, "solution": true}
def kl_divergence(p, q):
    """KL(p || q) in nats, for probabilities over the last dimension: [..., V] -> [...].

    Words with p = 0 add nothing.
    """
    ### BEGIN SOLUTION
    ratio = torch.where(p > 0, p / q, 1.0)
    return (p * ratio.log()).sum(-1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_kl_divergence", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("kl_divergence", kl_divergence).require()

# %% [markdown]
# Now move a policy over our four answers in a straight line towards a demonstrator who
# writes `3 + 2` and `2 + 3` half of the time each.

# %%
demo = torch.tensor([0.5, 0.5, 0.0, 0.0])
policy = torch.exp(implicit_reward.sequence_logps(logps, mask))
policy = policy / policy.sum()  # as if these four were all there is
way = torch.linspace(0, 0.999, 60)
path = (1 - way)[:, None] * policy + way[:, None] * demo
cross_entropy = -(demo * path.log()).sum(-1)
divergence = implicit_reward.kl_divergence(demo.expand_as(path), path)
figures.line_figure(
    "Cross-entropy is KL plus a constant", "share of the way to the demonstrator",
    "nats",
    {
        "cross-entropy, what SFT minimises": (way.tolist(), cross_entropy.tolist()),
        "KL(demo || policy)": (way.tolist(), divergence.tolist()),
        "their difference": (way.tolist(), (cross_entropy - divergence).tolist()),
    },
    "Two falling curves at a constant distance of log 2, the demonstrator's entropy",
)  # fmt: skip

# %% [markdown]
# **How to read it.** Both curves fall together; the distance stays $\log 2\approx .69$
# nats, the entropy of an expert with two equally good answers.
#
# **What would prove it wrong.** A difference that bends anywhere: then minimising one
# would not be minimising the other.

# %% [markdown]
# ## 3 · Forward, not reverse
#
# Which way round matters. SFT's divergence is $\mathrm{KL}(demo\|\pi)$, with the
# *expert* in the expectation: "forward". The KL penalty of RLHF is
# $\mathrm{KL}(\pi\|\pi_{ref})$, with the *policy* in it: "reverse". When the model
# family cannot match the expert, they fail in opposite ways.
#
# **Predict.** An expert has two separate habits. A model that can only have *one* bump
# is fitted by each divergence. Where does each put its bump? Write a word before you
# run on:

# %%
prediction = {"forward": None, "reverse": None}  # "on one habit" or "across both"

# %%
places = torch.arange(40.0, dtype=torch.float64)


def bump(centre, width):
    return torch.softmax(-((places - centre) ** 2) / (2 * width**2), -1)


expert = 0.6 * bump(11.0, 2.5) + 0.4 * bump(28.0, 2.5)
grid = [(c, w) for c in range(4, 36) for w in (2.0, 2.5, 3.0, 4.0, 6.0, 9.0)]
models = torch.stack([bump(*at) for at in grid])
kl = implicit_reward.kl_divergence
shown = {}
for name, weight in (("forward", 0.0), ("half and half", 0.5), ("reverse", 1.0)):
    forward, reverse = kl(expert.expand_as(models), models), kl(models, expert)
    shown[name] = grid[int(((1 - weight) * forward + weight * reverse).argmin())]
    print(f"{name:14} best bump at {shown[name][0]:2} with width {shown[name][1]}")
answer = {"forward": "across both", "reverse": "on one habit"}
print({k: "as predicted" if prediction[k] == v else v for k, v in answer.items()})

# %%
figure = figures.new_figure(
    "One bump for an expert with two habits", "answer", "probability"
)
figure.add_scatter(x=places.tolist(), y=expert.tolist(), name="expert",
                   line={"color": figures.COLOURS["grey"], "dash": "dot"})  # fmt: skip
for name, at in shown.items():
    figure.add_scatter(x=places.tolist(), y=bump(*at).tolist(), name=f"best by {name}",
                       line={"color": figures.PALETTE[0]})  # fmt: skip
figures.describe(
    figure, "A two-humped expert; the forward fit is one wide hump across both"
)
figures.add_slider(
    figure, "divergence", {name: [n + 1] for n, name in enumerate(shown)}
)

# %% [markdown]
# **How to read it.** Move the slider. Forward KL must give probability wherever the
# expert does, so it covers both habits and wastes probability on the gap, where the
# expert never goes. Reverse KL must not be where the expert is not, so it picks one
# habit.
#
# **What would prove it wrong.** A forward fit that leaves one habit nearly without
# probability: $\mathrm{KL}(p\|q)$ would be huge there.
#
# For AMFT: "imitation as a KL penalty" (second-hand notes of section 3.4) is true of
# the forward divergence. It *spreads* the policy over all the expert does. It is not
# RLHF's leash, which *narrows* the policy to what the reference finds likely.
#
# ### Exercise 3 · Estimating the reverse KL from samples
# ●●○ · 8 minutes
#
# RLHF codes estimate $\mathrm{KL}(\pi\|\pi_{ref})$ from the policy's own tokens. The
# plain $\log\pi-\log\pi_{ref}$ is right on average but often negative. With
# $d=\log\pi_{ref}-\log\pi$, the estimate $e^d-1-d$ is right on average *and* never
# negative (J. Schulman's "k3"; GRPO uses it).
#
# <details><summary>Hint</summary>Why is it unbiased? Under samples of π the mean of
# π_ref/π is 1, so the mean of e^d - 1 is 0.</details>


# %% nbgrader={"schema_version": 3, "grade_id": "reverse_kl_estimate", "grade": false, "locked": false, "solution": true}
def reverse_kl_estimate(logps, reference_logps):
    """KL(pi || pi_ref), one estimate for each token sampled from pi; any shape."""
    ### BEGIN SOLUTION
    d = reference_logps - logps
    return d.exp() - 1 - d
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_reverse_kl_estimate", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("reverse_kl_estimate", reverse_kl_estimate).require()

# %%
reference = torch.tensor([0.4, 0.3, 0.2, 0.1])
current = torch.tensor([0.6, 0.2, 0.15, 0.05])
drawn = torch.multinomial(
    current, 20_000, True, generator=torch.Generator().manual_seed(0)
)
a, b = current.log()[drawn], reference.log()[drawn]
k3 = implicit_reward.reverse_kl_estimate(a, b)
print(f"exact {kl(current, reference):.4f}")
print(
    f"k1    {(a - b).mean():.4f}, single estimates below 0: "
    f"{((a - b) < 0).float().mean():.0%}"
)
print(f"k3    {k3.mean():.4f}, smallest {k3.min():.4f}")

# %% [markdown]
# ## 4 · The reward hidden in SFT's gradient
#
# RL follows $\mathbb{E}_{y\sim\pi}[r(y)\nabla\log\pi(y)]$; SFT follows
# $\nabla\log\pi(y^*)$ for the demonstrated $y^*$. Is there a reward $r$ that makes the
# first equal the second, for *every* policy? Write the expectation out: let only $y^*$
# count, and its weight $\pi(y^*)r(y^*)$ be 1. (Any constant may be added to $r$, as
# $\mathbb{E}[\nabla\log\pi]=0$. Take the $r$ that is 0 for all other words.) (Ours, but
# not new: arXiv 2508.05629 makes the same point.)
#
# ### Exercise 4 · SFT's reward
# ●●○ · 8 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "imitation_reward", "grade": false, "locked": false, "solution": true}
def imitation_reward(probs, demonstrated):
    """r(y) with E_{y~pi}[r(y) grad log pi(y)] = grad log pi(y*), 0 for other words.

    probs: [B, V] next-token probabilities. demonstrated: [B], the index y*.
    Returns [B, V].
    """
    ### BEGIN SOLUTION
    chosen = torch.nn.functional.one_hot(demonstrated, probs.shape[-1])
    return chosen / probs
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_imitation_reward", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("imitation_reward", imitation_reward).require()

# %% [markdown]
# Do the two gradients agree? We take the toy policy's first token (`3` with probability
# .5, `2` with .25, and other words), ask autograd for both, and compare.

# %%
logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log().requires_grad_()
logp, expert_word = torch.log_softmax(logits, -1), torch.tensor([1])
(sft_gradient,) = torch.autograd.grad(logp[0, 1], logits, retain_graph=True)
reward = implicit_reward.imitation_reward(logp.exp(), expert_word).detach()
objective = (
    logp.exp() * reward
).sum()  # E[r], r held fixed: its gradient is E[r grad log pi]
(rl_gradient,) = torch.autograd.grad(objective, logits)
print("SFT gradient            ", [f"{x:+.3f}" for x in sft_gradient[0].tolist()])
print("policy gradient with r  ", [f"{x:+.3f}" for x in rl_gradient[0].tolist()])
assert torch.allclose(sft_gradient, rl_gradient, atol=1e-6)

# %%
believed = torch.logspace(-3, 0, 61)
figure = figures.line_figure(
    "The reward that SFT pays", "probability the policy gives the expert's word",
    "reward, or its spread",
    {
        "reward of the expert's word, 1 / pi": (
            believed.tolist(), (1 / believed).tolist()
        ),
        "standard deviation over samples": (
            believed[:-1].tolist(), (1 / believed[:-1] - 1).sqrt().tolist()
        ),
    },
    "Both curves fall as pi grows, on log axes; the reward from 1000 to 1",
)  # fmt: skip
figure.update_xaxes(type="log").update_yaxes(type="log")
figure

# %% [markdown]
# **How to read it.** Both axes are logarithmic. A word the policy already says is paid
# about 1; one it gives one chance in a thousand, 1000; nothing else is paid at all. The
# mean of this reward is always 1; its spread explodes where the policy disbelieves the
# expert.
#
# **What would prove it wrong.** An agreement of the two gradients for one policy only.
# Change the probabilities two cells above: the assertion must hold for all of them.
#
# Two consequences. SFT never *tries*: it computes this expectation exactly, so the
# spread costs it no samples. (Its gradient does not explode, either: $\pi r=1$. What
# explodes is the noise of a sampler that would have to *find* $y^*$.) And it pulls at
# every unlikely word of the expert, whether or not that word mattered for being right.
# RL's reward is bounded and says what was worth it, but has to be found by sampling.

# %% [markdown]
# ## 5 · What does $\mu$ multiply?
#
# By the notes, section 3.4 calls $\mu$ a *time-varying Lagrange multiplier* of the KL
# constraint. A multiplier stands before the constraint while the objective keeps weight
# 1: $L_{RL}+\lambda\,\mathrm{KL}$. AMFT's loss is $(1-\mu)L_{RL}+\mu L_{SFT}$. Divide
# by $(1-\mu)$.
#
# ### Exercise 5 · The multiplier
# ●○○ · 3 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "multiplier", "grade": false, "locked": false, "solution": true}
def multiplier(mu):
    """The weight of L_SFT when L_RL has weight 1. mu: a float in [0, 1)."""
    ### BEGIN SOLUTION
    return mu / (1 - mu)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_multiplier", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("multiplier", multiplier).require()

# %%
mus = torch.linspace(0.02, 0.98, 97)
figure = figures.line_figure(
    "mu and the multiplier it stands for", "mu", "weight of L_SFT if L_RL has weight 1",
    {
        "mu / (1 - mu)": (
            mus.tolist(), [implicit_reward.multiplier(m) for m in mus.tolist()]
        ),
        "mu itself": (mus.tolist(), mus.tolist()),
    },
    "mu/(1-mu) rises from .02 to 49 on a log axis while mu itself stays below 1",
)  # fmt: skip
for mark in (
    0.05,
    0.5,
    0.8,
    0.95,
):  # the released bounds, our start, the released start
    figure.add_vline(x=mark, line={"color": "#7f7f7f", "width": 1, "dash": "dot"})
figure.update_yaxes(type="log")
figure

# %% [markdown]
# **How to read it.** Dotted: the released bounds .05 and .95, `amft`'s start .5,
# the released start .8. From .5 to .8 the multiplier goes from 1 to 4; from .8 to .95,
# from 4 to 19. A change of .05 in $\mu$ is small in the middle and large near the ends.
#
# **What would prove it wrong.** A $\mu$ at which the gradients of $(1-\mu)L_{RL}+\mu
# L_{SFT}$ and of $L_{RL}+\frac{\mu}{1-\mu}L_{SFT}$ point different ways.
#
# The picture of a multiplier has a second crack (ours). A Lagrange multiplier rises
# while its constraint is *violated* and falls when it is met. AMFT moves $\mu$ by
# validation reward and entropy: it never asks how far the policy is from the
# demonstrator. So "time-varying weight" is fair; "Lagrange multiplier" is a way of
# speaking. And as $(1-\mu)$ also shrinks the RL part, the length of the whole step
# changes with $\mu$. (Adam undoes most of that.)

# %% [markdown]
# ## 6 · Which reward was a real policy paid?
#
# A trained policy is, up to a term of the prompt alone, optimal for the reward
# $\beta\log\frac{\pi_{after}(y)}{\pi_{before}(y)}$ of the *whole answer*, under a KL
# leash of strength $\beta$ to where it started (DPO, arXiv 2305.18290, Eq. 5). Turned
# round: look at what training did, and you see what it behaved as if it had been paid.
# The log-ratio is a sum over tokens, and we look at its terms. (One term is an
# advantage rather than pay: it also credits a token for what it makes possible later.)
#
# ### Exercise 6 · Token by token
# ●●○ · 5 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "token_rewards", "grade": false, "locked": false, "solution": true}
def token_rewards(logps, reference_logps, mask, beta):
    """Implicit reward of each token; 0 on padding. [B, T] each -> [B, T]."""
    ### BEGIN SOLUTION
    return beta * (logps - reference_logps) * mask
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_token_rewards", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("token_rewards", token_rewards).require()

# %% [markdown]
# We train the shipped base (154 thousand parameters) on 100 expert answers to the card
# game, and ask which tokens of *new* expert answers became likelier.
#
# **Predict.** An answer reads `10 3 8 10 * 3 = 30 30 - 8 = 22`: the cards, then two
# steps. The base can calculate, but writes its steps as `10 3 * = 30`, operator after
# the numbers. Which tokens will show the largest implicit reward? The results after
# `=`, the operators, or the cards?

# %%
from amft_lite.tasks.cards import any_suits, draw_hand

figures.picture(draw_hand(any_suits(["J", "3", "8"]), width=300, seed=1),
                "Jack, three and eight: make 22")  # fmt: skip

# %%
from amft_lite import AMFT, build_config, load_policy, load_task
from amft_lite.batches import encode
from amft_lite.models import base_folder, completion_logits, token_logps

task = load_task("general_points")


def answer_logps(model, batch):
    """log pi of every answer token: [B, T]."""
    with torch.no_grad():
        found = completion_logits(
            model, batch.ids, batch.attention, batch.tokens.shape[1]
        )
    return token_logps(found, batch.tokens)


before, tokenizer = load_policy(base_folder("general_points"))
model, _ = load_policy(base_folder("general_points"))
sft = AMFT(model, tokenizer, task, build_config({"method": "sft", "seed": SEED}))
new = encode(tokenizer, task.demonstrations(200, seed=SEED + 1, split="test"))
seen = sft.expert_answers
for _ in range(SFT_STEPS):
    sft.train_step()
paid_new, paid_seen = (
    implicit_reward.implicit_rewards(
        answer_logps(model, batch), answer_logps(before, batch), batch.mask
    )
    for batch in (new, seen)
)
print(f"an answer's implicit reward: trained on {paid_seen.sum(1).mean():.1f} nats, "
      f"new {paid_new.sum(1).mean():.1f} nats")  # fmt: skip

# %%
words = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in new.tokens]
words = [["end" if word == "<eos>" else word for word in row] for row in words]
figure = figures.new_figure("Implicit reward, token by token", "token", "nats", 420)
for n in range(HANDS):
    values = paid_new[n].tolist()
    figure.add_bar(
        x=[f"{place + 1}: {word}" for place, word in enumerate(words[n])], y=values,
        marker={"color": [figures.PALETTE[0 if v >= 0 else 4] for v in values]},
        showlegend=False,
    )  # fmt: skip
figures.describe(
    figure, "Bars for the tokens of one answer; the first operator towers over the rest"
)
prompts = [d.prompt for d in task.demonstrations(200, seed=SEED + 1, split="test")]
figures.add_slider(figure, "hand", {prompts[n]: [n] for n in range(HANDS)})

# %% [markdown]
# **How to read it.** One bar a token of an expert answer the model has never seen.
# Blue: training made it likelier; red: less likely. Move the slider through hands.
#
# **What would prove it wrong.** Bars of one height along the answer: then imitation
# would have paid all tokens alike.

# %%
places = range(paid_new.shape[1])
kinds = (
    "card card card number operator number = result number operator number = result end"
)
lines = {
    name: (list(places), paid.mean(0).tolist())
    for name, paid in (("new hands", paid_new), ("hands it was trained on", paid_seen))
}
figure = figures.line_figure(
    "Implicit reward by place in the answer", "", "nats, mean over answers", lines,
    "Both peak at the first operator; hands trained on lie higher at choices",
    markers=True,
)  # fmt: skip
figure.update_xaxes(
    tickvals=list(places),
    ticktext=[f"{n + 1} {k}" for n, k in enumerate(kinds.split())],
)
for place in places:
    spread = paid_new[:, place].std() / math.sqrt(len(paid_new))
    print(f"{place + 1:2} {kinds.split()[place]:9} {paid_new[:, place].mean():+6.2f} "
          f"+- {1.96 * spread:.2f}   n = {len(paid_new)} answers")  # fmt: skip
figure

# %% [markdown]
# **How to read it.** The same, averaged by place; the table gives 95 % intervals over
# answers. On new hands (blue) almost all of the reward sits on one token, the first
# operator: there the base's habit and the expert's *form* part. After it, the rest
# follows by itself. Copying the cards and doing the sums, which the base could do
# before, earn nothing (the results even lose a little).
#
# Now the other curve. On hands it was trained on, the model was paid about 1 nat more
# for *which* numbers to take first (4 and 6) and which operators to choose (5 and 10).
# Those are the tokens that decide whether an answer is right, and there imitation has
# learned the hands rather than the skill. That is memorising, seen token by token.
#
# **What would prove it wrong.** Large rewards at the results (8 and 13): then imitation
# would have taught arithmetic. Two curves that coincide everywhere: then nothing was
# memorised. Try `SFT_STEPS = 15`, the length of AMFT's warm-up, and 300.
#
# So here imitation mostly rewards *how to say it*. *What* to say on a new hand is left
# to be found by trying, which is RL's part: notebook 02.

# %% [markdown]
# ## Self-test
#
# 1. A perfect imitator's SFT loss is .9 nats a token. Is something wrong?
# 2. Why does SFT's hidden reward make unlikely tokens so loud?
# 3. $\mu$ goes from .9 to .95. By what factor does the multiplier grow?
# 4. Which divergence lets a model drop one of the expert's two habits without a fine?
# 5. An implicit reward is large on a token. Does that token make the answer right?
#
# <details><summary>Answers</summary>
#
# 1. No: the loss cannot fall below the expert's entropy; .9 nats may be real choice.
# 2. It divides by the policy's own probability of the token. (The gradient stays
#    bounded.)
# 3. From 9 to 19: by 2.1.
# 4. The reverse one, KL(policy || expert).
# 5. Not necessarily. It says what training changed, not what a grader pays.
#
# </details>
#
# ## What was left out
#
# The term of DPO's reward that depends on the prompt alone (it cancels between answers
# to one prompt); the paper's Appendix A, which we have not seen; and importance
# weights, which a loss needs when it learns from another policy's samples. Next:
# `02_sft_and_rl_losses`.
