"""Real vision-language models through `amft-lite run`: a folder with a tiny LLaVA in it.

Random weights are never right, so alternating rewards stand in where gradients are asked for.
"""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, InternVLConfig, MllamaConfig
from typer.testing import CliRunner

from amft_lite import trl_run
from amft_lite.cli import app
from amft_lite.config import build
from amft_lite.real_models import ModelError, load_model
from amft_lite.tasks import load_task
from amft_lite.tasks.general_points import instruction
from amft_lite.trl_run import ModelRun
from tests.vision import TASK, tiny_llava

SHORT = {
    "task": "general_points_vision", "gradient_checkpointing": "off", "steps": 4,
    "warmup_steps": 1, "prompts_per_step": 2, "rollouts_per_prompt": 4, "sft_batch": 4,
    "validation_prompts": 2, "validation_rollouts": 4, "meta_every": 1, "demonstrations": 6,
    "eval_prompts": 2, "eval_samples": 2, "curve_prompts": 2, "eval_every": 0, "save_every": 2,
    "max_new_tokens": 5, "lr": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "llava"
    for part in tiny_llava():
        part.save_pretrained(place)
    return place


@pytest.fixture
def paid(monkeypatch):
    """Every second answer is."""
    turns = iter(range(10**9))

    def reward(self, completions, key, **_):
        assert all(k in self.examples for k in key)
        return [float(next(turns) % 2) for _ in completions]

    monkeypatch.setattr(ModelRun, "reward", reward)


def words(folder, **changes):
    settings = {"model": folder, "method": "amft", **SHORT, **changes}
    return [w for k, v in settings.items() for w in ("--set", f"{k}={v}")]


def amft(*arguments):
    wide = {"COLUMNS": "250"}  # no cell of a table is broken
    return CliRunner().invoke(app, [str(a) for a in arguments], env=wide)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "LoRA"])
def test_a_whole_run(tmp_path, folder, paid, rank):
    out = tmp_path / "r"
    done = amft("run", "--out", out, *words(folder, lora_rank=rank))
    assert done.exit_code == 0, done.output
    assert "cards read" in done.output and "right" in done.output  # a narrow table breaks it
    found = lines(out)
    assert [line["step"] for line in found] == [0, 1, 2, 3]
    for line in found[1:]:
        assert line["grad_norm_sft"] > 1e-6 and line["grad_norm_rl"] > 1e-6, line
        assert line["grad_norm_utility"] > 1e-6 and 0 < line["mu"] < 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["splits"]["final"].keys() == {"test", "ood_rule", "ood_visual"}
    for name, split in summary["splits"]["final"].items():
        assert split["readings"].keys() == {"cards read right"}
        groups = {hand.group for hand in TASK.prompts(name)[:2]}
        assert split["prompts"] == 2 and split["greedy"]["n"] == len(groups)

    run = ModelRun(out, build({"model": str(folder), **SHORT, "lora_rank": rank}))
    run.load()
    hands = TASK.prompts("test", 3, 5)
    here = [run.answer(hand) for hand in hands]
    assert here == [run.answer(hand) for hand in hands]  # greedy: nothing is drawn
    given = run.tokenizer(
        images=[run.picture(hands[0])], return_tensors="pt",
        text=[run.tokenizer.apply_chat_template(run.shown_prompt(hands[0]), tokenize=False)],
    )  # fmt: skip
    model = run.trainer.accelerator.unwrap_model(run.trainer.model).eval()
    with torch.no_grad():  # by hand, from logits alone
        for _ in range(5):
            logits = model(**given).logits[0, -1]
            logits[model.config.image_token_id] = -torch.inf
            ids = torch.cat((given["input_ids"], logits.argmax().view(1, 1)), 1)
            given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert run.tokenizer.tokenizer.decode(ids[0, -5:], skip_special_tokens=True) == here[0]
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    if rank:
        assert trained and all(".language_model." in name for name in trained)
    else:  # the eye, too, and it has moved
        first = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        moved = {n for n, p in model.state_dict().items() if not torch.equal(p, first[n])}
        for part in ("vision_tower", "multi_modal_projector", "language_model"):
            assert any(part in name for name in moved), part

    again = amft("evaluate", out, "--prompts", 2, "--samples", 2, "--examples", 1)
    assert again.exit_code == 0, again.output
    assert "ood_visual" in again.output


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, folder):
    from safetensors.torch import load_file

    weights = []
    for name, stops in (("whole", [False] * 9), ("cut", [False, True])):
        run = ModelRun.create(
            tmp_path / name, build({"model": str(folder), **SHORT, "lora_rank": 0})
        )
        asked = iter(stops)
        if name == "whole":
            run.train()
        else:
            with pytest.raises(trl_run.Interrupted):
                run.train(stop=lambda asked=asked: next(asked))
            run.lock_file.close()
            done = amft("run", "--out", tmp_path / name, "--resume")
            assert done.exit_code == 0 and "Going on from" in done.output, done.output
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors"))
        assert [line["step"] for line in lines(tmp_path / name)] == [0, 1, 2, 3]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_picture_belongs_to_its_own_prompt(tmp_path, folder):
    """Rows, leak check and reward are told apart by the cards, which no prompt's text names."""
    run = ModelRun.create(tmp_path / "r", build({"model": str(folder), **SHORT}))
    policy, run.tokenizer = load_model(**run.config.model_options())
    run.trainer = run.make_trainer(policy)
    rows = [run.trainer.train_dataset[i] for i in range(8)]
    for row in rows:
        [picture] = row["images"]
        example = run.examples[row["key"]]
        assert picture.size == (448, 448)
        assert picture.tobytes() == run.picture(example).tobytes()
        assert not set(example.cards) & {"J", "Q", "K"} or example.rule == (10, 10, 10)
    assert len({row["key"] for row in rows}) == 8
    one, other = (run.examples[row["key"]] for row in rows[:2])
    right = TASK.answer(one, ["0"])  # reads the cards right, whatever comes after
    assert TASK.readings["cards read right"](one, right)
    assert not TASK.readings["cards read right"](other, right)


