"""The shapes of models, without their weights: what a memory plan needs, and no network.

`shape` finds a `transformers` config; `skeleton` builds the model from it on torch's meta device,
where tensors have a shape and no memory, so that parameters and saved activations can be counted
instead of derived.

The few numbers below are those of the models' config.json. Checked against public copies of them
and against the parameter counts on the model cards (`tests/test_plan.py`).

A vision-language model is counted whole: its tower looks at one picture (`tower`).

Left out: mixtures of experts, and weights.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from amft_lite.models import base_folder, quiet_transformers
from amft_lite.vision_models import SIDE, adapter_places, sees

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

#: The tower of Qwen2.5-VL; `out_hidden_size` is the width of the language model behind it.
_QWEN_EYE = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
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
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": True,
        "vision_config": {**_QWEN_EYE, "out_hidden_size": 2048},
        "text_config": {
            "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
            "tie_word_embeddings": True, "max_position_embeddings": 128_000,
        },
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": False,
        "vision_config": {**_QWEN_EYE, "out_hidden_size": 3584},
        "text_config": {
            **_QWEN_7B, "model_type": "qwen2_5_vl_text", "max_position_embeddings": 128_000,
        },
    },
}  # fmt: skip
NICKNAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}

_COUNTED = "amft_lite_count"  #: the attention that `_fused_attention` is registered as


def shape(model: str, task: str = "general_points") -> PretrainedConfig:
    """The config of `model`: named as in `ModelConfig.model`; nothing is downloaded.

    Raises:
        ValueError: neither known here, nor a folder, nor in the hub's cache.
    """
    quiet_transformers()
    from transformers import AutoConfig

    name = NICKNAMES.get(model, model)
    if name in KNOWN:
        return AutoConfig.for_model(**copy.deepcopy(KNOWN[name]))
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
    """The model on the meta device, with adapters as `real_models.load_model` adds them; `layers`
    replaces the depth of the language model, and of a tower."""
    from transformers import AttentionInterface, AutoModelForCausalLM, AutoModelForImageTextToText

    AttentionInterface.register(_COUNTED, _fused_attention)
    config = copy.deepcopy(config)
    if layers:
        config.get_text_config().num_hidden_layers = layers
        if sees(config):
            setattr(config.vision_config, _depth_name(config), layers)
    kind = AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM
    with torch.device("meta"):
        options = {"attn_implementation": attention} if attention else {}
        model = kind.from_config(config, dtype=dtype, **options)
        if lora_rank:
            from peft import LoraConfig, get_peft_model

            model.requires_grad_(False)
            model = get_peft_model(model, LoraConfig(r=lora_rank, **adapter_places(model)))
    return model


def layer_bytes(config: PretrainedConfig, dtype: torch.dtype, lora_rank: int = 0) -> int:
    """What autograd keeps for the backward pass of one layer, in bytes a token.

    Counted: the forward pass of two layers less that of one, on the meta device. Attention counts
    as a fused kernel, which keeps queries, keys, values, result and one number a head. In half
    precision the trainer runs under autocast, where each adapter keeps a copy of its own input.
    """
    tokens, kept = 64, []
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    for layers in (1, 2):
        model = skeleton(config, dtype, lora_rank, layers, attention=_COUNTED).train()
        excess = 0
        if lora_rank:
            model.enable_input_require_grads()
            # autocast, which does not act on the meta device, makes float32 copies half as wide
            into = [m for name, m in model.named_modules() if name.endswith("lora_A.default")]
            excess = tokens * (4 - dtype.itemsize) * sum(m.in_features for m in into)
        found = _kept_bytes(model, lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1))  # noqa: B023
        kept.append(found - excess)
    return (kept[1] - kept[0]) // tokens


class Tower(NamedTuple):
    """What one picture costs in a vision tower."""

    tokens: int  #: of the language model
    patches: int  #: rows of the tower
    depth: int  #: its blocks
    width: int  #: of a row between blocks
    inner: int  #: of a row inside a block
    pixels: int  #: float32 numbers that the processor makes of the picture
    block: int  #: bytes that autograd keeps of one block
    ends: int  #: bytes that it keeps before and behind all blocks, projector included


def tower(config: PretrainedConfig, dtype: torch.dtype) -> Tower:
    """The tower of a vision-language model, looking at a picture of `vision_models.SIDE` pixels (or
    of the one size that it takes); counted as `layer_bytes` does, every weight trained."""
    eye, kept = config.vision_config, []
    pixels, size = _picture(config)
    for layers in (1, 2):
        model = skeleton(config, dtype, layers=layers, attention=_COUNTED).train()
        with _Meta():
            kept.append(_kept_bytes(model, lambda: model.get_image_features(**pixels)))  # noqa: B023
    with _Meta(), torch.no_grad():
        seen = model.get_image_features(**pixels).pooler_output
    seen = seen if isinstance(seen, (tuple, list)) else [seen]  # one for each picture
    block = kept[1] - kept[0]
    return Tower(
        tokens=sum(x.shape[:-1].numel() for x in seen),
        patches=size, depth=getattr(eye, _depth_name(config)), width=eye.hidden_size,
        inner=eye.intermediate_size, pixels=pixels["pixel_values"].numel(),
        block=block, ends=kept[0] - block,
    )  # fmt: skip


def _depth_name(config: PretrainedConfig) -> str:
    return "depth" if hasattr(config.vision_config, "depth") else "num_hidden_layers"


def _picture(config: PretrainedConfig) -> tuple[dict[str, torch.Tensor], int]:
    """Arguments of `get_image_features` for one picture, and how many patches it has.

    Qwen's processors cut a picture of any size into a list of patches; all others scale it.
    """
    eye = config.vision_config
    if hasattr(eye, "spatial_merge_size"):
        side = SIDE // eye.patch_size
        values = 3 * eye.temporal_patch_size * eye.patch_size**2
        pixels = torch.zeros(side**2, values, device="meta")
        grid = torch.tensor([[1, side, side]])  # read on the way, so not on the meta device
        return {"pixel_values": pixels, "image_grid_thw": grid}, side**2
    pixels = torch.zeros(1, 3, eye.image_size, eye.image_size, device="meta")
    return {"pixel_values": pixels}, (eye.image_size // eye.patch_size) ** 2


class _Meta(TorchDispatchMode):
    """Whatever meets a tensor without memory becomes one; small index tables stay readable."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = (args, kwargs or {})
        if any(isinstance(x, torch.Tensor) and x.is_meta for x in tree_flatten(given)[0]):
            args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta"), given)
        return func(*args, **(kwargs or {}))


def _kept_bytes(model: torch.nn.Module, run: Callable[[], Any]) -> int:
    """What autograd keeps of `run()`, the model's parameters aside."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage  # kept alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in storages.values())


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
