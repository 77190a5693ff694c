"""Real models by name, readied for training: LoRA, 4-bit weights, unsloth.

`load_model` gives plain `transformers` or peft objects, which `amft_lite.trainer` trains. The tiny
bases load by the same door, as the model of every test that is to be fast.

A vision-language model comes with its processor in the tokenizer's place.

Left out: adapters that somebody else has trained, 4-bit weights that are sharded over several GPUs
(each process holds them whole), and vision-language models through unsloth.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amft_lite import smollm2
from amft_lite.models import base_folder, quiet_transformers
from amft_lite.tasks import REGISTRY
from amft_lite.vision_models import adapter_places, beside_language, misfit, sees

if TYPE_CHECKING:
    from transformers import (
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )


#: Of a checkpoint, what `amft_lite.trainer` adds to transformers' files.
STATE = "amft_state.pt"


class ModelError(ValueError):
    """A model that cannot be had as asked; its text is one sentence."""


def find_model(name: str, task: str = "general_points") -> str:
    """Where the model called `name` is: a local folder, or a hub id as it stands.

    `tiny` is the base of `task`, `smollm2` is unpacked on its first use.

    Raises:
        ModelError: the folder is not there, or the packages of smollm2 are not installed.
    """
    if name == "smollm2":
        try:
            return str(smollm2.folder())
        except (ImportError, OSError) as error:
            raise ModelError(str(error)) from None
    folder = base_folder(task) if name == "tiny" else Path(name).expanduser()
    if (folder / "config.json").is_file():
        return str(folder)
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name)
    if name == "tiny" or folder.exists() or not hub_id:
        raise ModelError(
            f"there is no model in {folder}; name tiny, smollm2, a hub id such as "
            f"Qwen/Qwen2.5-1.5B, or a folder that holds a config.json."
        )
    return name


def compute_dtype(dtype: str = "auto", quantization: str = "none") -> torch.dtype:
    """What matrix products run in, here: see `ModelConfig.dtype` for `auto`."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    return torch.bfloat16 if quantization == "nf4" else torch.float32


def start_backend(backend: str) -> None:
    """Import what must come first: unsloth rewrites TRL's trainers while it is imported.

    Raises:
        ModelError: unsloth is not installed, or TRL is already imported.
    """
    if backend != "unsloth" or "unsloth" in sys.modules:
        return
    need("unsloth", "backend unsloth", "gpu")
    if "trl" in sys.modules:
        raise ModelError(
            "backend unsloth has to come before TRL, which this process has imported already; "
            "start a fresh one."
        )
    try:
        import unsloth  # noqa: F401
    except Exception as fault:  # it checks the machine in many ways while it is imported
        raise ModelError(
            f"unsloth cannot start here ({type(fault).__name__}: {_first_line(fault)}); "
            f"backend transformers runs everywhere."
        ) from None


def load_model(
    model: str,
    *,
    task: str = "general_points",
    backend: str = "transformers",
    quantization: str = "none",
    dtype: str = "auto",
    lora_rank: int = 0,
    lora_alpha: int = 32,
    lora_dropout: float = 0.0,
    gradient_checkpointing: str = "off",
    max_prompt_tokens: int = 512,
    max_new_tokens: int = 0,
    seed: int = 0,
    trust_remote_code: str = "off",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | ProcessorMixin]:
    """A model to train and its tokenizer (left-padding, with a padding token), in eval mode.

    A vision-language model, which a task with pictures needs, has its processor there instead.

    The arguments are settings of `ModelConfig`, which documents them:
    ``load_model(**config.model_options())``. Weights that are trained are float32: all of them at
    `lora_rank` 0, else the adapters, which `seed` initialises; frozen ones are of the compute
    dtype or 4 bits wide. Without `quantization` the model is on the CPU, and the trainer moves it.
    The transformers backend leaves `gradient_checkpointing` and the two lengths to the trainer.

    Raises:
        ModelError: no such model here, a package for these settings is missing, or the model does
            not see what the task shows.
    """
    if REGISTRY[task].options.get("vision") and backend == "unsloth":
        raise ModelError(
            f"backend unsloth has not been tried with pictures, which {task} shows; use backend "
            f"transformers."
        )
    start_backend(backend)
    quiet_transformers()
    if lora_rank:
        need("peft", "lora_rank", "train")
    if quantization == "nf4":
        need("bitsandbytes", "quantization nf4", "train")
    place = find_model(model, task)
    compute = compute_dtype(dtype, quantization)
    stored = compute if lora_rank else torch.float32
    remote = {"trust_remote_code": trust_remote_code == "on"}
    config = _config(model, place, remote)
    if fault := misfit(model, config, task):
        raise ModelError(fault)
    if backend == "unsloth":
        from amft_lite.tasks import load_task

        longest = max_prompt_tokens + (max_new_tokens or load_task(task).max_new_tokens)
        policy, tokenizer = _reading(
            model, lambda: _unsloth(place, stored, quantization, lora_rank, longest, remote)
        )
    else:
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
        )

        kind, reader = AutoModelForCausalLM, AutoTokenizer
        if sees(config):
            kind, reader = AutoModelForImageTextToText, AutoProcessor
        # first what is small: it may lack a package
        tokenizer = _reading(model, lambda: reader.from_pretrained(place, **remote))
        packed = _reading(model, lambda: _quantized(quantization, compute, config, remote))
        options = {"dtype": stored, **packed, **remote}
        policy = _reading(model, lambda: kind.from_pretrained(place, **options))
    keep_differentiable(policy)
    words = getattr(tokenizer, "tokenizer", tokenizer)  # a processor's own
    words.padding_side = "left"  # completions of one batch share their columns
    if words.pad_token is None:
        words.pad_token = words.eos_token
    if lora_rank:
        lora = (policy, lora_rank, lora_alpha, lora_dropout)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            if backend == "unsloth":
                policy = _unsloth_adapters(*lora, gradient_checkpointing == "on", seed)
            else:
                policy = _adapters(*lora)
    return policy.eval(), tokenizer


