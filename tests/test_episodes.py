"""Dialogues in one pass, against re-reading everything at every turn and against `transformers`."""

import dataclasses

import pytest
import torch

from amft_lite.batches import encode, graded_rollouts, roll, spell
from amft_lite.config import build
from amft_lite.episodes import converse
from amft_lite.evaluation import evaluate, graded
from amft_lite.loop import AMFT
from amft_lite.models import (
    base_folder,
    completion_logits,
    load_policy,
    positions,
    tiny_llama,
    token_logps,
    word_tokenizer,
)
from amft_lite.pretrain import padded
from amft_lite.sampling import sample
from amft_lite.tasks import Demonstration, Reward, load_task


@pytest.fixture(scope="module")
def nav():
    return load_task("navigation")


@pytest.fixture(scope="module")
def fresh(nav):
    """A model that has learned nothing, sharpened so that it does not draw uniformly."""
    tokenizer = word_tokenizer(nav)
    model = tiny_llama(len(tokenizer), seed=5, positions=positions(nav)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 12
    return model, tokenizer


def ids_of(tokenizer, texts):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def test_a_dialogue_of_one_turn_is_a_sample(fresh):
    """The same draws from the same generator as `sample`, which has no turns."""
    model, tokenizer = fresh
    ids, attention = ids_of(tokenizer, ["see nothing :", "go north : see nothing :"])
    source = lambda: torch.Generator().manual_seed(4)  # noqa: E731
    one = converse(model, ids, attention, lambda row, said: None, 1, 9, 40, 1.0, source())
    other = sample(model, ids, attention, 1, 9, 1.0, source())
    for row in range(2):  # rows that go on draw the same until another has ended
        length = int(min(one.mask.sum(1).min(), other.mask.sum(1).min()))
        assert torch.equal(one.tokens[row, :length], other.tokens[row, :length])


def test_greedy_turns_are_those_of_a_model_that_reads_everything_again(fresh, nav):
    """Without a cache: the whole dialogue so far is a prompt, answered by `sample`."""
    model, tokenizer = fresh
    replies = ["wrong : see nothing :", "see museum right :", "stop"]
    prompts = ["see nothing :", "forward stop turn left : 1 turn left north : see nothing :"]
    heard: dict[int, list[list[int]]] = {0: [], 1: []}

    def speak(row, said):
        heard[row].append(said)
        turn = len(heard[row]) - 1
        return None if turn == 3 - row else tokenizer(replies[turn])["input_ids"]

    rolled = converse(model, *ids_of(tokenizer, prompts), speak, 1, 6, 200, 0.0)
    eos = tokenizer.eos_token_id
    for row, prompt in enumerate(prompts):
        dialogue = tokenizer(prompt)["input_ids"]
        before, own = len(dialogue), []
        for turn, said in enumerate(heard[row]):
            ids = torch.tensor([dialogue])
            again = sample(model, ids, torch.ones_like(ids), 1, 6, 0.0)
            answer = again.tokens[0][again.mask[0].bool()].tolist()
            assert answer == said + [eos] * (len(answer) > len(said))
            reply = [] if turn + 1 == len(heard[row]) else tokenizer(replies[turn])["input_ids"]
            dialogue += answer + reply
            own += [1] * len(answer) + [0] * len(reply)
        length = len(dialogue) - before
        assert rolled.tokens[row, :length].tolist() == dialogue[before:]
        assert rolled.mask[row].tolist() == own + [0] * (rolled.mask.shape[1] - length)
        there = rolled.attention[row, -rolled.tokens.shape[1] :]
        assert there.tolist() == [1] * length + [0] * (len(there) - length)


def test_logps_of_a_dialogue_are_those_of_transformers_teacher_forced(fresh, nav):
    model, tokenizer = fresh
    prompts = nav.prompts("train", 3)
    source = torch.Generator().manual_seed(0)
    rolled, completions, rewards = roll(model, tokenizer, nav, prompts, 2, 1.0, source)
    T = rolled.tokens.shape[1]
    logps = token_logps(completion_logits(model, rolled.ids, rolled.attention, T), rolled.tokens)
    for row in range(6):
        kept = rolled.attention[row].bool()
        ids = rolled.ids[row][kept]
        alone = model(ids[None]).logits[0, :-1].log_softmax(-1)
        expected = alone.gather(-1, ids[1:, None])[:, 0]
        n = int(rolled.attention[row, -T:].sum())
        assert torch.allclose(logps[row, :n], expected[-n:], atol=1e-4)
        ours = rolled.tokens[row][rolled.mask[row].bool()].tolist()
        said = [spell(tokenizer, [(a, True)])[0] for a in completions[row]]
        flat = [t for answer in said for t in answer]
        # an answer that was cut off has no end-of-text
        assert [t for t in ours if t != 1] == [t for t in flat if t != 1]
    assert len(rewards) == 6 and all(not r.correct for r in rewards)


def test_the_mask_covers_the_policys_words_and_the_attention_both(fresh, nav):
    model, tokenizer = fresh
    batch = graded_rollouts(
        model, tokenizer, nav, nav.prompts("train", 2), 4, 1.0, torch.Generator().manual_seed(1)
    )
    T = batch.tokens.shape[1]
    there = batch.attention[:, -T:]
    assert bool((batch.mask <= there).all()) and bool((batch.mask < there).any())
    for row in range(8):
        replies = batch.tokens[row][(there[row] == 1) & (batch.mask[row] == 0)]
        words = tokenizer.decode(replies).split()
        assert words[-1] == ":" and set(words) <= {
            *("see", "nothing", ":", "wrong", "not_allowed", "intersection"), *nav.vocabulary()
        }  # fmt: skip
        assert words[0] in ("see", "wrong", "not_allowed")


def test_demonstrations_are_learned_where_the_expert_speaks(nav):
    tokenizer = word_tokenizer(nav)
    demonstrations = nav.demonstrations(3)
    batch = encode(tokenizer, demonstrations)
    for row, demonstration in enumerate(demonstrations):
        own = tokenizer.decode(batch.tokens[row][batch.mask[row].bool()])
        assert own == " ".join(f"{answer} <eos>" for answer in demonstration.completion)
        T = batch.tokens.shape[1]
        heard = (batch.attention[row, -T:] == 1) & (batch.mask[row] == 0)
        assert tokenizer.decode(batch.tokens[row][heard]) == " ".join(demonstration.replies)
    ids, attention, mask = padded([(d.prompt, d.spoken) for d in demonstrations], tokenizer)
    assert torch.equal(ids, batch.ids) and torch.equal(attention, batch.attention)
    assert torch.equal(mask, batch.mask)  # two ways of spelling agree


def test_the_gradient_of_imitation_leaves_out_the_tasks_words(nav, fresh):
    """A loop's g_SFT on walks is that of each answer alone, after all that was said before it."""
    model, tokenizer = fresh
    config = build({"task": "navigation", "demonstrations": 2, "sft_batch": 2, "steps": 2,
                    "warmup_steps": 1, "prompts_per_step": 1})  # fmt: skip
    loop = AMFT(model, tokenizer, nav, config)
    batch = loop.expert_answers
    ours = loop.gradient(loop.plain_nll, batch, {})
    total, loss = int(batch.mask.sum()), torch.zeros(())
    for demonstration in loop.demonstrations:
        ids = tokenizer(demonstration.prompt)["input_ids"]
        for answer, reply in zip(
            demonstration.completion, (*demonstration.replies, ""), strict=True
        ):
            end = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
            whole = torch.tensor([ids + end])
            logps = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            loss = loss - logps.gather(-1, torch.tensor(end)[:, None]).sum() / total
            ids = ids + end + (tokenizer(reply)["input_ids"] if reply else [])
    loss.backward()
    theirs = torch.cat([p.grad.flatten() for p in loop.parameters])
    model.zero_grad()
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


class Countdown:
    """A dialogue of `turns` answers, whatever they are; rewarded by the number of words."""

    def __init__(self, turns):
        self.turns, self.heard = turns, []

    def answer(self, text):
        self.heard.append(text)
        return None if len(self.heard) == self.turns else "see nothing :"

    @property
    def reward(self):
        return Reward(float(sum(len(t.split()) for t in self.heard)), "counted", False)


def test_every_row_has_its_own_dialogue(fresh, nav):
    """Rows end at different turns; none hears another's words."""
    model, tokenizer = fresh

    class Counting(type(nav)):
        def episode(self, example, to_the_end=False):
            self.begun = [
                *getattr(self, "begun", []),
                Countdown(1 + len(getattr(self, "begun", []))),
            ]
            return self.begun[-1]

    task = Counting()
    batch = graded_rollouts(
        model, tokenizer, task, task.prompts("train", 5), 1, 1.0, torch.Generator().manual_seed(3)
    )
    for row, episode in enumerate(task.begun):
        assert len(episode.heard) == row + 1
        own = batch.tokens[row][batch.mask[row].bool()].tolist()
        words = [w for w in tokenizer.decode(own).split() if w != "<eos>"]
        assert words == [w for text in episode.heard for w in text.split() if w != "<eos>"]
        assert batch.rewards[row] == sum(len(t.split()) for t in episode.heard)


def test_a_dialogue_without_end_is_cut_off(fresh):
    model, tokenizer = fresh
    ids, attention = ids_of(tokenizer, ["see nothing :"])
    rolled = converse(model, ids, attention, lambda row, said: [5, 6], 2, 4, 150, 1.0)
    assert rolled.tokens.shape == (2, 150) and bool((rolled.attention == 1).all())


def test_measuring_counts_first_tries_over_all_points(nav):
    example = nav.prompts("test")[0]
    right = tuple(point.answer for point in example.points)
    n, turns = len(example.points), sum(p.kind == "turn" for p in example.points)
    found = graded(nav, "test", [example], [[right, ("x",)]], [right])
    assert found.correct == [1] and found.greedy == [1]
    assert found.readings["steps right"] == [n] and found.times_asked("steps right") == [n + 1]
    assert found.times_asked("turns right") == [turns + 1]
    assert found.share("steps right") == n / (n + 1)
    assert found.reading("steps right").mean == pytest.approx(n / (n + 1))


def test_evaluation_walks_to_the_end(fresh, nav):
    """A model that knows nothing fails at once, but is measured at every point of the route."""
    found = evaluate(*fresh, nav, "test", prompts=3, samples=2, greedy=False)
    points = [len(example.points) for example in nav.prompts("test")[:3]]
    assert found.times_asked("steps right") == [2 * n for n in points]


def test_amft_trains_on_dialogues_and_resumes():
    config = build({"task": "navigation", "steps": 3, "warmup_steps": 1, "sft_batch": 2,
                    "prompts_per_step": 2, "rollouts_per_prompt": 2, "validation_prompts": 2,
                    "validation_rollouts": 2, "meta_every": 1, "reward": "shaped"})  # fmt: skip
    task = load_task("navigation", reward="shaped")

    def loop():
        return AMFT(*load_policy(base_folder("navigation")), task, config)

    whole = loop()
    facts = [whole.train_step() for _ in range(3)]
    assert facts[1]["grad_norm_rl"] > 0 and facts[1]["grad_norm_utility"] > 0
    assert facts[2]["grad_norm_sft"] > 0
    first = loop()
    first.train_step()
    state = first.state_dict()
    second = loop()
    second.load_state_dict(state)
    second.train_step()
    second.train_step()
    for a, b in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)


