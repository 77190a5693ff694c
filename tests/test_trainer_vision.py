"""A real vision-language architecture (LLaVA, tiny, random weights) through AMFTTrainer."""

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import LlavaForConditionalGeneration

from amft_lite.tasks.cards import draw_hand
from amft_lite.trainer import AMFTConfig, AMFTTrainer, TrainerInputError
from tests.vision import SHORT, TASK, alternating, assert_three_gradients, tiny_llava, watched


@pytest.fixture(scope="module")
def made():
    """(model, processor); the processor needs Pillow alone."""
    return tiny_llava()


def row(hand):
    text = hand.prompt.replace("<card> ", "")
    picture = draw_hand(hand.deck, width=56, square=True)
    return {"prompt": [{"role": "user", "content": text}], "images": [picture]}


TRAIN = [row(hand) for hand in TASK.prompts("train", 12)]
VALIDATION = [row(hand) for hand in TASK.prompts("validation", 6)]
EXPERTS = TASK.demonstrations(6)
DEMOS = [row(d.example) | {"completion": [{"role": "assistant", "content": d.completion}]}
         for d in EXPERTS]  # fmt: skip


def trainer(folder, made, method="amft", size=4, accumulation=2, **changes):
    model, processor = copy.deepcopy(made[0]), made[1]
    args = AMFTConfig(
        str(folder), per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
        **SHORT,
    )  # fmt: skip
    given = {"sft_dataset": DEMOS, "validation_dataset": VALIDATION} | changes
    return watched(AMFTTrainer(
        model, alternating, args, TRAIN, method=method, processing_class=processor, **given
    ))  # fmt: skip


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
def test_three_gradients_are_there_and_it_saves_and_loads(tmp_path, made, lora):
    adapters = {"peft_config": LoraConfig(r=4, target_modules="all-linear")} if lora else {}
    run = trainer(tmp_path, made, **adapters)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.train()
    assert_three_gradients(run)
    pairs = zip(before, run.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    model = run.accelerator.unwrap_model(run.model)
    if lora:
        model = model.merge_and_unload()
    model.save_pretrained(tmp_path / "model")
    made[1].save_pretrained(tmp_path / "model")
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    picture, text = TRAIN[0]["images"], "<image> " + TRAIN[0]["prompt"][0]["content"]
    given = made[1](images=picture, text=text, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(again(**given).logits, model.eval()(**given).logits, atol=1e-5)


def test_the_imitation_gradient_is_that_of_experts_one_by_one(tmp_path, made):
    """Against a twin that pads nothing and batches nothing; pictures and micro-batches matter."""
    run = trainer(tmp_path, made, size=2, accumulation=2)  # experts in micro-batches of 2
    rows = run._rows(run.sft_dataset, 6, 0, "demonstrations")
    found, facts = run._nll_gradient(run.model, rows)
    model, processor = copy.deepcopy(made[0]), made[1]
    tokenizer, total, count = processor.tokenizer, 0.0, 0
    for expert, demo in zip(EXPERTS, DEMOS, strict=True):
        prompt = "<image> " + demo["prompt"][0]["content"]
        given = processor(images=demo["images"], text=prompt, return_tensors="pt")
        answer = tokenizer(expert.completion, return_tensors="pt").input_ids
        ids = torch.cat((given["input_ids"], answer), 1)
        logits = model(input_ids=ids, pixel_values=given["pixel_values"]).logits
        logps = torch.log_softmax(logits[0, -answer.shape[1] - 1 : -1], -1)
        total = total - logps[range(answer.shape[1]), answer[0]].sum()
        count += answer.shape[1]
    (total / count).backward()
    grads = dict(zip(map(id, run.model.parameters()), model.parameters(), strict=True))
    twin = torch.cat([(torch.zeros_like(grads[id(p)]) if grads[id(p)].grad is None
                       else grads[id(p)].grad).flatten() for p in run._parameters])  # fmt: skip
    assert facts["nll"] == pytest.approx((total / count).item(), rel=1e-4)
    assert (found - twin).norm() < 1e-3 * twin.norm()
    blind = [{**demo, "images": [demo["images"][0].point(lambda v: 0)]} for demo in DEMOS]
    other = trainer(tmp_path, made, sft_dataset=blind)
    blank, _ = other._nll_gradient(other.model, other._rows(other.sft_dataset, 6, 0, "x"))
    assert (blank - found).norm() > 0.01 * found.norm()


def test_learned_gates_see_pictures_too(tmp_path, made, monkeypatch):
    monkeypatch.setattr("amft_lite.gate.EDGES", (1e-6, 1e-5, 1e-4, 1e-3))
    run = trainer(tmp_path, made, method="amft_gate")
    run.train()
    parts = [parts for _, _, parts in run.rule.seen]
    assert all("gate_0" in p and "trust_0" in p for p in parts)


def test_an_image_token_is_never_sampled(tmp_path, made):
    run = trainer(tmp_path, made)
    token = made[0].config.image_token_index
    assert token in run.generation_config.suppress_tokens
    answers = run._generate([[{"role": "user", "content": [
        {"type": "image", "image": TRAIN[0]["images"][0]}, {"type": "text", "text": "10"},
    ]}]] * 8)[1]  # fmt: skip
    assert all(token not in answer for answer in answers)


def test_a_prompt_is_its_text_and_its_picture(tmp_path, made):
    # the same words beside other pictures are another problem ...
    other = [{**VALIDATION[0], "prompt": TRAIN[0]["prompt"]}]
    trainer(tmp_path, made, validation_dataset=other * 2)
    # ... and beside the same picture the same one
    with pytest.raises(TrainerInputError, match="1 prompts of validation_dataset are also in"):
        trainer(tmp_path, made, validation_dataset=[TRAIN[3], VALIDATION[1]])
    with pytest.raises(TrainerInputError, match="also in sft_dataset"):
        trainer(tmp_path, made, validation_dataset=[{k: DEMOS[0][k] for k in VALIDATION[0]}])
