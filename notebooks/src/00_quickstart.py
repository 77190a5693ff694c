# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Quickstart: a weight that learns
#
# In five minutes you train a small language model with AMFT, watch its one interesting
# number move, and see on problems it never trained on whether that was any use.
#
# **You will be able to**
#
# * say what AMFT mixes, and what it learns;
# * read the four plots that tell what a run did;
# * say what one run can show, and what it cannot.
#
# *A minute to run on one CPU core, ten to read, under 1 GB of memory. You need: what a
# language model is. No exercises here; they begin in notebook 01.*
#
# ## What AMFT asks
#
# There are two ways to teach a language model to solve problems.
#
# * **Imitate** (SFT): show it expert answers and make them likelier. Quick and steady,
#   but it learns the examples as much as the skill.
# * **Explore** (RL): let it try, and make the tries that worked likelier. It learns
#   what really works, but only once something does: if every try fails, there is
#   nothing to learn from.
#
# AMFT does both in every step,
#
# $$L = (1-\mu)\,L_{RL} + \mu\,L_{SFT},$$
#
# and asks: **can $\mu$ itself be learned?** Its answer is a *meta-gradient*. Keep some
# problems aside, and every few steps measure which way $\mu$ should have moved for the
# *next* step to solve more of them. The default of this game, `amft_full`, asks the
# same of every *token* that it could imitate (the method `amft` learns $\mu$ alone, as
# the paper has it).
#
# > AMFT is arXiv 2508.06944. Its authors withdrew it in October 2025 (version 3). We
# > read its abstract and its released code ourselves; equations and numbers of its
# > body, the formula above among them, reached us through other people's notes. This
# > kit is an independent implementation, and its results are its own.

# %%
from amft_lite import use_plotly
from amft_lite.provenance import versions

use_plotly()
print(versions())

# %% tags=["parameters"]
METHOD = "amft_full"  # also: amft (mu alone), sft, rl, fixed, sft_then_rl, placebo, ...
SEED = 0
STEPS = 150
DEMONSTRATIONS = 100

# %% [markdown]
# ## The game
#
# *General Points*, with three cards: make the target number, using each card once.
# A prompt gives the values of J, Q and K (the *rule*), the target, and the cards.

# %%
from amft_lite import load_task

task = load_task("general_points")

for demonstration in task.demonstrations(3, seed=4):
    print(f"prompt  {demonstration.prompt}")
    print(f"expert  {demonstration.completion}\n")

# %%
from amft_lite import figures
from amft_lite.tasks.cards import any_suits, draw_hand

hand = task.demonstrations(1, seed=4)[0].example
drawn = draw_hand(any_suits(hand.cards), width=300, seed=1)
figures.picture(drawn, "The first hand, drawn: " + " ".join(hand.cards))

# %% [markdown]
# (Our model gets the words; notebook 06 shows it the pictures.)
#
# The expert first reads the cards as numbers, then calculates step by step. Code checks
# an answer exactly: 1 if it is right, 0 if not, and it says why.

# %%
hand = task.demonstrations(1, seed=4)[0].example
values = " ".join(map(str, hand.values))

for answer in (
    task.demonstrations(1, seed=4)[0].completion,
    f"{values} {hand.values[0]} + {hand.values[1]} = 1",
    "24",
    "I think the answer is 24!",
):
    reward = task.reward(hand, answer)
    print(f"{reward.value:.0f}  {reward.reason:17} {answer}")

# %% [markdown]
# ## The learner
#
# Our model has 154 thousand parameters. It was *pretrained* on random arithmetic under
# random rules, which stands in for what a large model brings along. It can read cards
# and calculate, but it writes its steps in another order (`a b op = c`), so almost
# nothing it does is rewarded. That is on purpose: it makes exploring alone slow, as it
# is in real life when rewards are rare.

# %%
from amft_lite import load_policy
from amft_lite.evaluation import answers
from amft_lite.models import base_folder

policy, tokenizer = load_policy(base_folder("general_points"))
test_hands = task.prompts("test", 4, seed=1)

for hand, [text] in zip(
    test_hands,
    answers(policy, tokenizer, task, test_hands, 1, 1.0, seed=0),
    strict=True,
):
    print(f"{hand.prompt} {text}   [{task.reward(hand, text).reason}]")

# %% [markdown]
# ## One live run
#
# 15 steps of imitation to warm up, then 135 steps of AMFT. Each step takes 64
# demonstrations (there are only 100 in all) and 128 fresh answers of the model's own;
# every fifth step asks for 256 more answers to *validation* problems, for the
# meta-gradient. Every 15 steps we look at *test* problems, which the training never
# uses in any way.
#
# **Predict before you run:** $\mu$ starts at 0.3. Will it go up (more imitation) or
# down (more exploration)? When?

