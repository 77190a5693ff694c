"""What real vision-language models need besides: which they are, and which of their parts see.

A model of this kind is a language model, a vision tower, and a projector between them. Asked of
its config and of its modules, never of its name, so that new families work unlisted.

Left out: video, sound, and pictures in answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from amft_lite.tasks import REGISTRY

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: Pixels a side of the square picture of a hand: 16 x 16 = 256 tokens of 28 pixels in Qwen2.5-VL.
SIDE = 448

#: model_type -> inputs without which such a model cannot see, and which TRL's GRPOTrainer (1.14,
#: `_get_per_token_logps_and_entropies`) hands on to no forward pass of its training.
NOT_PASSED = {"mllama": "aspect_ratio_ids, aspect_ratio_mask and cross_attention_mask"}
#: Families whose pictures are cut into tiles, several to a row of pixels that is cut by rows here.
TILED = ("internvl", "lfm2_vl", "aya_vision", "cohere2_vision")


def sees(config: PretrainedConfig) -> bool:
    """Whether this is the config of a model that reads pictures and text, and writes text."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    return hasattr(config, "vision_config") or config.model_type in KNOWN


def why_not(config: PretrainedConfig) -> str:
    """One sentence for a family that cannot be trained through TRL; empty for all others."""
    if config.model_type in TILED:
        return (
            f"models of the family {config.model_type} cannot be trained here, as their pictures "
            f"come in tiles, which micro-batches would mix up; take a Qwen2.5-VL, for example."
        )
    if config.model_type not in NOT_PASSED:
        return ""
    return (
        f"models of the family {config.model_type} cannot be trained here, as TRL's GRPOTrainer "
        f"does not hand {NOT_PASSED[config.model_type]} on to them, without which their pictures "
        f"are lost; take a Qwen2.5-VL, for example."
    )


def misfit(name: str, config: PretrainedConfig, task: str) -> str:
    """One sentence where the model `name` cannot be trained on `task`; empty where it can."""
    shown = bool(REGISTRY[task].options.get("vision"))
    if shown and not sees(config):
        return (
            f"{name} reads text alone, and {task} shows pictures; name a vision-language model "
            f"such as Qwen/Qwen2.5-VL-3B-Instruct."
        )
    if sees(config) and not shown:  # a chat template for pictures may swallow plain words unseen
        return (
            f"{name} is a vision-language model, and {task} has no pictures; name a language model "
            f"such as Qwen/Qwen2.5-1.5B, or the task general_points_vision."
        )
    return f"{name}: {why_not(config)}" if why_not(config) else ""


def beside_language(model: PreTrainedModel) -> list[str]:
    """Names of the largest modules outside the language model: vision tower, projector, output.

    A language model alone has one name, that of its output.
    """
    language = model.get_decoder()

    def outside(module: nn.Module, prefix: str) -> list[str]:
        found = []
        for name, child in module.named_children():
            if child is language:
                continue
            holds = any(part is language for part in child.modules())
            found += outside(child, f"{prefix}{name}.") if holds else [f"{prefix}{name}"]
        return found

    return outside(model, "")


def adapter_places(model: PreTrainedModel) -> dict[str, Any]:
    """Arguments of peft's LoraConfig: every linear layer of the language model but the output.

    Vision tower and projector stay frozen without adapters. That is customary: they have learned to
    see from far more pictures than a task has, and no activations of theirs have to be kept.
    """
    places: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    if sees(model.config):
        names = "|".join(map(re.escape, beside_language(model)))
        places["exclude_modules"] = rf"({names})(\..*)?"
    return places
