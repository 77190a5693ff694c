"""Tiny vision-language models of real architectures, random weights, processors on Pillow alone."""

import torch

from amft_lite.models import word_tokenizer
from amft_lite.tasks import load_task
from tests.parity import Watched

TASK = load_task("general_points_vision")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2}  # fmt: skip


#: Of both tests through AMFTTrainer: two steps of AMFT after one of imitation.
SHORT = {
    "max_steps": 3, "num_generations": 4, "max_completion_length": 5, "use_cpu": True,
    "bf16": False, "report_to": [], "save_strategy": "no", "learning_rate": 1e-3,
    "sft_batch_size": 6, "sft_warmup_steps": 1, "validation_prompts": 2,
    "validation_rollouts": 4, "meta_every": 1, "disable_tqdm": True,
}  # fmt: skip


def alternating(completions, **_):
    """Random weights are never right: every second answer is paid."""
    return [float(i % 2) for i in range(len(completions))]


def watched(trainer):
    """It keeps the signals of every meta step."""
    trainer.rule = Watched(trainer.rule)
    trainer.create_optimizer()
    return trainer


def assert_three_gradients(trainer):
    assert len(trainer.rule.seen) == 2
    for signals, _, _ in trainer.rule.seen:
        for name in ("grad_sft", "grad_rl", "grad_utility"):
            grad = getattr(signals, name)
            assert grad.isfinite().all() and grad.norm() > 1e-6, name


def template(picture):
    """A chat template without roles: every block and a blank."""
    return (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + picture + " {% else %}{{ c['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}"
    )


def tokenizer_with(*tokens):
    tokenizer = word_tokenizer(TASK)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer, [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def louder(model):
    """Larger weights, so that the picture matters."""
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    return model.eval()


def tiny_llava():
    """(model, processor)."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer, [token] = tokenizer_with("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SMALL, image_size=28, patch_size=14, projection_dim=32),
        text_config=LlamaConfig(**SMALL, vocab_size=len(tokenizer), num_key_value_heads=2,
                                pad_token_id=0, eos_token_id=1, bos_token_id=None),
        image_token_index=token, image_seq_length=4, vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    torch.manual_seed(0)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer, patch_size=14, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=template("<image>"),
    )  # fmt: skip
    return louder(LlavaForConditionalGeneration(config)), processor


def tiny_qwen():
    """(model, processor) of Qwen2.5-VL: its rotary positions in three directions, its windows."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class PictureProcessor(Qwen2_5_VLProcessor):
        """Without the part for videos, which needs torchvision."""

        def check_argument_for_proper_class(self, name, argument):
            return argument and super().check_argument_for_proper_class(name, argument)

    begin, end, picture, video = (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    tokenizer, ids = tokenizer_with(begin, end, picture, video)
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = Qwen2_5_VLConfig(
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                       "out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1]},
        text_config={**SMALL, "vocab_size": len(tokenizer), "num_key_value_heads": 1,
                     "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0,
                                         "mrope_section": [2, 3, 3]}},
        **dict(zip(names, ids, strict=True)),
    )  # fmt: skip
    torch.manual_seed(0)
    processor = PictureProcessor(
        Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=84 * 84), tokenizer,
        video_processor=None, chat_template=template(f"{begin} {picture} {end}"),
    )  # fmt: skip
    return louder(Qwen2_5_VLForConditionalGeneration(config)), processor