# %%
prediction = None  # "up" or "down"

# %%
from dataclasses import asdict

import torch
from amft_lite import AMFT, build_config, evaluate

torch.set_num_threads(1)  # two threads on a small busy machine are slower than one
config = build_config(
    {"method": METHOD, "seed": SEED, "steps": STEPS, "demonstrations": DEMONSTRATIONS}
)
amft = AMFT(policy, tokenizer, task, config)  # Algorithm 1; it trains `policy` in place


def look(step):
    """Success on 100 held-out problems of each kind, 4 answers each."""
    found = {
        split: evaluate(policy, tokenizer, task, split, 100, 4, greedy=False)
        for split in ("test", "ood_rule")
    }
    return {"step": step} | {k: asdict(e.success) for k, e in found.items()}


records, curve = [], [look(0)]
print("step   mu   reward  held-out success")
while amft.step < config.steps:
    records.append(amft.train_step())
    if amft.step % 15 == 0:
        curve.append(look(amft.step))
        now, reward = curve[-1]["test"], records[-1].get("reward", float("nan"))
        print(
            f"{amft.step:4} {records[-1]['mu']:5.2f} {reward:7.2f}"
            f"    {now['mean']:.2f}  [{now['low']:.2f}, {now['high']:.2f}]"
        )
moved = "up" if records[-1]["mu"] > config.mu_start else "down"
print("as predicted" if prediction == moved else f"mu went {moved}")

# %% [markdown]
# ## Figure 1: did it learn anything it was not shown?

# %%
from amft_lite import figures

figures.success_figure({METHOD: curve}, config.warmup_steps)

# %% [markdown]
# **How to read it.** (In JupyterLab, move the mouse over a figure: it becomes
# interactive.) Solid: new hands under the training rule, J = Q = K = 10. Dashed: hands
# under 11, 12, 13, a rule it never trained on. Bands: 95 % intervals over hands (400
# answers a point). Warm-up teaches the form of an answer. What comes after is the part
# worth having.
#
# **What would prove it wrong.** A solid line that stays inside the band it had when
# warm-up ended: then mixing taught nothing that transfers to new hands.

# %% [markdown]
# ## Figure 2: what did $\mu$ do?

# %%
figures.mu_figure({METHOD: records}, config.warmup_steps)

# %% [markdown]
# **How to read it.** The line is $\mu$. Each dot (right axis) is one meta-gradient, as
# a cosine of averaged gradients: above 0 it says "more imitation would have helped",
# below 0 "more exploration" (for reward, and for entropy while that is low). One dot is
# noisy; the controller adds them up, by at most 0.05 at a time.
#
# **What would prove it wrong.** Dots that scatter around 0 for the whole run: then the
# line is a random walk. Look again: is that what you see here? Run it with `METHOD =
# "amft"` ($\mu$ alone) and with `"placebo"`, where a coin decides in which direction
# each dot moves $\mu$, and compare.
# We come back to this below.

# %% [markdown]
# ## Figure 3: which tokens does it imitate?

# %%
from amft_lite.gate import BINS

gated = any("mu_gate_0" in record for record in records)
figures.gate_figure(records, BINS, config.warmup_steps) if gated else None

# %% [markdown]
# **How to read it.** Each token of an expert's answer has a weight, by how likely the
# model finds it (solid lines), times a weight of its whole answer, by how likely the
# model finds that among others (dashed). The rule starts sceptical: tokens with less
# than 15 % and the less likely half of the answers are not imitated. Each update asks
# whether the group's tokens would become likelier along the direction that raises
# validation reward, and moves its weight up or down.
#
# **What would prove it wrong.** The same success with weights that stay where they
# start, or that a coin moves (`METHOD = "gate_placebo"`). One run cannot tell; notebook
# 03 prints what several seeds say of either.

# %% [markdown]
# ## Figure 4: is it still exploring?

# %%
figures.entropy_figure({METHOD: records}, config.warmup_steps)

# %% [markdown]
# **How to read it.** Entropy is how undecided the model is at each token, in nats; 0
# means it would always give the same answer. The dashed line is $H^*$, its entropy when
# warm-up ended. Exploration lives off entropy, and training uses it up, imitation of
# few examples fastest of all (notebook 03).
#
# AMFT also has an *entropy term* that pushes $\mu$ when entropy leaves $H^*$. As
# transcribed, the paper's equation and its text give that push opposite signs. The
# default asks validation for it instead: while entropy is below $H^*$, a direction that
# raises entropy counts as better (notebook 03). `entropy_form` has all of them.
#
# **What would prove it wrong.** Entropy that falls while success falls too: the model
# has not become surer, only narrower.

# %% [markdown]
# ## The same four hands, after training

