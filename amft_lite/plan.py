"""How much memory a run of a real model takes, before a card is rented for it.

Every part is a formula over counted sizes; the peak is the largest of the moments below, as parts
that are not there at the same time do not add up.

    rollouts             sampling the training answers: key-value cache, prefill
    RL backward          one micro-batch: activations, logits
    SFT backward         the same with g_RL set aside
    validation rollouts  with g_RL and g_SFT set aside (every K-th step)
    validation backward  the same, one micro-batch
    meta step            g_RL, g_SFT, grad U, Adam's moments as flat vectors, and what the
                         direction is computed in
    mixing               (1 - mu) g_RL + mu g_SFT, where there is no meta step

What autograd keeps of a layer is counted on torch's meta device (`architectures.layer_bytes`);
what a vocabulary-wide row costs and how many vectors the direction takes was measured. Checked on
a CPU against runs of AMFTTrainer (table in tests/test_plan.py); never on a GPU, where the CUDA
context and fragmentation come on top (`overhead`, a rule of thumb).

A vision-language model adds its tower: weights, activations (`architectures.tower`), and the pixels
of a step's pictures, one a prompt, which TRL keeps for every single answer.

Left out: time, offloading, 8-bit optimisers, and unsloth's savings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from amft_lite.architectures import layer_bytes, shape, skeleton, tower
from amft_lite.config import ConfigError, ModelConfig
from amft_lite.methods import resolve
from amft_lite.vision_models import SIDE, misfit, sees
from amft_lite.weighting import Controller

if TYPE_CHECKING:
    from rich.console import Console

#: Flat vectors that `gate.uphill_direction` holds at its peak, mixture and result included
#: (measured with 20 million parameters: 11.99).
UPHILL_VECTORS = 12
#: Flat vectors that `meta_gradient.adam_direction` holds at its peak (it goes by chunks, except
#: for the norm of a mixture).
DIRECTION_VECTORS = 3
#: Bytes for each (answer token x vocabulary) entry of a backward pass, all in float32: logits,
#: log-probabilities, and a gradient for each. (Half-precision originals are gone by then.)
LOGIT_BYTES = 12
#: A weight in NF4, doubly quantised: 4 bits, an 8-bit scale for 64 of them, a 32-bit one for 256
#: of those.
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
#: CUDA's context and workspaces, and a share for fragmentation: rules of thumb.
CONTEXT_BYTES, FRAGMENTATION = 0.6e9, 0.05
#: Libraries that a run on the CPU loads after its imports (measured with the tiny base).
CODE_BYTES = 35e6


@dataclass(frozen=True)
class Part:
    """Some memory of one process, and the formula it comes from, numbers filled in."""

    name: str
    bytes: float
    formula: str


@dataclass
class Plan:
    """What `amft-lite plan` prints. `moments` maps a moment's name to the parts alive in it."""

    model: str
    processes: int
    device: str
    facts: dict[str, float]
    moments: dict[str, list[Part]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    vllm_share: float = 0.0  #: of each card

    def total(self, moment: str) -> float:
        """Bytes of one process in that moment."""
        return sum(part.bytes for part in self.moments[moment])

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=self.total)

    @property
    def peak(self) -> float:
        """Bytes of one process at the worst moment, without `overhead`."""
        return self.total(self.peak_moment)

    @property
    def overhead(self) -> float:
        """What a GPU needs besides."""
        return CONTEXT_BYTES + FRAGMENTATION * self.peak if self.device == "gpu" else 0.0

    def on_card(self, gigabytes: float) -> float:
        """Bytes that a card of that size has to hold: peak, overhead, and vLLM's share."""
        return self.peak + self.overhead + self.vllm_share * gigabytes * 1e9

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "model": self.model, "processes": self.processes, "device": self.device,
            "peak_bytes": round(self.peak), "peak_moment": self.peak_moment,
            "overhead_bytes": round(self.overhead), **self.facts, "notes": self.notes,
            "moments": {
                name: {part.name: round(part.bytes) for part in parts}
                for name, parts in self.moments.items()
            },
        }  # fmt: skip


def plan(config: ModelConfig, gpus: int | None = None, device: str = "gpu") -> Plan:
    """The memory of one process of a run. `gpus` replaces the config's `processes`.

    Raises:
        ConfigError: the model's shape is not known here, or rollouts do not divide among `gpus`.
    """
    return _Planner(config, gpus or config.processes, device).plan()