def test_gae_rewards_the_policys_last_token(nav):
    """The reward comes with the last token of the policy's, though replies lie between."""
    tokenizer = word_tokenizer(nav)
    config = build({"task": "navigation", "steps": 2, "warmup_steps": 0, "advantage": "gae",
                    "gae_lambda": 1.0, "prompts_per_step": 2, "rollouts_per_prompt": 2,
                    "method": "rl", "reward": "shaped"})  # fmt: skip
    task = load_task("navigation", reward="shaped")
    loop = AMFT(tiny_llama(len(tokenizer), seed=1).eval(), tokenizer, task, config)
    batch = loop.roll_out({})
    # a fresh critic says 0: with gamma = lambda = 1 the advantage of every token is the reward
    for row in range(4):
        own = batch.mask[row].bool()
        assert torch.allclose(batch.advantages[row][own], batch.rewards[row].expand(int(own.sum())))
        assert bool((batch.advantages[row][~own] == 0).all())


def test_single_turn_demonstrations_are_spelled_as_before(task):
    tokenizer = word_tokenizer(task)
    demonstrations = task.demonstrations(5)
    batch = encode(tokenizer, demonstrations)
    for row, d in enumerate(demonstrations):
        assert isinstance(d, Demonstration) and d.spoken == [(d.completion, True)]
        ids = tokenizer(f"{d.prompt} {d.completion} <eos>")["input_ids"]
        assert batch.ids[row][batch.attention[row].bool()].tolist() == ids
    assert dataclasses.replace(demonstrations[0]).replies == ()
