"""What AMFTTrainer is given, and what it refuses: one sentence each, before anything is trained.

Left out: the reward functions' own errors, and datasets that are streamed (`IterableDataset`),
whose prompts cannot be compared beforehand.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from trl import GRPOConfig

from amft_lite.methods import Method, resolve
from amft_lite.trainer_batches import as_stored
from amft_lite.vision_models import why_not
from amft_lite.weighting import DIRECTIONS, ENTROPY_FORMS, Rule, RuleOptions


class TrainerInputError(ValueError):
    """Something given to AMFTTrainer cannot be used; its text is one sentence."""


@dataclass
class AMFTConfig(GRPOConfig):
    """GRPOConfig and the constants of AMFT; `amft_lite.config.RunConfig` documents each.

    Changed defaults of GRPOConfig: `adam_beta2` .95 and `lr_scheduler_type` constant, as in the
    loop; float32 where there is no GPU. The loss stays TRL's "dapo", a token mean over the whole
    batch (Eq. 3 needs both terms on one scale), without KL.
    """

    adam_beta2: float = 0.95
    lr_scheduler_type: str = "constant"

    sft_batch_size: int = 64  #: demonstrations an optimiser step, over all processes
    sft_warmup_steps: int = 15  #: SFT steps W before the mix (`warmup_steps` is the lr's)
    sft_max_length: int | None = None  #: tokens of an expert answer kept; None keeps all
    max_episode_tokens: int = 512  #: of a dialogue, both sides; max_completion_length: an answer's
    advantage: str = "group"  #: or "gae": PPO with a value head
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_lr: float = 1e-3
    validation_prompts: int = 32  #: held-out prompts a meta step, over all processes
    validation_rollouts: int = 8
    mu_start: float = 0.5
    mu_min: float = 0.05
    mu_max: float = 0.95
    eta_mu: float = 1.0
    max_change: float = 0.05
    meta_every: int = 5
    ema_gradients: float = 0.9
    ema_utility: float = 0.5
    direction: str = "adam"
    width: float = 0.5
    trace_decay: float = 0.0
    entropy_form: str = "off"
    eta_entropy: float = 0.05
    entropy_beta: float = 0.1
    switch: float = field(default=1 / 3, metadata={"help": "share of steps sft_then_rl imitates"})
    chord_decay: float = 1 / 3
    trace: str = ""
    gate_start: str = "sceptical"
    eta_gate: float = 0.2
    eta_trust: float = 0.2
    published_lr: float = 1e-6
    published_eta_mu: float = 1e-4
    published_eta_entropy: float = 5e-4

    def __post_init__(self) -> None:
        if self.num_generations is not None and self.num_generations < 2:
            raise TrainerInputError(
                f"num_generations must be at least 2, not {self.num_generations}: an answer is "
                "judged against the others to its prompt."
            )
        if self.deepspeed:
            raise TrainerInputError(
                "AMFTTrainer cannot run under DeepSpeed, which takes the optimiser's step inside "
                "backward(), before g_RL and g_SFT can be combined; use DDP or FSDP."
            )
        for name, known in (
            ("advantage", ("group", "gae")), ("gate_start", ("open", "sceptical")),
            ("entropy_form", ENTROPY_FORMS), ("direction", DIRECTIONS),
        ):  # fmt: skip
            if (given := getattr(self, name)) not in known:
                words = f"{', '.join(known[:-1])} or {known[-1]}"
                raise TrainerInputError(f"{name} must be {words}, not {given!r}.")
        if not 0 <= self.mu_min <= self.mu_max <= 1:
            raise TrainerInputError(
                f"mu_min ({self.mu_min}) and mu_max ({self.mu_max}) must lie in [0, 1], in this "
                "order."
            )
        if self.width <= 0:
            raise TrainerInputError(f"width must be above 0, not {self.width}.")
        if not 0 <= self.trace_decay < 1:
            raise TrainerInputError(
                f"trace_decay must be at least 0 and below 1, not {self.trace_decay}."
            )
        for name, least in (
            ("sft_batch_size", 1), ("sft_warmup_steps", 0), ("validation_prompts", 1),
            ("validation_rollouts", 2), ("meta_every", 1), ("max_episode_tokens", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                given = getattr(self, name)
                raise TrainerInputError(f"{name} must be at least {least}, not {given}.")
        if self.bf16 is None and not self.fp16 and not torch.accelerator.is_available():
            self.bf16 = False  # TRL's default, bf16, is refused on a machine without a GPU
        super().__post_init__()
        # TRL saves no half-used rollouts: resuming inside such a block would not repeat the run.
        block = self.steps_per_generation * self.num_iterations
        block = math.lcm(block, self.gradient_accumulation_steps) // (
            self.gradient_accumulation_steps
        )
        if self.save_strategy == "steps" and self.save_steps % block:
            raise TrainerInputError(
                f"save_steps ({self.save_steps:g}) must be a multiple of {block}, the optimiser "
                "steps that share one generation of rollouts; a checkpoint between them could not "
                "be resumed exactly."
            )

    @classmethod
    def for_method(cls, method: str, **settings: Any) -> AMFTConfig:
        """A config with what the method brings along (`amft_lite.methods`) beneath `settings`."""
        names = {"warmup_steps": "sft_warmup_steps"}
        brought = {names.get(k, k): v for k, v in known_method(method).defaults.items()}
        return cls(**{**brought, **settings})

    def rule_options(self) -> RuleOptions:
        """The part of the settings that mu rules read."""
        names = [name for name in RuleOptions.__dataclass_fields__ if hasattr(self, name)]
        return RuleOptions(**{name: getattr(self, name) for name in names})


#: Settings that a resumed run may change; all others must be those of its checkpoint.
MAY_DIFFER = (
    "output_dir", "run_name", "project", "max_steps", "num_train_epochs", "resume_from_checkpoint",
    "report_to", "disable_tqdm", "do_train", "do_eval", "do_predict", "local_rank", "hub_", "push_",
    "log", "save_", "eval_", "dataloader_", "trackio_", "torch_empty", "use_cpu", "ddp_",
    "overwrite_", "num_completions_to_print", "profiling", "vllm_", "per_device_eval_batch_size",
)  # fmt: skip


def method_of(method: str | Rule | Method, args: AMFTConfig) -> tuple[Method, Rule]:
    """A method, given by name or as an object, and a fresh rule of it.

    Raises:
        TrainerInputError: no method has that name, or only the plain loop has it.
    """
    found = known_method(method)
    return found, found.make_rule(args.rule_options())


def known_method(method: str | Rule | Method) -> Method:
    """`resolve`, with the trainer's error.

    Raises:
        TrainerInputError: no method has that name, or only the plain loop has it.
    """
    try:
        found = resolve(method)
    except ValueError as error:
        raise TrainerInputError(str(error)) from None
    if found.loop_only:
        raise TrainerInputError(
            f"{found.name} works in runs without `model` only (amft_lite.loop)."
        )
    return found


NO_VLLM_WITH_4_BITS = (
    "vLLM does not work with 4-bit weights, which every merge of the adapters into them would "
    "round again; set vllm=off (use_vllm=False), or quantization=none."
)


def refuse_setting(args: AMFTConfig, kwargs: dict) -> None:
    """What cannot work in this setting, whatever the data."""
    if args.advantage == "gae" and "unsloth" in sys.modules and torch.cuda.is_available():
        raise TrainerInputError(
            "advantage='gae' does not work with unsloth on a GPU, which replaces TRL's loss; use "
            "advantage='group', or the transformers backend."
        )
    if args.n_gpu > 1:
        raise TrainerInputError(
            f"this process sees {args.n_gpu} GPUs, and would train on copies or doubled batches; "
            f"show it one (CUDA_VISIBLE_DEVICES=0), or start a process for each by torchrun."
        )
    optim = getattr(args.optim, "value", args.optim)
    ours = optim in ("adamw_torch", "adamw_torch_fused")
    if kwargs.get("optimizers", (None, None))[0] is None and not ours:
        raise TrainerInputError(
            f"optim must be adamw_torch or adamw_torch_fused, not {optim}: the meta-gradient "
            "applies the optimiser's own update rule, and knows Adam's."
        )


def refuse_optimizer(own: Any) -> None:
    """An optimiser given to a method with a meta-gradient, whose update rule is not known."""
    if own is not None and not isinstance(getattr(own, "optimizer", own), torch.optim.Adam):
        raise TrainerInputError(
            f"optimizers must hold torch's Adam or AdamW, not {type(own).__name__}: the "
            "meta-gradient applies the optimiser's own update rule."
        )


def refuse_dialogues(args: AMFTConfig, kwargs: dict, reward_funcs: Any, train: Any) -> None:
    """What cannot work where rollouts are dialogues with an episode.

    Raises:
        TrainerInputError: names it.
    """
    if reward_funcs is not None:
        raise TrainerInputError(
            "a dialogue's reward is its episode's; give reward_funcs or episode, not both."
        )
    for name in ("use_vllm", "use_transformers_continuous_batching", "mask_truncated_completions"):
        if getattr(args, name, False):
            raise TrainerInputError(
                f"{name} does not work with dialogues (episode), which one call of model.generate "
                "writes whole, and which their episodes alone bring to an end."
            )
    for name in ("tools", "environment_factory", "rollout_func"):
        if kwargs.get(name):
            raise TrainerInputError(f"{name} and episode both speak for the task; give one.")
    if "unsloth" in sys.modules and torch.cuda.is_available():
        raise TrainerInputError("episode has not been tried with unsloth; use transformers.")
    columns = getattr(train, "column_names", None) or ()
    if {"image", "images"} & set(columns):
        raise TrainerInputError("dialogues (episode) cannot have pictures; train_dataset has some.")


def refuse_long_dialogues(args: AMFTConfig, experts: Dataset | None, model: Any) -> None:
    """Dialogues that could not be spoken to their end.

    Raises:
        TrainerInputError: an expert's has more tokens than a rollout may, or a rollout more than
            the model has positions.
    """
    longest = max(map(len, experts["answer_ids"])) if experts is not None else 0
    if longest > args.max_episode_tokens:
        raise TrainerInputError(
            f"the longest demonstration has {longest} tokens after its prompt, and "
            f"max_episode_tokens is {args.max_episode_tokens}; set it to {longest} at least."
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and positions <= args.max_episode_tokens:
        raise TrainerInputError(
            f"max_episode_tokens ({args.max_episode_tokens}) leaves no room for a prompt in the "
            f"model's {positions} positions."
        )


def refuse_family(model: Any) -> None:
    """A model that TRL would train blindly, if it is here already (not a name)."""
    if isinstance(model, nn.Module) and why_not(model.config):
        raise TrainerInputError(f"{type(model).__name__}: {why_not(model.config)}")


def as_dataset(name: str, data: Any, columns: Sequence[str]) -> Dataset | IterableDataset:
    """`data` (a Dataset, or a list of dicts) with at least `columns` and a row.

    Raises:
        TrainerInputError: it is missing, empty, or lacks a column.
    """
    if data is None:
        raise TrainerInputError(f"{name} is missing; it needs the column {', '.join(columns)}.")
    if isinstance(data, (list, tuple)):
        data = Dataset.from_list(list(data))
    if isinstance(data, IterableDataset):
        if name != "train_dataset":
            raise TrainerInputError(f"{name} must be a Dataset, whose rows can be counted.")
        return data
    if not isinstance(data, Dataset):
        raise TrainerInputError(
            f"{name} must be a datasets.Dataset or a list of dicts, not {type(data).__name__}."
        )
    if len(data) == 0:
        raise TrainerInputError(f"{name} is empty; it needs at least one row.")
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        raise TrainerInputError(
            f"{name} has no column {' and no column '.join(missing)}; it has "
            f"{', '.join(data.column_names)}."
        )
    return data


def dialogues(name: str, data: Any) -> Dataset:
    """Dialogues of experts with the columns `prompt` and `completion`, which is a list of turns:
    texts, the expert's first, then a reply, and so on, or messages of assistant and user.

    `messages` are split before the assistant's first.

    Raises:
        TrainerInputError: they are missing, empty, or a row's turns do not begin and end with the
            expert, or do not alternate.
    """
    if isinstance(data, (list, tuple)) and data:
        data = Dataset.from_list(list(data))
    if isinstance(data, Dataset) and len(data) and "messages" in data.column_names:

        def parted(row: dict) -> dict:
            roles = [message["role"] for message in row["messages"]]
            first = roles.index("assistant") if "assistant" in roles else len(roles)
            return {"prompt": row["messages"][:first], "completion": row["messages"][first:]}

        data = data.map(parted, remove_columns=["messages"])
    data = as_dataset(name, data, ("prompt", "completion"))
    for i, (prompt, turns) in enumerate(zip(data["prompt"], data["completion"], strict=True)):
        if not prompt or not _in_turn(turns):
            raise TrainerInputError(
                f"{name}'s row {i} must have a prompt, and as its completion a list of turns that "
                "begins and ends with the expert: texts (answer, reply, answer), or messages of "
                "assistant and user."
            )
    return data


def _in_turn(turns: Any) -> bool:
    if not isinstance(turns, list) or len(turns) % 2 == 0:
        return False
    if all(isinstance(turn, str) for turn in turns):
        return True
    roles = ["assistant", "user"] * len(turns)
    return all(isinstance(turn, dict) for turn in turns) and all(
        turn.get("role") == role and isinstance(turn.get("content"), str)
        for turn, role in zip(turns, roles, strict=False)
    )


def demonstrations(data: Any) -> Dataset:
    """Expert answers with the columns `prompt` and `completion`.

    `messages` are split before their last one, which must be the assistant's.

    Raises:
        TrainerInputError: they are missing, empty, or of neither form.
    """
    if isinstance(data, (list, tuple)) and data:
        data = Dataset.from_list(list(data))
    if isinstance(data, Dataset) and len(data) and "messages" in data.column_names:
        wrong = next((i for i, m in enumerate(data["messages"])
                      if len(m) < 2 or m[-1]["role"] != "assistant"), None)  # fmt: skip
        if wrong is not None:
            raise TrainerInputError(
                f"sft_dataset's row {wrong} must end with a message of the assistant, after at "
                "least one other."
            )
        return data.map(
            lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
            remove_columns=["messages"],
        )
    data = as_dataset("sft_dataset", data, ("prompt", "completion"))
    if isinstance(data[0]["completion"], list) and isinstance(data[0]["completion"][0], str):
        raise TrainerInputError(
            "sft_dataset's completions are lists of texts, the turns of dialogues; those need "
            "episode."
        )
    return data


def _identities(data: Dataset) -> Iterator[str]:
    """What makes a row's prompt the same as another's: its text, and the pixels beside it (or the
    text that they are drawn from)."""
    data = as_stored(data)
    images = [name for name in ("images", "image") if name in data.column_names]
    if not images:
        yield from (json.dumps(prompt, sort_keys=True) for prompt in data["prompt"])
        return
    for row in data.select_columns(["prompt", images[0]]):
        own = row[images[0]]
        digest = hashlib.sha256(json.dumps(row["prompt"], sort_keys=True, default=str).encode())
        for image in own if isinstance(own, list) else [own]:
            if isinstance(image, str):
                digest.update(image.encode())
            elif image is not None:
                digest.update(f"{image.size}{image.mode}".encode() + image.tobytes())
        yield digest.hexdigest()


def refuse_leaks(train: Any, experts: Dataset | None, validation: Dataset) -> None:
    """Validation prompts must be new to training: on its own prompts, RL's noise looks like signal.

    An iterable `train` is not read.

    Raises:
        TrainerInputError: they share a prompt, which is shown.
    """
    held_out = set(_identities(validation))
    for name, data in (("train_dataset", train), ("sft_dataset", experts)):
        if not isinstance(data, Dataset):
            continue
        known = zip(as_stored(data)["prompt"], _identities(data), strict=True)
        shared = [prompt for prompt, identity in known if identity in held_out]
        if shared:
            raise TrainerInputError(
                f"{len(shared)} prompts of validation_dataset are also in {name}, for example "
                f"{str(shared[0])[:60]!r}; hold them out from it."
            )


def checked_rewards(function: Any) -> Any:
    """A reward function whose NaN or infinite values are an error (None stays TRL's "no grade")."""
    if isinstance(function, (str, nn.Module)) or not callable(function):
        return function
    name = getattr(function, "__name__", type(function).__name__)

    def checked(values: Any, completions: Any) -> list:
        values = list(values)
        if len(values) != len(completions):
            raise TrainerInputError(
                f"the reward function {name} returned {len(values)} rewards for "
                f"{len(completions)} completions; it must return one for each."
            )
        wrong = sum(v is not None and not math.isfinite(v) for v in values)
        if wrong:
            raise TrainerInputError(
                f"the reward function {name} returned {wrong} rewards of {len(values)} that are "
                "not finite; return a number, or None for a completion it cannot grade."
            )
        return values

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(*args, completions, **kwargs):
            return checked(await function(*args, completions=completions, **kwargs), completions)

        return later

    @functools.wraps(function)
    def now(*args, completions, **kwargs):
        return checked(function(*args, completions=completions, **kwargs), completions)

    now.__name__ = name
    return now


def comparable(args: AMFTConfig) -> dict[str, Any]:
    """The settings that a resumed run must share with its checkpoint, as plain values."""
    plain = {k: v for k, v in asdict(args).items() if not k.startswith(MAY_DIFFER)}
    return json.loads(json.dumps(plain, default=str)) | {"processes": args.world_size}


def refuse_other_config(saved: dict, given: dict, checkpoint: str) -> None:
    """Refuse to resume with other settings.

    Raises:
        TrainerInputError: names the first key that differs.
    """
    new = {k: v.default for k, v in AMFTConfig.__dataclass_fields__.items()}  # since that version
    saved = {key: saved.get(key, new.get(key)) for key in saved.keys() | given.keys()}
    for key in sorted(saved):
        if saved[key] != given.get(key):
            raise TrainerInputError(
                f"{checkpoint} was made with {key}={saved[key]!r}, this run has "
                f"{given.get(key)!r}; resume with the same (only settings of output, logging, "
                "saving, evaluation and length of the run may differ)."
            )