def test_the_instruction_is_the_game_and_its_example_is_right():
    for task in (TASK, load_task("general_points")):
        for split in ("train", "ood_rule"):
            for hand in task.prompts(split, 20):
                text = instruction(hand)
                assert f"make {hand.target};" in text and "<card>" not in text
                j, q, k = hand.rule
                assert f"J counts {j}, Q counts {q}, K counts {k}" in text
                number = text.split("the number ")[1].split(" ")[0]
                shown = text.split("that is: ")[1].split("\n")[0]
                facts = {**vars(hand), "cards": ("J", "3", "8"), "values": (j, 3, 8)}
                facts["target"] = int(number)  # our own grader pays the example's answer
                assert task.reward(type(hand)(**facts), shown).correct, shown
                if task is TASK:
                    assert not any(f" {card} " in text.split("\n")[1] for card in "AJQK")


def test_tokens_of_a_picture_count_into_the_prompt(tmp_path, folder):
    run = ModelRun(tmp_path, build({"model": str(folder), **SHORT}))
    _, run.tokenizer = load_model(**run.config.model_options())
    hand = TASK.prompts("train", 1)[0]
    run.examples = {run.key(hand): hand}
    length = len(instruction(hand).split()) + 4  # a word a token; 28 x 28 pixels of 14 x 14
    for most, fits in ((length, True), (length - 1, False)):
        object.__setattr__(run.config, "max_prompt_tokens", most)
        if fits:
            assert len(run.fitting([run.row(hand)])) == 1
        else:
            with pytest.raises(trl_run.ConfigError, match=f"has {length}, its picture included"):
                run.fitting([run.row(hand)])


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "general_points"}, "is a vision-language model, and general_points has no pictu"),
        (
            {"model": "tiny"},
            "general_points_vision works in runs without `model`, or with a vision",
        ),
        ({"chat": "off"}, "puts its pictures in by the model's chat template"),
        ({"max_prompt_tokens": 20}, ", its picture included"),
        ({"max_prompt_tokens": 3}, "no prompt of general_points_vision has at most 3 tokens"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, folder, changes, sentence):
    done = amft("run", "--out", tmp_path / "r", *words(folder, **changes))
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.output.split())
    assert not (tmp_path / "r").exists()


def test_other_models_are_refused_before_their_weights_are_read(tmp_path, folder):
    from amft_lite.models import base_folder

    text = str(base_folder("general_points"))
    mllama = tmp_path / "mllama"
    MllamaConfig().save_pretrained(mllama)  # there are no weights
    tiled = tmp_path / "internvl"
    InternVLConfig().save_pretrained(tiled)
    for model, sentence in (
        (text, "reads text alone"),
        (str(mllama), "mllama cannot be trained"),
        (str(tiled), "internvl cannot be trained here, as their pictures come in tiles"),
    ):
        done = amft("run", "--out", tmp_path / "r", *words(model))
        assert done.exit_code == 2, done.output
        assert sentence in " ".join(done.output.split())
    with pytest.raises(ModelError, match="unsloth has not been tried with pictures"):
        load_model(str(folder), task="general_points_vision", backend="unsloth")


def test_a_processor_without_a_chat_template_is_refused(tmp_path, folder):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    done = amft("run", "--out", tmp_path / "r", *words(bare))
    assert done.exit_code == 2, done.output
    assert "has no chat template, which pictures need" in " ".join(done.output.split())


def test_four_bits_leave_the_eye_whole(folder):
    """The language model's layers become 4-bit ones; tower, projector and output do not."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.nn import Linear4bit

    model, _ = load_model(
        str(folder), task="general_points_vision", quantization="nf4", lora_rank=2
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            inside = ".language_model." in name
            assert isinstance(module, Linear4bit) == inside, name
            if not inside:
                assert module.weight.dtype == torch.bfloat16


def test_pictures_are_drawn_when_they_are_wanted_and_once_each(tmp_path, folder, monkeypatch):
    """Not for the check of leaks, nor for the experts' words; rows that repeat a hand share it."""
    drawn, draw = [], trl_run.draw_hand
    monkeypatch.setattr(
        trl_run,
        "draw_hand",
        lambda deck, *how, **more: drawn.append(deck) or draw(deck, *how, **more),
    )
    trl_run._drawn.cache_clear()
    config = build({"model": str(folder), **SHORT, "steps": 12, "demonstrations": 40})
    run = ModelRun.create(tmp_path / "run", config, overwrite=False)
    policy, run.tokenizer = load_model(**config.model_options())
    trainer = run.make_trainer(policy)
    assert len(drawn) <= 3  # to count the tokens of one picture in each set
    rows = [trainer.sft_dataset[n % 5] for n in range(20)]
    assert rows[0]["images"][0].size == (448, 448) and len(drawn) <= 8
    other = rows[1]["images"][0].tobytes()
    assert rows[0]["images"][0].tobytes() == rows[5]["images"][0].tobytes() != other
