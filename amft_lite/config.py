"""Every setting of a run, typed, with its reason and its source; unknown names are refused.

Layers, later ones win: the defaults below, what the method brings along (`amft_lite.methods`), the
YAML file, ``--set key=value``. One flat list of keys, so that a recipe is as short as its
difference from the default. A run with the key `model` trains a real model through TRL; it has all
of `RunConfig` and the keys of `ModelConfig` besides.

Left out: what belongs to the launcher, such as sharding (`configs/launch/`).
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from amft_lite.methods import METHODS
from amft_lite.rivals import read_trace
from amft_lite.tasks import REGISTRY
from amft_lite.weighting import DIRECTIONS, ENTROPY_FORMS, RuleOptions

CONFIGS = Path(__file__).parent / "configs"

Method = Literal[tuple(METHODS)]
TaskName = Literal[tuple(REGISTRY)]
EntropyForm = Literal[ENTROPY_FORMS]
Direction = Literal[DIRECTIONS]
GateStart = Literal["sceptical", "open"]


class ConfigError(ValueError):
    """A setting that cannot be used; its text is one sentence for the person who gave it."""


@dataclass(frozen=True)
class RunConfig:
    """One run. "lite" marks values found good on the lite game in small exploratory runs."""

    method: Method = "amft"
    """What decides mu, tokens and prompts, see `amft_lite.methods`."""
    seed: int = 0
    """Feeds the choice and order of demonstrations, the order of prompts and all sampling."""

    # the task
    task: TaskName = "general_points"
    """General Points: 3 cards and any target (lite), or `general_points_classic`: 4 cards, 24;
    either with pictures: `general_points_vision`, `general_points_classic_vision`. `navigation`:
    directions through a city, 1 to 3 streets; `navigation_classic`: 2 to 4; `navigation_vision`:
    1 to 3, with pictures of the streets."""
    reward: Literal["binary", "shaped"] = "binary"
    """1/0 (Eq. 1 of the paper, second-hand notes) or the original game's table (Chu et al.)."""
    tries: int = 0
    """Answers to a problem of General Points, or at a point of navigation, with feedback between
    them; 0: the task's own, 1 and 2 (Chu et al.: 5 and 2)."""
    base: str = ""
    """Folder of the base model, or a name in data/bases/; empty: the one shipped for the task."""
    demonstrations: int = 100
    """Size of D_SFT. 100 of 903 training problems: scarce enough that imitation alone memorises."""
    wrong_demonstrations: float = 0.0
    """Share of D_SFT whose experts are wrong: they make another target (arithmetic: answer another
    question). For studies of bad demonstrations."""
    demonstrated_prompts: float = 0.0
    """Share of a step's prompts that are demonstrated problems (methods that look at a prompt and
    its demonstration together need some)."""

    # Algorithm 1
    steps: int = 150
    """Training steps T, warm-up included (lite; the paper's T is 500, second-hand)."""
    warmup_steps: int = 15
    """SFT steps W before the mix (lite; released configuration: 50)."""
    sft_batch: int = 64
    """Demonstrations a step (lite; released: 8)."""
    prompts_per_step: int = 16
    """Training prompts a step (lite)."""
    rollouts_per_prompt: int = 8
    """Answers sampled a prompt (8 in the paper, second-hand)."""
    temperature: float = 1.0
    """Of training rollouts; 1 keeps them on-policy."""
    lr: float = 5e-4
    """Adam's learning rate (lite; 1e-3 collapsed the policy, released: 1e-6 for a 7B model)."""
    beta1: float = 0.9
    """Adam."""
    beta2: float = 0.95
    """Adam; .95 as in language-model pretraining (lite)."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay."""
    max_grad_norm: float = 1.0
    """Clip of the combined gradient (released: 1.0)."""
    micro_batch: int = 0
    """Sequences a backward pass; 0 takes all at once. Changes memory, never the gradient."""

    # the RL loss
    advantage: Literal["group", "gae"] = "group"
    """Mean of the prompt's rollouts as baseline (GRPO), or a value head (Algorithm 1) with GAE."""
    advantage_scale: Literal["std", "none"] = "std"
    """Divide group advantages by their spread (GRPO) or not (Dr. GRPO)."""
    clip_range: float = 0.2
    """PPO's clip (released: 0.2)."""
    inner_epochs: int = 1
    """Optimiser steps a training step, on the same rollouts; the clip acts from the second on."""
    gamma: float = 1.0
    """GAE's discount (released: 1.0)."""
    gae_lambda: float = 0.95
    """GAE's lambda (released: 0.95, though GAE is not implemented there)."""
    value_lr: float = 1e-3
    """Adam's learning rate of the value head (lite)."""

    # mu
    mu_start: float = 0.5
    """mu before the first meta-gradient, and the constant of `fixed` (lite; released: 0.8)."""
    mu_min: float = 0.05
    """Lower bound of mu (released)."""
    mu_max: float = 0.95
    """Upper bound of mu (released)."""
    eta_mu: float = 1.0
    """Speed of mu a unit of cosine (lite)."""
    max_change: float = 0.05
    """Largest meta move of mu in one update (lite)."""
    meta_every: int = 5
    """Steps K between two meta-gradients (lite; released: 20)."""
    validation_prompts: int = 32
    """Held-out prompts a meta-gradient."""
    validation_rollouts: int = 8
    """Fresh answers a held-out prompt; 32 x 8 = 256 (more is wasted on minibatch noise, lite)."""
    ema_gradients: float = 0.9
    """Decay of the averages of g_SFT and g_RL (lite)."""
    ema_utility: float = 0.5
    """Decay of the average of grad U. With .7, coin flips left mu anywhere (sd .31, 400 seeds)."""
    direction: Direction = "adam"
    """d theta'/d mu by the difference of two Adam updates; sgd: -lr (g_SFT - g_RL), as in Eq. 5;
    naive: Adam as a fixed diagonal, a counter-example."""
    utility_rollouts: Literal["fresh", "training"] = "fresh"
    """Rollouts behind grad U: of held-out prompts, or those the step trains on (a known mistake:
    their noise is that of g_RL, and mu always falls). For ablations."""
    width: float = 0.5
    """Distance in mu of the two Adam updates whose difference is the direction."""
    trace_decay: float = 0.0
    """Decay of a trace of directions over meta-gradients, for a look further back than one step;
    0 for none (ours)."""
    expert_utility: float = 0.0
    """Weight, in the utility, of the log-likelihood a token of experts' answers to the validation
    prompts; 0 for reward alone (ours)."""
    entropy_form: EntropyForm = "off"
    """off, equation (+eta_H (H*-H), as printed), text (the reverse), gradient (ours: amft_full)."""
    eta_entropy: float = 0.05
    """eta_H of equation and text for our controller, mu a nat."""
    entropy_beta: float = 0.1
    """Weight of min(0, H - H*) in the utility, for `gradient`."""
    switch: float = 1 / 3
    """Share of all steps that sft_then_rl imitates."""
    chord_decay: float = 1 / 3
    """Share of steps after warm-up in which chord_mu falls (published: 200 of at most 1500)."""
    gate_threshold: float = 0.0
    """Methods that gate prompts imitate where at most this share of rollouts is right (HPT: 0 for
    Qwen, 2/8 for Llama)."""
    gate_start: GateStart = "sceptical"
    """Where amft_gate's weights begin: open, all at 1; sceptical, 0 for tokens of p < .15 and the
    less likely half of the demonstrations, until the meta-gradient asks for them (ours)."""
    eta_gate: float = 0.2
    """Speed of amft_gate's token weights a unit of agreement (ours)."""
    eta_trust: float = 0.2
    """Speed of amft_gate's weights of demonstrations (ours)."""
    trace: str = ""
    """Recorded mu of each step after warm-up, parted by spaces, for `replay`; `.9x45` is 45 times
    .9, and the last one stays."""
    published_lr: float = 1e-6
    """alpha of `published` and `official_code` (released)."""
    published_eta_mu: float = 1e-4
    """eta_mu of the same (released)."""
    published_eta_entropy: float = 5e-4
    """eta_H of the same (released)."""

    # measuring and keeping
    eval_prompts: int = 400
    """At most so many problems a split in an evaluation; 0 means all of them."""
    eval_samples: int = 8
    """Answers a prompt in an evaluation, temperature 1; attempts@5 needs at least 5."""
    eval_every: int = 15
    """Steps between two quick looks at held-out success, for the curve; 0 for none."""
    curve_prompts: int = 150
    """Prompts a split in such a look, 4 answers each."""
    save_every: int = 25
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    """How many checkpoints stay; at least 2, so that a damaged one has another before it."""
    threads: int = 1
    """Threads of torch; two threads on a busy small machine are many times slower than one."""

    def task_options(self) -> dict[str, Any]:
        """What the task is told besides `reward`."""
        options = {"wrong_demonstrations": self.wrong_demonstrations, "tries": self.tries}
        return {name: value for name, value in options.items() if value}

    def rule_options(self) -> RuleOptions:
        """The part of the settings that mu rules read."""
        names = [f.name for f in dataclasses.fields(RuleOptions)]
        return RuleOptions(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class ModelConfig(RunConfig):
    """A run of a real model through TRL. "ours" marks a choice that no source gives."""

    model: str = "tiny"
    """tiny (the task's base), smollm2 (`make smollm2`), a hub id, or a local folder; for tasks with
    pictures a vision-language model."""
    backend: Literal["transformers", "unsloth"] = "transformers"
    """Who loads the model; unsloth is optional, faster on one GPU, and experimental here."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4: frozen weights in 4 bits, doubly quantised (QLoRA, arXiv 2305.14314)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of matrix products. auto: bfloat16 on a GPU of compute capability 8 or more, float16 on an
    older one (T4), and on a CPU float32, or bfloat16 under nf4. Trained weights stay float32."""
    lora_rank: int = 16
    """r of the adapters on all linear layers but the output, of a vision-language model on those of
    its language model; 0 trains every weight (ours)."""
    lora_alpha: int = 32
    """Adapters count alpha / r times (ours: 2 r)."""
    lora_dropout: float = 0.0
    """0, so that the policy that samples is the one that learns (ours)."""
    gradient_checkpointing: Literal["on", "off"] = "on"
    """Forget activations between layers and compute them again: less memory, a third more time."""
    max_prompt_tokens: int = 512
    """Problems with longer prompts are left out (1024 in the LUFFY setting); pictures count."""
    max_new_tokens: int = 0
    """Longest answer, sampled or demonstrated, in tokens; 0 takes the task's own."""
    max_episode_tokens: int = 0
    """Longest dialogue, both sides; 0 takes the task's own, lengthened as max_new_tokens is."""
    accumulation: int = 1
    """Micro-batches: rollouts, demonstrations and validation answers of a process are each taken in
    so many backward passes. Changes memory, never the gradient."""
    processes: int = 1
    """Processes (one a GPU) that the launcher starts."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Of lr, after lr_warmup_steps (constant in the LUFFY setting)."""
    lr_warmup_steps: int = 0
    """Steps in which lr rises from 0; not Algorithm 1's warm-up, which is warmup_steps."""
    datasets: str = ""
    """For tasks of real data: a YAML file of data sets of yours (form: tasks/datasets.yaml)."""
    train_set: str = ""
    """For tasks of real data: name of the set to train on; empty takes the task's own."""
    test_sets: str = ""
    """For tasks of real data: names of test sets, parted by commas; empty takes the task's own."""
    chat: Literal["auto", "on", "off"] = "auto"
    """Wrap prompts in the tokenizer's chat template; auto: where it has one."""
    vllm: Literal["off", "colocate", "server"] = "off"
    """Who samples: the model itself, or vLLM on the same GPUs or behind an address (TRL's)."""
    vllm_memory: float = 0.3
    """Share of each GPU that vLLM takes under colocate (TRL's default)."""
    trust_remote_code: Literal["on", "off"] = "off"
    """Let the hub repository's own Python run here. Rarely needed; read it first."""

    def task_options(self) -> dict[str, Any]:
        tests = [name.strip() for name in self.test_sets.split(",") if name.strip()]
        options = {"datasets": self.datasets, "train": self.train_set, "tests": tests}
        return super().task_options() | {name: value for name, value in options.items() if value}

    def model_options(self) -> dict[str, Any]:
        """The part of the settings that `real_models.load_model` reads, as its arguments."""
        names = (
            "task model backend quantization dtype lora_rank lora_alpha lora_dropout "
            "gradient_checkpointing max_prompt_tokens max_new_tokens seed trust_remote_code"
        ).split()
        return {name: getattr(self, name) for name in names}


FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
MODEL_FIELDS = {f.name: f for f in dataclasses.fields(ModelConfig) if f.name not in FIELDS}
_TYPES = typing.get_type_hints(ModelConfig)
#: Settings of the plain loop that mean nothing beside `model`, and what to use instead.
_NOT_WITH_MODEL = {
    "base": "`model` names what to start from",
    "micro_batch": "`accumulation` splits a step",
    "demonstrated_prompts": "the trainer draws prompts from its own data set",
    "utility_rollouts": "it is an ablation of the plain loop",
    "expert_utility": "validation prompts have no experts there",
    "gate_threshold": "it belongs to methods of the plain loop",
    "threads": "the environment variable OMP_NUM_THREADS sets them",
}
_AT_LEAST = {
    "seed": 0, "tries": 0, "demonstrations": 1, "steps": 1, "warmup_steps": 0, "sft_batch": 1,
    "prompts_per_step": 1, "rollouts_per_prompt": 2, "micro_batch": 0, "inner_epochs": 1,
    "meta_every": 1, "validation_prompts": 1, "validation_rollouts": 2, "eval_prompts": 0,
    "eval_samples": 1, "eval_every": 0, "curve_prompts": 1, "save_every": 1,
    "keep_checkpoints": 2, "threads": 1, "weight_decay": 0.0, "eta_mu": 0.0, "eta_entropy": 0.0,
    "entropy_beta": 0.0, "expert_utility": 0.0, "eta_gate": 0.0, "eta_trust": 0.0,
    "published_eta_mu": 0.0, "published_eta_entropy": 0.0,
    "lora_rank": 0, "lora_alpha": 1, "max_prompt_tokens": 1, "max_new_tokens": 0,
    "max_episode_tokens": 0, "accumulation": 1, "processes": 1, "lr_warmup_steps": 0,
}  # fmt: skip
#: Numbers above these (a million for all others) are slips of the pen, and would only fail later.
_AT_MOST = {"seed": 10**12, "threads": 1024, "lr": 10.0, "value_lr": 10.0, "clip_range": 100.0,
            "lora_rank": 4096, "processes": 10_000, "tries": 20}  # fmt: skip
_ABOVE_ZERO = {
    "temperature", "lr", "max_grad_norm", "clip_range", "value_lr", "max_change", "width",
    "published_lr", "vllm_memory",
}  # fmt: skip
_SHARES = {
    "mu_start", "mu_min", "mu_max", "gamma", "gae_lambda", "ema_gradients", "ema_utility",
    "switch", "chord_decay", "gate_threshold", "vllm_memory", "wrong_demonstrations",
    "demonstrated_prompts",
}  # fmt: skip
_BELOW_ONE = {"beta1", "beta2", "lora_dropout", "trace_decay"}
#: Rules whose mu starts at mu_start and then stays between mu_min and mu_max. `fixed` and
#: amft_gate_only hold mu_start whatever the bounds; the others have a mu of their own.
_BOUNDED_RULES = (
    "amft meta_only entropy_only placebo published official_code nll_entropy amft_gate gate_placebo"
).split()


def _suggest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _typed(key: str, value: Any) -> Any:
    """`value` as the type of `key`, or a ConfigError. Text is read the way YAML reads it."""
    kind = _TYPES[key]
    if isinstance(value, str) and kind is not str and typing.get_origin(kind) is not Literal:
        try:
            value = float(value) if kind is float else int(value)
        except (ValueError, OverflowError):
            word = "a number" if kind is float else "a whole number"
            raise ConfigError(f"{key} must be {word}, not {value!r}.") from None
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if isinstance(value, bool) and "off" in allowed:  # YAML 1.1 reads a bare `off` as false
            value = "on" if value else "off"
        if value not in allowed:
            hint = _suggest(str(value), allowed)
            raise ConfigError(f"{key} must be one of {', '.join(allowed)}, not {value!r}{hint}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 10**300 else float("inf")
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", str: "text"}
        raise ConfigError(f"{key} must be {words[kind]}, not {value!r}.")
    return value


def _checked(key: str, value: Any) -> Any:
    """`value` if it is possible for `key`."""
    value = _typed(key, value)
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ConfigError(f"{key} must be a finite number, not {value}.")
    if key in _AT_LEAST and value < _AT_LEAST[key]:
        raise ConfigError(f"{key} must be at least {_AT_LEAST[key]}, not {value}.")
    most = _AT_MOST.get(key, 10**6)
    if isinstance(value, int | float) and value > most:
        raise ConfigError(f"{key} must be at most {most}, not {value}.")
    if key in _ABOVE_ZERO and value <= 0:
        raise ConfigError(f"{key} must be above 0, not {value}.")
    if key in _SHARES and not 0 <= value <= 1:
        raise ConfigError(f"{key} must lie between 0 and 1, not {value}.")
    if key in _BELOW_ONE and not 0 <= value < 1:
        raise ConfigError(f"{key} must be at least 0 and below 1, not {value}.")
    return value


def build(*layers: dict[str, Any]) -> RunConfig:
    """Settings from dicts, later ones winning; the method's own defaults lie beneath them all.

    A `ModelConfig` where `model` is given and not empty, else a `RunConfig`.

    Raises:
        ConfigError: unknown key, wrong type, impossible value, or values that contradict.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in _TYPES:
                hint = _suggest(str(key), _TYPES) or "; `amft-lite run --help` lists the keys."
                raise ConfigError(f"there is no setting called {key!r}{hint}")
            given[key] = _checked(key, value)
    method = given.get("method", RunConfig.method)
    given = {**METHODS[method].defaults, **given}
    if given.get("model"):
        config = ModelConfig(**given)
        _check_model(config)
    else:
        given.pop("model", None)
        if stray := [key for key in given if key in MODEL_FIELDS]:
            raise ConfigError(
                f"{stray[0]} belongs to runs of a real model; name one, e.g. --set model=smollm2."
            )
        config = RunConfig(**given)
    if config.warmup_steps > config.steps:
        raise ConfigError(
            f"warmup_steps ({config.warmup_steps}) must not exceed steps ({config.steps})."
        )
    if config.mu_min > config.mu_max:
        raise ConfigError(f"mu_min ({config.mu_min}) must not exceed mu_max ({config.mu_max}).")
    bounded = METHODS[method].rule in _BOUNDED_RULES
    if bounded and not config.mu_min <= config.mu_start <= config.mu_max:
        raise ConfigError(
            f"mu_start ({config.mu_start}) must lie between mu_min ({config.mu_min}) and mu_max "
            f"({config.mu_max}), the bounds of {method}'s mu; change one of the three."
        )
    if config.wrong_demonstrations and not REGISTRY[config.task].pretraining:
        raise ConfigError(f"wrong_demonstrations is for tasks made by code, not for {config.task}.")
    if config.tries and REGISTRY[config.task].cls not in ("GeneralPoints", "Navigation"):
        raise ConfigError(f"tries is for General Points and navigation, not for {config.task}.")
    if method == "replay":
        _check_trace(config.trace)
    if method == "gac" and config.advantage == "gae":
        raise ConfigError("gac reads group advantages; it works with advantage group only.")
    if METHODS[method].whole_batch and config.micro_batch:
        raise ConfigError(f"{method} ranks the demonstrations of a batch; micro_batch must be 0.")
    if METHODS[method].pairs and not isinstance(config, ModelConfig):
        if round(config.demonstrated_prompts * config.prompts_per_step) < 1:
            raise ConfigError(
                f"{method} looks at prompts and their demonstrations together; it needs "
                f"demonstrated_prompts above 0, for example 0.5."
            )
        if config.inner_epochs > 1 or config.advantage == "gae":
            raise ConfigError(f"{method} works with inner_epochs 1 and advantage group only.")
        counts = METHODS[method].prompt_gate or METHODS[method].in_group == "srft"
        if counts and config.reward == "shaped":  # a walk that was lost late has points, too
            raise ConfigError(
                f"{method} counts an answer with any reward as right; reward must be binary."
            )
    if method == "entropy_only" and config.entropy_form == "gradient":
        raise ConfigError("entropy_only has no utility for entropy_form gradient to act through.")
    return config


def _check_trace(trace: str) -> None:
    """A recorded mu_t: numbers between 0 and 1, at least one."""
    try:
        mus = read_trace(trace)
    except ValueError:
        mus = []
    if not mus or not all(0 <= mu <= 1 for mu in mus):
        raise ConfigError(
            f"replay needs the recorded mu of each step after warm-up as trace, numbers from 0 to "
            f"1 parted by spaces (.9x45 is 45 times .9), not {trace[:40]!r}."
        )


def _check_model(c: ModelConfig) -> None:
    """What settings of a real model demand of each other."""
    if METHODS[c.method].loop_only:
        raise ConfigError(f"{c.method} works in runs without `model` only.")
    if REGISTRY[c.task].options.get("vision"):
        if REGISTRY[c.task].cls == "Navigation":
            raise ConfigError(
                f"{c.task} works in runs without `model` only: TRL takes no pictures in replies. "
                f"navigation is the same game in words."
            )
        if c.model in ("tiny", "smollm2"):
            raise ConfigError(
                f"{c.task} works in runs without `model`, or with a vision-language model such as "
                f"Qwen/Qwen2.5-VL-3B-Instruct; {c.model} is none."
            )
        if c.chat == "off":
            raise ConfigError(
                f"{c.task} puts its pictures in by the model's chat template; chat must be auto or "
                f"on, not off."
            )
    if c.tries > 1 and REGISTRY[c.task].cls == "GeneralPoints" and c.model == "tiny":
        raise ConfigError(
            "tries: the tiny base learns the verifier's words in runs without `model` only; set "
            "tries to 1, or name another model."
        )
    if c.warmup_steps == c.steps and c.method != "sft":
        raise ConfigError(
            f"warmup_steps ({c.warmup_steps}) must be below steps ({c.steps}): {c.method} would "
            f"have no step; method sft is warm-up alone."
        )
    for key, instead in _NOT_WITH_MODEL.items():
        if getattr(c, key) != FIELDS[key].default:
            raise ConfigError(f"{key} has no meaning in runs with `model`: {instead}.")
    if c.method == "official_code":
        raise ConfigError(
            "official_code, kept as evidence, works in runs without `model` only; published is the "
            "printed equation."
        )
    if (c.datasets or c.train_set or c.test_sets) and REGISTRY[c.task].cls != "DatasetTask":
        raise ConfigError(
            f"datasets, train_set and test_sets belong to tasks of real data, not to {c.task}; set "
            f"task=dataset."
        )
    if c.quantization == "nf4" and c.lora_rank == 0:
        raise ConfigError("4-bit weights cannot be trained; quantization nf4 needs lora_rank >= 1.")
    if c.quantization == "nf4" and c.vllm != "off":
        raise ConfigError(
            f"vllm {c.vllm} does not work with quantization nf4: every merge of the adapters into "
            f"4-bit weights would round them again; set vllm=off or quantization=none."
        )
    rollouts, parts = c.prompts_per_step * c.rollouts_per_prompt, c.accumulation * c.processes
    if rollouts % parts:
        raise ConfigError(
            f"prompts_per_step x rollouts_per_prompt ({rollouts}) must be a multiple of "
            f"accumulation x processes ({parts}), so that micro-batches are of one size."
        )


def named_configs() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def read_file(name: str | Path) -> dict[str, Any]:
    """The settings of a recipe: a name from `named_configs()` or a YAML file.

    Raises:
        ConfigError: no such recipe, or the file is not a YAML mapping of settings.
    """
    path = Path(name)
    if str(name) in named_configs():
        path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        hint = _suggest(str(name), named_configs())
        known = ", ".join(named_configs())
        raise ConfigError(f"{name!r} is neither a file nor one of the recipes {known}{hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError, OSError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f", line {line + 1}"
        raise ConfigError(f"{path}{where} is not valid YAML.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, not a {type(content).__name__}.")
    return content


def parse_assignments(assignments: typing.Iterable[str]) -> dict[str, Any]:
    """``["steps=20", "lr=1e-3"]`` as a dict; values stay text, `build` types them.

    Raises:
        ConfigError: no `=` in one of them.
    """
    settings = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, for example steps=20, not {text!r}.")
        settings[key.strip()] = value.strip()
    return settings


def to_yaml(config: RunConfig) -> str:
    """The resolved settings, in the order above; `read_file` and `build` read it back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
