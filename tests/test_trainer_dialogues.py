"""Dialogues in the second engine: the loop's gradients, the policy's tokens alone, one cache."""

import copy
import inspect
import json
import random

import pytest
import torch
from transformers import GenerationConfig
from trl import GRPOTrainer

from amft_lite.batches import roll
from amft_lite.config import ConfigError, build
from amft_lite.dialogues import Speech, SpeechError, Turns, sample_dialogues
from amft_lite.models import positions, tiny_llama, word_tokenizer
from amft_lite.tasks import load_task
from amft_lite.trainer import AMFTTrainer, TrainerInputError
from amft_lite.trainer_batches import answers_of, demonstration_batch
from amft_lite.trl_run import ModelRun
from tests.dialogues import (
    BARE,
    BRACKETS,
    CHATML,
    ROWS,
    Chat,
    Talks,
    byte_tokenizer,
    chatting,
    settings,
    talking_loop,
    talking_trainer,
)
from tests.parity import in_model_order
from tests.test_trainer import weights
from tests.test_trainer_parity import NAMES, relative, stop_after

# --- one algorithm --------------------------------------------------------------------------------


def gradients_of_both(folder, advantage, accumulation, **spoilt):
    loop = talking_loop(advantage=advantage)
    trained = talking_trainer(folder, accumulation, advantage=advantage, **spoilt)
    stop_after(trained, 3)
    trained.train()
    assert len(loop.rule.seen) == len(trained.rule.seen) == 2  # 1 (meta) and 2; 0 warms up
    return loop, trained, list(zip(loop.rule.seen, trained.rule.seen, strict=True))