class _Planner:
    def __init__(self, config: ModelConfig, processes: int, device: str) -> None:
        c, self.processes, self.device = config, processes, device
        self.config = c
        try:
            self.whole = shape(c.model, c.task)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if fault := misfit(c.model, self.whole, c.task):
            raise ConfigError(f"model: {fault}")
        self.shape = self.whole.get_text_config()
        self.new = c.max_new_tokens or _longest_answer(c.task)
        rollouts = c.prompts_per_step * c.rollouts_per_prompt
        if rollouts % (c.accumulation * processes):
            raise ConfigError(
                f"{rollouts} rollouts a step do not divide into {c.accumulation} micro-batches on "
                f"{processes} processes; change accumulation or the number of GPUs."
            )
        self.rollouts = rollouts // processes
        self.rows = self.rollouts // c.accumulation
        self.sharded = processes > 1 and c.lora_rank == 0
        self.shards = processes if self.sharded else 1
        self.compute = self._dtype()
        self.count()

    def _dtype(self) -> torch.dtype:
        c = self.config
        if c.dtype != "auto":
            return getattr(torch, c.dtype)
        half = self.device == "gpu" or c.quantization == "nf4"
        return torch.bfloat16 if half else torch.float32  # as `real_models.compute_dtype`

    def count(self) -> None:
        """Parameters by kind, from the model without its memory."""
        c = self.config
        try:
            model = skeleton(self.whole, self.compute, c.lora_rank)
            self.layer = layer_bytes(self.whole, self.compute, c.lora_rank)
            self.tower = tower(self.whole, self.compute) if sees(self.whole) else None
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"a model of the family {self.whole.model_type} cannot be counted "
                f"({type(error).__name__}); plan knows those that are built like Llama and Qwen2, "
                f"and with pictures like LLaVA and Qwen2.5-VL."
            ) from None
        inside = model.get_base_model() if c.lora_rank else model
        head = {id(p) for p in inside.get_output_embeddings().parameters()}
        language = {id(p) for p in inside.get_decoder().parameters()} | head
        self.total = self.trainable = self.narrow = self.widest = self.seeing = self.embeddings = 0
        for name, p in model.named_parameters():
            self.total += p.numel()
            self.trainable += p.numel() if p.requires_grad else 0
            if id(p) not in language:  # vision tower and projector
                self.seeing += p.numel()
            elif "embed" in name or id(p) in head:
                self.embeddings += p.numel()
            elif p.dim() == 2 and "lora_" not in name:
                self.narrow += p.numel()
                self.widest = max(self.widest, p.numel())
        words = self.total - self.embeddings - self.seeing
        self.block = words // self.shape.num_hidden_layers
        if self.tower:
            self.block = max(self.block, self.seeing // self.tower.depth)
            if self.tower.tokens >= c.max_prompt_tokens:
                raise ConfigError(
                    f"a picture alone has {self.tower.tokens} tokens, and max_prompt_tokens is "
                    f"{c.max_prompt_tokens}; raise it above that, and by what the words need."
                )

    # --- what is always there --------------------------------------------------------------------

    def weights(self) -> list[Part]:
        c, size, s = self.config, self.compute.itemsize, self.shards
        if c.lora_rank == 0:
            return [Part("weights", 4 * self.total / s, f"4 B x {self.total:,} / {s}")]
        frozen = self.total - self.trainable
        adapters = Part("adapters", 4 * self.trainable, f"4 B x {self.trainable:,}")
        if c.quantization == "none":
            return [Part("weights", size * frozen, f"{size} B x {frozen:,}"), adapters]
        rest = frozen - self.narrow
        formula = f"{NF4_BYTES:.4f} B x {self.narrow:,} + {size} B x {rest:,}"
        parts = [Part("weights", NF4_BYTES * self.narrow + size * rest, formula), adapters]
        if self.device == "cpu":  # embeddings are views of the file, which keeps all of it
            words = f"2 B x {self.narrow:,}"
            parts.append(Part("half-precision file, still mapped", 2 * self.narrow, words))
        return parts

    def vectors(self, name: str, n: int) -> Part:
        """`n` float32 vectors of the trained parameters (of this process's shard of them)."""
        words = f"{n} x 4 B x {self.trainable:,} / {self.shards}"
        return Part(name, n * 4 * self.trainable / self.shards, words)

    def standing(self) -> list[Part]:
        rule = self.rule
        parts = [*self.weights(), self.vectors("Adam's moments", 2)]
        if isinstance(rule, Controller) and rule.validation:
            kept = 3 + bool(rule.options.trace_decay)
            parts.append(self.vectors("averages of the mu rule", kept))
        if self.device == "cpu":
            parts.append(Part("code loaded on the way", CODE_BYTES, "as measured"))
        return parts

    @property
    def rule(self):
        return resolve(self.config.method).make_rule(self.config.rule_options())

    # --- what comes and goes ---------------------------------------------------------------------

    def passing(self, rows: int) -> list[Part]:
        """Forms of the weights that a forward or backward pass of `rows` sequences makes."""
        c, size, parts = self.config, self.compute.itemsize, []
        if c.quantization == "nf4":
            words = f"{size} B x {self.widest:,}"
            parts.append(Part("one matrix unpacked", size * self.widest, words))
        elif c.lora_rank == 0 and size < 4 and self.sharded:
            words = f"{size} B x (2 x {self.block:,} a layer + {self.embeddings:,} embeddings)"
            gathered = size * (2 * self.block + self.embeddings)
            parts.append(Part("gathered weights", gathered, words))
        elif c.lora_rank == 0 and size < 4:
            words = f"{size} B x {self.total:,}"
            parts.append(Part("half-precision copies", size * self.total, words))
        if self.device == "cpu" and size < 4:
            # torch multiplies a batch of half-precision slices by a batch of copies of the matrix
            matrix = self.shape.vocab_size * self.shape.hidden_size
            words = f"{rows} rows x {size} B x {matrix:,}"
            parts.append(Part("output matrix, once a row", rows * size * matrix, words))
        return parts

    def pixels(self, answers: int) -> list[Part]:
        """Pictures as the processor makes them, one for every answer to a prompt."""
        if not self.tower or not answers:
            return []
        words = f"{answers} answers x 4 B x {self.tower.pixels:,}"
        return [Part("pixels", 4 * answers * self.tower.pixels, words)]

    def sampling(self, rows: int) -> list[Part]:
        c, s = self.config, self.shape
        if c.vllm != "off":
            return []
        size = self.compute.itemsize
        width = s.num_key_value_heads * (
            getattr(s, "head_dim", None) or s.hidden_size // s.num_attention_heads
        )
        a_token = 2 * s.num_hidden_layers * width * size
        length = c.max_prompt_tokens + self.new
        cache = Part(
            "key-value cache",
            rows * length * a_token,
            f"{rows} answers x ({c.max_prompt_tokens} + {self.new}) tokens x "
            f"2 x {s.num_hidden_layers} layers x {width} x {size} B",
        )
        # the prompt's part of the cache stands while prompts are read; afterwards single tokens are
        wide = 3 * (s.intermediate_size + s.hidden_size) * size
        prefill = rows * c.max_prompt_tokens * wide - rows * self.new * a_token
        choice = 12 * rows * s.vocab_size
        if t := self.tower:  # it looks at all pictures before there is a cache
            looking = rows * t.patches * 3 * (t.inner + t.width) * size
            if looking > cache.bytes + max(prefill, choice):
                words = f"{rows} x {t.patches} patches x 3 x ({t.inner} + {t.width}) x {size} B"
                return [*self.passing(rows), Part("looking at pictures", looking, words)]
        if prefill > choice:
            words = (
                f"{rows} x {c.max_prompt_tokens} x 3 x ({s.intermediate_size} + {s.hidden_size}) x "
                f"{size} B, less the cache of the {self.new} tokens to come"
            )
            return [*self.passing(rows), cache, Part("reading prompts", prefill, words)]
        words = f"{rows} x 12 B x {s.vocab_size:,}"
        return [*self.passing(rows), cache, Part("choosing tokens", choice, words)]

    def backward(self, sequences: int, with_entropy: bool = False) -> list[Part]:
        """Of one micro-batch of so many `sequences`; the entropy's gradient is a table more,
        in pieces and put together."""
        c, s, rows = self.config, self.shape, min(self.rows, sequences)
        length = c.max_prompt_tokens + self.new
        layer = self.layer
        here = f"{rows} rows x {length} tokens x "
        if c.gradient_checkpointing == "on":
            between = s.num_hidden_layers * s.hidden_size * self.compute.itemsize
            words = (
                f"{here}({s.num_hidden_layers} layers x {s.hidden_size} x "
                f"{self.compute.itemsize} B + {layer:,} B for one layer)"
            )
            kept = Part("activations", rows * length * (between + layer), words)
        else:
            words = f"{here}{s.num_hidden_layers} layers x {layer:,} B"
            kept = Part("activations", rows * length * s.num_hidden_layers * layer, words)
        a_logit = LOGIT_BYTES + 8 * with_entropy
        wide = rows * self.new * s.vocab_size * a_logit
        words = f"{rows} rows x {self.new} tokens x {s.vocab_size:,} x {a_logit} B"
        logits = Part("logits", wide, words)
        parts = [*self.passing(rows), self.vectors("gradients", 1), kept, logits]
        return [*parts, *self.looking_back(rows)]

    def looking_back(self, rows: int) -> list[Part]:
        """What autograd keeps of the tower. A frozen one keeps nothing, unless activations are
        forgotten: adapters then need a gradient at every input, and transformers asks for it at
        the tower's, too."""
        c, t = self.config, self.tower
        forgets = c.gradient_checkpointing == "on"
        if not t or (c.lora_rank and not forgets):
            return []
        if forgets:
            between = t.patches * t.width * self.compute.itemsize
            blocks = t.depth * between + t.block
            words = f"{t.depth} blocks x {between:,} B + {t.block:,} B for one block"
        else:
            blocks, words = t.depth * t.block, f"{t.depth} blocks x {t.block:,} B"
        words = f"{rows} pictures x ({words} + {t.ends:,} B)"
        return [Part("tower's activations", rows * (blocks + t.ends), words)]

    # --- together --------------------------------------------------------------------------------

    def plan(self) -> Plan:
        c, rule, base = self.config, self.rule, self.standing()
        moments: dict[str, list[Part]] = {}
        if c.method != "sft":
            base += self.pixels(self.rollouts)  # kept until the next ones are sampled
            moments["rollouts"] = [*base, *self.sampling(self.rollouts)]
            moments["RL backward"] = [*base, *self.backward(self.rollouts)]
        if c.method != "rl":
            aside = [] if c.method == "sft" else [self.vectors("g_RL aside", 1)]
            experts = c.sft_batch // self.processes
            aside += _named("pixels of experts", self.pixels(experts))
            moments["SFT backward"] = [*base, *aside, *self.backward(experts)]
        if rule.validation == "reward":
            aside = [self.vectors("g_RL, g_SFT aside", 2)]
            answers = c.validation_prompts * c.validation_rollouts // self.processes
            aside += _named("pixels of validation", self.pixels(answers))
            moments["validation rollouts"] = [*base, *aside, *self.sampling(answers)]
            pushed = rule.options.entropy_form == "gradient"
            moments["validation backward"] = [*base, *aside, *self.backward(answers, pushed)]
            moments["meta step"] = [
                *base,
                self.vectors("g_RL, g_SFT, grad U", 3),
                self.vectors("Adam's moments, flat", 2),
                self.vectors("their mixture", DIRECTION_VECTORS),
            ]
            if hasattr(rule, "gate"):
                moments["learning gates"] = [
                    *base,
                    self.vectors("g_RL, g_SFT, grad U", 3),
                    self.vectors("Adam's moments, flat", 2),
                    self.vectors("backward through Adam's update", UPHILL_VECTORS),
                ]
        else:
            moments["mixing"] = [*base, self.vectors("g_RL, g_SFT, mixture", 5)]
        length = c.max_prompt_tokens + self.new
        rollouts = c.prompts_per_step * c.rollouts_per_prompt
        planned = [rule.planned(t, c.steps, c.warmup_steps) for t in range(c.warmup_steps, c.steps)]
        mixed = sum(mu != 1.0 for mu in planned)  # a step of mu 1 pays for no rollouts
        checks = -(-mixed // rule.every) if rule.validation == "reward" else 0
        facts = {
            "parameters": self.total - (self.trainable if c.lora_rank else 0),
            "trained": self.trainable,
            "rollouts_a_step": rollouts,
            "tokens_a_step": (rollouts if c.method != "sft" else 0) * length
            + (c.sft_batch if c.method != "rl" else 0) * length,
            "rollouts_a_run": mixed * rollouts,
            "validation_rollouts_a_run": checks * c.validation_prompts * c.validation_rollouts,
        }
        found = Plan(c.model, self.processes, self.device, facts, moments)
        found.notes = self.notes(length)
        found.vllm_share = c.vllm_memory if c.vllm == "colocate" else 0.0
        return found

    def notes(self, length: int) -> list[str]:
        c, notes = self.config, []
        window = getattr(self.shape, "max_position_embeddings", None)
        if window and length > window:
            notes.append(f"{length} tokens are more than the model's {window} positions.")
        if self.tower:
            side = SIDE if hasattr(self.whole.vision_config, "spatial_merge_size") else (
                self.whole.vision_config.image_size
            )  # fmt: skip
            notes.append(
                f"The picture of a prompt, {side} x {side} pixels, is {self.tower.tokens} of its "
                f"{c.max_prompt_tokens} tokens; {self.seeing:,} parameters see."
            )
        if c.vllm == "colocate":
            notes.append(
                f"vLLM takes {c.vllm_memory:.0%} of each card besides; {2e-9 * self.total:.1f} GB "
                f"of that are its copy of the weights, the rest is its key-value cache."
            )
        if self.processes > 1 and not self.sharded:
            notes.append("Every GPU holds the whole model (DDP): more GPUs save time, not memory.")
        if c.advantage == "gae":
            notes.append(
                "The value head's passes are not counted: hidden states of all layers and logits "
                "of prompt and answer, in float32. Take advantage=group for large models."
            )
        if self.sharded:
            notes.append("Sharded by FSDP2 (configs/launch/), each GPU with its part.")
        return notes


def _named(name: str, parts: list[Part]) -> list[Part]:
    return [replace(part, name=name) for part in parts]


def _longest_answer(task: str) -> int:
    """Tokens of the task's longest answer, as `max_new_tokens: 0` asks for.

    Raises:
        ConfigError: only the data could tell.
    """
    from amft_lite.tasks import load_task

    try:
        return load_task(task).max_new_tokens
    except (ImportError, OSError, ValueError):
        raise ConfigError(
            f"task {task} does not say how long answers are; set max_new_tokens."
        ) from None


def print_plan(found: Plan, console: Console, explain: bool = False) -> None:
    """Tables for a person; with `explain` every part of every moment and its formula."""
    from rich.table import Table

    f = found.facts
    each = "" if found.processes == 1 else f", each of {found.processes} processes"
    console.print(
        f"{found.model}: {f['parameters']:,} parameters, {f['trained']:,} trained. A step: "
        f"{f['rollouts_a_step']:,} rollouts, at most {f['tokens_a_step']:,} tokens; a run: "
        f"{f['rollouts_a_run']:,} rollouts and {f['validation_rollouts_a_run']:,} for validation.",
        soft_wrap=True,
    )
    table = Table("moment", f"GB ({found.device}{each})", "largest parts")
    for name, parts in found.moments.items():
        largest = sorted(parts, key=lambda part: -part.bytes)[:3]
        mark = "  <- peak" if name == found.peak_moment else ""
        table.add_row(
            name, f"{found.total(name) / 1e9:.2f}{mark}",
            ", ".join(f"{part.name} {part.bytes / 1e9:.2f}" for part in largest),
        )  # fmt: skip
    console.print(table)
    if explain:
        for name, parts in found.moments.items():
            console.print(f"{name}: {found.total(name) / 1e9:.3f} GB")
            for part in parts:
                console.print(
                    f"  {part.bytes / 1e9:8.3f}  {part.name} = {part.formula}",
                    markup=False,
                    soft_wrap=True,
                )
        if found.overhead:
            console.print(
                f"overhead: {CONTEXT_BYTES / 1e9} GB + {FRAGMENTATION:.0%} of the peak, a rule of "
                f"thumb"
            )
    besides = f" + {found.overhead / 1e9:.2f} GB overhead" if found.overhead else ""
    console.print(f"Peak: {found.peak / 1e9:.2f} GB ({found.peak_moment}){besides}.")
    for note in found.notes:
        console.print(note, soft_wrap=True)