# %%
for hand, [text] in zip(
    test_hands,
    answers(policy, tokenizer, task, test_hands, 1, 0.0, seed=0),
    strict=True,
):
    print(f"{hand.prompt} {text}   [{task.reward(hand, text).reason}]")

# %% [markdown]
# ## One run proves nothing
#
# Another seed gives another curve. Here is what ten seeds say (`amft-lite study quick`;
# its result is part of this repository): the share of right answers on test problems at
# the end, with 95 % intervals over seeds. First $\mu$ alone, `amft`.

# %%
from amft_lite.results import shipped
from amft_lite.tables import comparison

result = comparison(shipped("quick"), "amft")
for name, row in result["means"].items():
    m = row["test"]
    print(
        f"{name:15} {m['mean']:.3f}  [{m['low']:.3f}, {m['high']:.3f}]  "
        f"n={m['n']} seeds"
    )
print("\ndifferences, paired by seed")
for other in ("sft", "rl", "placebo"):
    m = result["differences"][f"amft - {other}"]["test"]
    print(f"amft - {other:8} {m['mean']:+.3f}  [{m['low']:+.3f}, {m['high']:+.3f}]")

# %% [markdown]
# **How to read it.** An interval that leaves out 0 is a difference that is unlikely to
# be luck of the seed. When we ran this, two things came out, one of them sobering:
#
# 1. **Using both beats using either.** AMFT beats imitation alone and exploration alone
#    on new hands. But exploration alone had no warm-up here, and most of its gap may be
#    just that: with 15 steps of imitation first, five seeds no longer tell it from AMFT
#    (notebook 04).
# 2. **We see no sign that learning the mix did it.** The placebo moves $\mu$ as much in
#    total, in directions that a coin decides, and does as well (`amft - placebo`). In
#    this game, at this size, the meta-gradient's *information* earned nothing that we
#    could measure.
#
# That is a result about our small game, not about AMFT in general; and if success
# hardly depends on $\mu$ where both wander, no signal could show itself.
#
# So there is little to learn about *how much* to imitate here. Is there more in *what*?
# The default learns that, too. It was chosen on *validation* problems (in this game
# `amft-lite study default_game`, five seeds), because defaults must not be chosen on
# test problems; those were asked afterwards, with the ten seeds above. Beside it
# `cut_low`: a constant $\mu$ that never imitates a token which the model gives less
# than 15 %.

# %%
chosen_on = comparison(shipped("default_game"), "amft_gate-entropy")["differences"]
judged_on = comparison(shipped("quick"), "amft_full")["differences"]
for other in ("amft", "cut_low"):
    print(f"amft_full - {other}")
    before, after = (
        chosen_on[f"amft_gate-entropy - {other}"],
        judged_on[f"amft_full - {other}"],
    )
    for words, m in {
        "validation, 5 seeds": before["validation"],
        "test, 10 seeds": after["test"],
        "new rule, 10 seeds": after["ood_rule"],
    }.items():
        print(f"  {words:20} {m['mean']:+.3f}  [{m['low']:+.3f}, {m['high']:+.3f}]")

# %% [markdown]
# **How to read it.** On the problems that helped to choose it the default leads $\mu$
# alone by .032; on test problems by .015, and that interval includes 0. The two may
# agree, as wide as they are; but what is chosen for looking good tends to look better
# than it is, and hence there are two sets. Under the rule it was never trained on it
# leads by .017. *And a constant does as well as the default.* Its learned weights start
# where unlikely tokens are not imitated, and mostly stay there; weights that start open
# find that place by themselves (notebook 03). The cut was found by looking at them, and
# whoever knows it need not pay for learning it. Finding where, if anywhere, learning
# pays is what the rest of the kit is for.
#
# ## Self-test
#
# 1. $\mu=1$. Which method is that?
# 2. Every rollout of a step fails. Which part of the loss still teaches?
# 3. What does a placebo controller tell that SFT and RL as rivals cannot?
#
# <details><summary>Answers</summary>
#
# 1. Imitation alone: SFT.
# 2. The SFT part; RL's gradient is exactly 0 then.
# 3. Whether it is the *information* in the meta-gradient that helps, or just mixing.
#
# </details>
#
# ## What was left out
#
# Everything inside the box: the losses (notebooks 01, 02), the meta-gradient and its
# noise (03), the algorithm line by line and its ablations (04). Larger models.
#
# ## Where to go next
#
# * Change `METHOD`, `SEED` or `DEMONSTRATIONS` at the top and run all again.
# * `01_implicit_rewards` begins the course.
# * On the command line: `amft-lite run`, `amft-lite run --method rl`, then
#   `amft-lite report runs/lite-amft_full-seed0 runs/lite-rl-seed0`.
# * Read `amft_lite/loop.py`: Algorithm 1 in one file.