@pytest.mark.parametrize("advantage", ["group", "gae"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_same_gradients_and_mu_from_the_same_dialogues(tmp_path, advantage, accumulation):
    loop, trained, pairs = gradients_of_both(tmp_path, advantage, accumulation)
    for (ours, mu, _), (theirs, their_mu, _) in pairs:
        for name in NAMES:
            mine, other = getattr(ours, name), getattr(theirs, name)
            assert (mine is None) == (other is None)
            if mine is not None:
                assert mine.isfinite().all() and mine.norm() > 1e-4
                assert relative(in_model_order(other, trained), mine) < 1e-5, name
        assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-5)
        assert ours.target_entropy == pytest.approx(theirs.target_entropy, abs=1e-5)
        assert ours.nll == pytest.approx(theirs.nll, abs=1e-5)
        assert mu == pytest.approx(their_mu, abs=1e-6)
    assert pairs[0][0][2]["signal"] == pytest.approx(pairs[0][1][2]["signal"], abs=1e-6)
    assert pairs[0][0][2]["signal"] != 0
    if advantage == "gae":
        for a, b in zip(loop.critic.parameters(), trained.critic.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        assert loop.critic.layers[2].weight.abs().max() > 1e-4


def test_learning_the_replies_too_would_be_seen(tmp_path):
    _, trained, pairs = gradients_of_both(tmp_path, "group", 1, own=lambda own: [1] * len(own))
    ours, theirs = pairs[0][0][0], pairs[0][1][0]
    for name in ("grad_rl", "grad_utility"):
        other = in_model_order(getattr(theirs, name), trained)
        assert relative(other, getattr(ours, name)) > 0.05, name
    assert abs(ours.entropy - theirs.entropy) > 1e-4


def test_the_gradient_of_demonstrations_is_that_of_the_experts_words_one_by_one(tmp_path):
    """No batch, no padding, no mask: each expert's token from all that was said before."""
    trained = talking_trainer(tmp_path, sft_batch=6)
    stop_after(trained, 2)
    trained.train()
    theirs = in_model_order(trained.rule.seen[0][0].grad_sft, trained)
    loop = talking_loop(steps=1, sft_batch=6)  # the policy after the same warm-up step
    model, tokenizer = loop.policy, loop.tokenizer
    model.zero_grad()
    losses = []
    for shown in Talks().demonstrations(6):
        before = tokenizer(shown.prompt)["input_ids"]
        for text, experts in shown.spoken:
            said = tokenizer(text, add_special_tokens=False)["input_ids"]
            for token in [*said, 1] if experts else said:
                if experts:
                    logits = model(torch.tensor([before])).logits[0, -1]
                    losses.append(-logits.log_softmax(0)[token])
                before = [*before, token]
    (sum(losses) / len(losses)).backward()
    mine = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert relative(theirs, mine) < 1e-4


# --- masks ----------------------------------------------------------------------------------------


def test_a_batch_of_trls_attends_to_what_it_does_not_learn():
    batch = {
        "prompt_ids": torch.tensor([[0, 5]]), "prompt_mask": torch.tensor([[0, 1]]),
        "completion_ids": torch.tensor([[6, 1, 9, 8, 7, 0]]),
        "completion_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]),
        "tool_mask": torch.tensor([[1, 1, 0, 0, 1, 1]]),  # TRL pads it with 1
    }  # fmt: skip
    found = answers_of(batch)
    assert found.attention.tolist() == [[0, 1, 1, 1, 1, 1, 1, 0]]
    assert found.mask.tolist() == [[1, 1, 0, 0, 1, 0]]


def test_demonstrations_are_attended_to_whole_and_learned_by_halves():
    rows = {"prompt_ids": [[5], [5, 6]], "answer_ids": [[7, 1, 8, 9, 1], [7, 1]],
            "learned": [[1, 1, 0, 1, 1], [1, 1]]}  # fmt: skip
    found = demonstration_batch(rows, 0, torch.device("cpu"))
    assert found.attention.tolist() == [[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]
    assert found.mask.tolist() == [[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]


# --- the sampler ----------------------------------------------------------------------------------


def model_of(family):
    from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig

    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(vocab_size=60, n_positions=96, n_embd=32, n_layer=2, n_head=2)
    elif family == "mistral":
        config = MistralConfig(vocab_size=60, hidden_size=32, intermediate_size=32,
                               num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                               sliding_window=8)  # fmt: skip
    else:
        model = tiny_llama(60)
    if family in ("gpt2", "mistral"):
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    if family == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p)
    return model.eval()


def scripted(row, answer):
    """A reply of a row's own length that depends on the answer; any may be the last."""
    rng = random.Random(f"{row}/{answer}")
    return None if rng.random() < 0.2 else [rng.randrange(2, 60) for _ in range(1 + row % 4)]


@pytest.mark.parametrize("family", ["llama", "lora", "gpt2", "mistral"])
def test_the_cache_across_turns_gives_the_tokens_of_reading_everything_again(family):
    model, ends = model_of(family), {1, 11, 12, 13, 14, 15}
    prompts = [[5], [6, 7, 8, 9], [30, 31], [4, 4, 4, 4, 4, 4, 4]]
    L = max(map(len, prompts))
    ids = torch.tensor([[0] * (L - len(p)) + p for p in prompts])
    read = []
    base = model.get_base_model() if family == "lora" else model
    base.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    base.generation_config.eos_token_id = 1  # which must not end a dialogue
    greedy = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=[1])
    found = sample_dialogues(model, greedy, ids, (ids > 0).long(), scripted, ends, 5, 40)
    assert read[0] == L and set(read[1:]) == {1} and len(read) == max(map(len, found.said))
    assert base.generation_config.eos_token_id == 1
    for row, prompt in enumerate(prompts):
        text, own, answer, reply, over = list(prompt), [], [], [], False
        while not over and len(own) < 40:
            if reply:
                text.append(reply.pop(0))
                own.append(0)
                continue
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
            text.append(int(logits.argmax()))
            own.append(1)
            answer.append(text[-1])
            if text[-1] in ends or len(answer) == 5:
                said = scripted(row, answer)
                answer, over, reply = [], said is None, list(said or [])
        assert found.said[row] == text[len(prompt) :] and found.own[row] == own
    assert any(0 in own for own in found.own) and len({len(own) for own in found.own}) > 1


def test_both_engines_say_the_same_to_the_same_task(tmp_path):
    task = load_task("navigation")
    tokenizer = word_tokenizer(task)
    model = tiny_llama(len(tokenizer), positions=positions(task))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    examples = task.prompts("train", 3)
    rolled, completions, rewards = roll(
        model, tokenizer, task, examples, 1, 0.0, torch.Generator().manual_seed(0)
    )
    args = settings(tmp_path, max_completion_length=13, max_episode_tokens=task.max_episode_tokens,
                    sft_warmup_steps=0)  # fmt: skip
    made = AMFTTrainer(
        model, None, args, [{"prompt": e.prompt, "i": i} for i, e in enumerate(examples)],
        method="rl", processing_class=tokenizer,
        episode=lambda row: task.episode(examples[row["i"]]),
    )  # fmt: skip
    rows = made.train_dataset.to_list()
    with made._validating(1, greedy=True):
        _, turns, answers, grades = made.converse(rows, made.episode)
    assert answers == completions and all(len(answer) > 1 for answer in answers)
    assert grades == [reward.value for reward in rewards]
    for row in range(3):
        length = len(turns.said[row])
        assert turns.said[row] == rolled.tokens[row, :length].tolist()
        assert turns.own[row] == rolled.mask[row, :length].tolist()


def test_turns_end_by_token_length_task_and_limit():
    heard = []

    def speak(row, answer):
        heard.append((row, list(answer)))
        return None if row == 2 else [9, 8]

    turns = Turns(3, speak, {1}, answer_tokens=3, all_tokens=6)
    for tokens in ([5, 1, 1], [5, 0, 0], [5, 0, 0], [0, 4, 0], [0, 4, 0], [7, 4, 0], [7, 7, 7]):
        given = turns.due()
        turns.take([given.get(row, token) for row, token in enumerate(tokens)])
    assert turns.said == [[5, 5, 5, 9, 8, 7], [1, 9, 8, 4, 4, 4], [1]]
    assert turns.own == [[1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 1], [1]]
    assert heard == [(1, [1]), (2, [1]), (0, [5, 5, 5]), (1, [4, 4, 4])]


# --- spelling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (BRACKETS, "</s>")])
def test_a_dialogue_is_spelled_as_the_template_writes_the_whole_of_it(template, end):
    tokenizer = byte_tokenizer(template)
    speech = Speech(tokenizer, [], chat=True)
    prompt = [{"role": "user", "content": "where to?"}]
    turns = [("north | go", True), ("see  a cafe:", False), ("stop", True)]
    said = [{"role": "assistant" if own else "user", "content": text} for text, own in turns]
    asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(prompt + said, tokenize=False)
    ids, own = speech.spell(turns)
    written = asked + tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    # blanks between an answer and its end are the template's, and not what a policy is taught
    assert written.replace(" ", "") == whole.rstrip().replace(" ", "")
    learned = tokenizer.decode([token for token, mine in zip(ids, own, strict=True) if mine])
    assert learned == f"north | go{end}stop{end}"
    cut_off = speech.reply("see", ended=False)
    assert cut_off[0] == tokenizer.convert_tokens_to_ids(end) and cut_off[1:] == speech.reply("see")
    assert speech.heard(tokenizer("stop")["input_ids"] + [cut_off[0]]) == "stop"


def test_where_no_token_of_the_template_ends_an_answer_end_of_text_does():
    tokenizer = byte_tokenizer(BARE)
    speech = Speech(tokenizer, [], chat=True)
    assert speech.end == tokenizer.eos_token_id
    assert tokenizer.decode(speech.reply("see")) == "\nuser: see\nassistant:"


def test_a_template_without_turns_is_refused():
    with pytest.raises(SpeechError, match="cannot spell a dialogue"):
        Speech(byte_tokenizer("{{ messages[-1]['content'] }}"), [], chat=True)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_a_trainer_learns_from_dialogues_and_hears_whole_ones(tmp_path, advantage):
    made = chatting(tmp_path, advantage=advantage, num_iterations=1)
    start = weights(made)
    made.train()
    logs = [entry for entry in made.state.log_history if "amft/mu" in entry]
    assert len(logs) == 2
    for entry in logs:
        for name in ("grad_norm_sft", "grad_norm_rl", "grad_norm_utility"):
            assert 0 < entry[f"amft/{name}"] < 1e4, name
        assert 3 <= entry["completions/mean_length"] <= 18  # three answers of at most 6, no replies
        assert 0 < entry["reward"] <= 1
    assert (weights(made) - start).abs().max() > 0
    found = made.answers(ROWS["train"][:3], 2, episode=Chat)
    assert [len(texts) for texts in found] == [2, 2, 2]
    assert all(isinstance(texts[0], tuple) and len(texts[0]) == 3 for texts in found)


def test_a_resumed_run_of_dialogues_is_the_uninterrupted_one(tmp_path):
    def run(folder, resume=None, stop=None):
        made = chatting(tmp_path / folder, max_steps=3, save_strategy="steps", save_steps=1)
        if stop:
            stop_after(made, stop)
        made.train(resume_from_checkpoint=resume)
        return made

    whole = run("whole")
    run("half", stop=2)
    resumed = run("half", resume=str(tmp_path / "half" / "checkpoint-2"))
    assert resumed.state.global_step == 3
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.rule.mu == resumed.rule.mu


def test_trl_still_takes_rollouts_of_several_turns_as_we_give_them():
    assert "rollout_func" in inspect.signature(GRPOTrainer.__init__).parameters
    source = inspect.getsource(GRPOTrainer._generate)
    for name in ('"prompt_ids"', '"completion_ids"', '"logprobs"', '"env_mask"'):
        assert name in source
    assert '"tool_mask"' in inspect.getsource(GRPOTrainer._compute_loss)


# --- refusals -------------------------------------------------------------------------------------

BAD = [{"prompt": "1 :", "completion": ["1 + 1", "; 1 ;"]}]
TEXT = [{"prompt": "1 :", "completion": "1 + 1"}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reward": lambda completions, **_: [0.0]}, "give reward_funcs or episode, not both"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions does not work"),
        ({"use_vllm": True}, "use_vllm does not work with dialogues"),
        ({"rollout_func": lambda prompts, trainer: {}}, "rollout_func and episode both speak"),
        ({"max_episode_tokens": 5}, "the longest demonstration has 15 tokens"),
        ({"max_episode_tokens": 64}, "leaves no room for a prompt in the model's 64 positions"),
        ({"max_episode_tokens": 0}, "max_episode_tokens must be at least 1"),
        ({"sft": BAD}, "row 0 must have a prompt, and as its completion a list of turns"),
        ({"sft": TEXT}, "row 0 must have a prompt, and as its completion a list of turns"),
        ({"episode": None, "reward": lambda completions, **_: []}, "those need episode"),
        ({"episode": lambda row: type("E", (), {"answer": lambda *_: None,
                                                "reward": float("nan")})()}, "not finite"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(TrainerInputError, match=sentence):
        chatting(tmp_path, **changes).train()


# --- runs -----------------------------------------------------------------------------------------

TINY = {
    "task": "navigation", "lora_rank": 0, "gradient_checkpointing": "off", "steps": 2,
    "warmup_steps": 1, "prompts_per_step": 2, "rollouts_per_prompt": 2, "sft_batch": 2,
    "validation_prompts": 1, "validation_rollouts": 2, "meta_every": 1, "demonstrations": 4,
    "eval_prompts": 1, "eval_samples": 2, "eval_every": 0,
    "max_episode_tokens": 160,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A fresh policy of navigation."""
    task, folder = load_task("navigation"), tmp_path_factory.mktemp("base")
    tokenizer = word_tokenizer(task)
    tiny_llama(len(tokenizer), positions=positions(task)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_run_of_a_dialogue_is_a_run_folder_like_any_other(tmp_path, base):
    run = ModelRun.create(tmp_path / "r", build({**TINY, "model": str(base)}))
    run.task.reported = ("test",)  # a third of the time
    whole = run.task.prompts

    def brief(split, n=None, seed=0):
        return [e for e in whole(split, None, seed) if len(e.points) < 8][:n]

    run.task.prompts = brief
    summary = run.train()
    found = summary["splits"]["final"]["test"]
    assert sum(found["outcomes"].values()) == 2
    assert found["readings"].keys() == {"steps right", "turns right"}
    lines = [json.loads(x) for x in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [x["phase"] for x in lines] == ["warm-up", "train"] and lines[1]["rollouts_tokens"] > 4
    example = run.task.prompts("test", 1)[0]
    walk = run.answer(example)
    assert isinstance(walk, tuple) and len(walk) > 3  # failed points are passed in measuring


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vllm": "colocate"}, "vllm colocate does not work with navigation, which answers back"),
        ({"backend": "unsloth"}, "backend unsloth does not work with navigation"),
        ({"max_episode_tokens": 20}, "max_episode_tokens is 20; set it to"),
    ],
)
def test_a_run_refuses_what_dialogues_cannot_have(tmp_path, base, changes, sentence):
    config = build({**TINY, "model": str(base), **changes})
    with pytest.raises(ConfigError, match=sentence):
        ModelRun.create(tmp_path / "r", config).train()


def test_with_a_chat_template_replies_are_messages_of_the_user(tmp_path, base):
    run = ModelRun(tmp_path, build({**TINY, "model": str(base)}))
    run.tokenizer = byte_tokenizer(CHATML)
    shown = run.task.demonstrations(1)[0]
    row = run.expert_row(shown)
    assert row["prompt"][-1]["role"] == "user"
    assert [m["role"] for m in row["completion"][:3]] == ["assistant", "user", "assistant"]
    assert [m["content"] for m in row["completion"]] == [text for text, _ in shown.spoken]
    run.tokenizer = copy.copy(run.tokenizer)
    run.tokenizer.chat_template = None
    assert run.expert_row(shown)["completion"] == [text for text, _ in shown.spoken]