def keep_differentiable(model: torch.nn.Module) -> None:
    """Let gradients through a model's 4-bit weights on every CPU.

    On those with AVX512-BF16 bitsandbytes 0.50 repacks the weights when they are first used in eval
    mode, for a product that has no backward pass: after its first rollouts a policy would train
    with the gradients of all layers below lost (cosine .26 with the right one on SmolLM2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def need(package: str, wish: str, extra: str = "", by: str = "") -> None:
    """ModelError unless `package` is installed; an `extra` of ours brings it, or `by`."""
    if importlib.util.find_spec(package) is None:
        by = by or f"amft-lite[{extra}]"
        raise ModelError(f"{wish} needs the package {package}; `pip install '{by}'` brings it.")


def _reading(name: str, read: Callable[[], Any]) -> Any:
    """`read()`, with one sentence for whatever can be wrong with a model; short memory passes."""
    try:
        return read()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as fault:  # transformers, hub, tokenizers, safetensors each raise their own
        raise ModelError(
            f"the model {name} cannot be read here ({type(fault).__name__}: {_first_line(fault)}); "
            f"name tiny, smollm2, a hub id that this machine can reach or has in its cache, or a "
            f"folder."
        ) from None


def _first_line(fault: Exception) -> str:
    return next(iter(str(fault).strip().splitlines()), "")[:200]


def _config(name: str, place: str, remote: dict[str, bool]) -> PretrainedConfig:
    from transformers import AutoConfig

    import amft_lite.picture_llama  # noqa: F401  (makes itself known to AutoConfig)

    return _reading(name, lambda: AutoConfig.from_pretrained(place, **remote))


def _quantized(
    quantization: str, compute: torch.dtype, config: PretrainedConfig, remote: dict[str, bool]
) -> dict[str, Any]:
    """Arguments of `from_pretrained` for 4-bit weights, which are made on their final device.

    Of a vision-language model the language model alone becomes 4 bits wide: adapters in it make up
    for the rounding, and a rounded vision tower, which has none, would see worse for good. That
    costs 1 GB with Qwen2.5-VL.
    """
    if quantization == "none":
        return {}
    from accelerate import PartialState
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    whole = None  # what bitsandbytes leaves alone of itself: the output
    if sees(config):
        with torch.device("meta"):
            whole = beside_language(AutoModelForImageTextToText.from_config(config, **remote))
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=whole,  # which counts for 4 bits, too
        ),
        "device_map": {"": PartialState().device},
    }


def _adapters(policy: Any, rank: int, alpha: int, dropout: float) -> Any:
    """LoRA on every linear layer but the output, through peft; adapters are float32. In a
    vision-language model on those of its language model (`adapter_places`)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        **adapter_places(policy),
    )
    return get_peft_model(policy, config)  # which casts half-precision adapters to float32


def _unsloth(
    place: str, stored: torch.dtype, quantization: str, rank: int, longest: int, remote: dict
) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel

    return FastLanguageModel.from_pretrained(
        place,
        max_seq_length=longest,
        dtype=stored,
        load_in_4bit=quantization == "nf4",
        full_finetuning=rank == 0,
        **remote,
    )


def _unsloth_adapters(
    policy: Any, rank: int, alpha: int, dropout: float, checkpointing: bool, seed: int
) -> Any:
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        policy,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split(),
        use_gradient_checkpointing="unsloth" if checkpointing else False,
        random_state=seed,
    )
