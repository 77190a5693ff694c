"""The shapes of models, without their weights: what a memory plan needs, and no network.

`shape` finds a `transformers` config; `skeleton` builds the model from it on torch's meta device,
where tensors have a shape and no memory, so that parameters and saved activations can be counted
instead of derived.

The few numbers below are those of the models' config.json. Checked against public copies of them
and against the parameter counts on the model cards (`tests/test_plan.py`).

Left out: vision models, mixtures of experts, and weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from amft_lite.models import base_folder, quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_QWEN_1_5B = {
    "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960,
    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}  # fmt: skip
_QWEN_7B = {
    "model_type": "qwen2", "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}  # fmt: skip

#: hub id -> what its config.json says, as far as memory depends on it.
KNOWN: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    "Qwen/Qwen2.5-1.5B": {**_QWEN_1_5B, "max_position_embeddings": 131_072},
    "Qwen/Qwen2.5-1.5B-Instruct": {**_QWEN_1_5B, "max_position_embeddings": 32_768},
    "Qwen/Qwen2.5-Math-1.5B": {**_QWEN_1_5B, "max_position_embeddings": 4096},
    "Qwen/Qwen2.5-Math-7B": {**_QWEN_7B, "max_position_embeddings": 4096},
    # LUFFY's copy of the one above: rope_theta 10k -> 40k, window 4096 -> 16384
    "Elliott/Qwen2.5-Math-7B-16k-think": {**_QWEN_7B, "max_position_embeddings": 16_384},
}  # fmt: skip
NICKNAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def shape(model: str, task: str = "general_points") -> PretrainedConfig:
    """The config of `model`: named as in `ModelConfig.model`; nothing is downloaded.

    Raises:
        ValueError: neither known here, nor a folder, nor in the hub's cache.
    """
    quiet_transformers()
    from transformers import AutoConfig

    name = NICKNAMES.get(model, model)
    if name in KNOWN:
        return AutoConfig.for_model(**KNOWN[name])
    folder = base_folder(task) if model == "tiny" else Path(model).expanduser()
    try:
        if (folder / "config.json").is_file():
            return AutoConfig.from_pretrained(folder)
        if model != "tiny" and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model):
            return AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, KeyError):
        pass
    raise ValueError(
        f"the shape of {model} is not known here; give a folder that holds its config.json, or one "
        f"of {', '.join([*NICKNAMES, 'tiny', *KNOWN])}."
    )


def skeleton(
    config: PretrainedConfig,
    dtype: torch.dtype,
    lora_rank: int = 0,
    layers: int | None = None,
    attention: str | None = None,
) -> PreTrainedModel:
    """The model on the meta device, with adapters as `real_models.load_model` adds them."""
    import copy

    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.num_hidden_layers = layers or config.num_hidden_layers
    with torch.device("meta"):
        options = {"attn_implementation": attention} if attention else {}
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **options)
        if lora_rank:
            from peft import LoraConfig, get_peft_model

            model.requires_grad_(False)
            adapters = LoraConfig(r=lora_rank, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, adapters)
    return model


def layer_bytes(config: PretrainedConfig, dtype: torch.dtype, lora_rank: int = 0) -> int:
    """What autograd keeps for the backward pass of one layer, in bytes a token.

    Counted: the forward pass of two layers less that of one, on the meta device. Attention counts
    as a fused kernel, which keeps queries, keys, values, result and one number a head. In half
    precision the trainer runs under autocast, where each adapter keeps a copy of its own input.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("amft_lite_count", _fused_attention)
    tokens, kept = 64, []
    for layers in (1, 2):
        model = skeleton(config, dtype, lora_rank, layers, attention="amft_lite_count").train()
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor, own=own, storages=storages) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                storages[storage._cdata] = storage  # kept alive, so that no address comes twice
            return tensor

        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        excess = 0
        if lora_rank:
            model.enable_input_require_grads()
            # autocast, which does not act on the meta device, makes float32 copies half as wide
            into = [m for name, m in model.named_modules() if name.endswith("lora_A.default")]
            excess = tokens * (4 - dtype.itemsize) * sum(m.in_features for m in into)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
        kept.append(sum(storage.nbytes() for storage in storages.values()) - excess)
    return (kept[1] - kept[0]) // tokens


class _Kept(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps; computes nothing."""

    @staticmethod
    def forward(ctx, query, key, value):
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, query[..., 0].float())
        return result

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError("shapes only")


def _fused_attention(module, query, key, value, attention_mask, **options):
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    return _Kept.apply(query, key, value).transpose(1, 2).contiguous(), None
