"""Qwen2.5-VL, the architecture of the paper-scale recipe, tiny and random, through AMFTTrainer.

What LLaVA does not have: as many rows of pixels as a picture has patches (`image_grid_thw` says how
many), and positions in three directions that follow from which tokens are of a picture
(`mm_token_type_ids`). Pictures of two sizes make micro-batches uneven.
"""

import copy

import pytest
import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from amft_lite.tasks.cards import draw_hand
from amft_lite.trainer import AMFTConfig, AMFTTrainer, TrainerInputError
from tests.vision import SHORT, TASK, alternating, assert_three_gradients, tiny_qwen, watched


@pytest.fixture(scope="module")
def made():
    return tiny_qwen()


def row(number, hand):
    text = hand.prompt.replace("<card> ", "")
    width = (56, 84)[number % 2]  # 4 and 9 tokens, 16 and 36 rows of pixels
    picture = draw_hand(hand.deck, width=width, square=True)
    return {"prompt": [{"role": "user", "content": text}], "images": [picture]}


TRAIN = [row(i, hand) for i, hand in enumerate(TASK.prompts("train", 12))]
VALIDATION = [row(i, hand) for i, hand in enumerate(TASK.prompts("validation", 6))]
EXPERTS = TASK.demonstrations(6)
DEMOS = [row(i, d.example) | {"completion": [{"role": "assistant", "content": d.completion}]}
         for i, d in enumerate(EXPERTS)]  # fmt: skip


def trainer(folder, model, processor):
    args = AMFTConfig(
        str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=4, **SHORT
    )
    return watched(AMFTTrainer(
        model, alternating, args, TRAIN, processing_class=processor, sft_dataset=DEMOS,
        validation_dataset=VALIDATION,
    ))  # fmt: skip


def test_three_gradients_are_there(tmp_path, made):
    run = trainer(tmp_path, copy.deepcopy(made[0]), made[1])
    run.train()
    assert_three_gradients(run)
    seen = [p for n, p in run.model.named_parameters() if ".visual." in n]
    first = dict(made[0].named_parameters())
    names = [n for n, p in run.model.named_parameters() if ".visual." in n]
    assert any(not torch.equal(p, first[n]) for n, p in zip(names, seen, strict=True))


def test_the_imitation_gradient_is_that_of_experts_one_by_one(tmp_path, made):
    """Against a twin that pads nothing and batches nothing, with positions counted by hand."""
    run = trainer(tmp_path, copy.deepcopy(made[0]), made[1])
    rows = run._rows(run.sft_dataset, 6, 0, "demonstrations")
    found, facts = run._nll_gradient(run.model, rows)
    model, processor = copy.deepcopy(made[0]), made[1]
    total, count = 0.0, 0
    for expert, demo in zip(EXPERTS, DEMOS, strict=True):
        text = "<|vision_start|> <|image_pad|> <|vision_end|> " + demo["prompt"][0]["content"]
        given = processor(images=demo["images"], text=text, return_tensors="pt")
        answer = processor.tokenizer(expert.completion, return_tensors="pt").input_ids
        ids = torch.cat((given["input_ids"], answer), 1)
        side = demo["images"][0].width // 28
        after = ids.shape[1] - 1 - side * side
        line = list(range(1 + side, 1 + side + after))  # words go on behind the picture's edge
        flat = [[0, *where, *line] for where in (
            [1] * side * side,
            [1 + i // side for i in range(side * side)],
            [1 + i % side for i in range(side * side)],
        )]  # fmt: skip
        logits = model(
            input_ids=ids, pixel_values=given["pixel_values"],
            image_grid_thw=given["image_grid_thw"], position_ids=torch.tensor(flat)[:, None],
        ).logits  # fmt: skip
        logps = torch.log_softmax(logits[0, -answer.shape[1] - 1 : -1], -1)
        total = total - logps[range(answer.shape[1]), answer[0]].sum()
        count += answer.shape[1]
    (total / count).backward()
    twins = dict(zip(map(id, run.model.parameters()), model.parameters(), strict=True))
    twin = torch.cat([(torch.zeros_like(p) if twins[id(p)].grad is None
                       else twins[id(p)].grad).flatten() for p in run._parameters])  # fmt: skip
    assert facts["nll"] == pytest.approx((total / count).item(), rel=1e-4)
    assert (found - twin).norm() < 1e-3 * twin.norm()


def test_mllama_is_refused_in_one_sentence(tmp_path, made):
    """Llama-3.2-Vision: TRL drops what tells it where its pictures are."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = MllamaConfig(
        vision_config=MllamaVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_global_layers=1,
            attention_heads=2, image_size=28, patch_size=14, vision_output_dim=64,
            intermediate_layers_indices=[0],
        ),
        text_config=MllamaTextConfig(
            **small, vocab_size=120, num_attention_heads=2, num_key_value_heads=2,
            cross_attention_layers=[1], pad_token_id=0, eos_token_id=1,
        ),
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    with pytest.raises(TrainerInputError, match=r"mllama cannot be trained.*cross_attention") as no:
        trainer(tmp_path, model, made[1])
    assert "\n" not in str(no.value)
