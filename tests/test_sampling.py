"""The sampler against `transformers` and against the distribution it must draw from."""

import pytest
import torch

from amft_lite.models import (
    completion_logits,
    hidden_states,
    tiny_llama,
    token_logps,
    word_tokenizer,
)
from amft_lite.sampling import Rollouts, answer_texts, check_model, sample


def encode(tokenizer, prompts):
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def test_greedy_tokens_are_those_of_generate(base, task):
    policy, tokenizer = base
    ids, attention = encode(tokenizer, [e.prompt for e in task.prompts("test", 64)])
    ours = sample(policy, ids, attention, 1, 14, temperature=0)
    theirs = policy.generate(
        input_ids=ids, attention_mask=attention, do_sample=False, max_new_tokens=14
    )
    assert torch.equal(ours.ids, theirs)


@pytest.mark.parametrize("setting", [
    {"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}])  # fmt: skip
def test_a_llama_that_the_sampler_would_compute_otherwise_is_refused(base, setting):
    policy, _ = base
    [(name, value)] = setting.items()
    before = getattr(policy.config, name)
    setattr(policy.config, name, value)
    try:
        with pytest.raises(ValueError, match=f"knows Llama with {name} "):
            check_model(policy)
    finally:
        setattr(policy.config, name, before)
    check_model(policy)


def test_left_padding_changes_no_greedy_token(base, task):
    """A prompt padded by a longer neighbour is answered as if it stood alone."""
    policy, tokenizer = base
    short, long = "10 10 10 ; 24 : J 3 8 |", "10 10 10 ; 24 : J 3 8 | 10 3 8 10 3 *"
    together = sample(policy, *encode(tokenizer, [short, long]), 1, 8, temperature=0)
    for row, prompt in enumerate((short, long)):
        alone = sample(policy, *encode(tokenizer, [prompt]), 1, 8, temperature=0)
        assert torch.equal(together.tokens[row], alone.tokens[0])
    ids, attention = encode(tokenizer, [short, long])
    logits = completion_logits(policy, ids, attention, 1)  # the training forward agrees
    alone = completion_logits(policy, *encode(tokenizer, [short]), 1)
    assert torch.allclose(logits[0], alone[0], atol=1e-5)


def test_logps_of_sampled_tokens_agree_with_transformers_teacher_forced(base, task):
    policy, tokenizer = base
    ids, attention = encode(tokenizer, [e.prompt for e in task.prompts("train", 8)])
    rolled = sample(policy, ids, attention, 4, 14, generator=torch.Generator().manual_seed(0))
    logits = completion_logits(policy, rolled.ids, rolled.attention, 14)
    logps = token_logps(logits, rolled.tokens)
    output = policy(input_ids=rolled.ids, attention_mask=rolled.attention).logits
    expected = output[:, 9:-1].log_softmax(-1).gather(-1, rolled.tokens[..., None])[..., 0]
    live = rolled.mask.bool()
    assert torch.allclose(logps[live], expected[live], atol=1e-5)
    states = hidden_states(policy, rolled.ids, rolled.attention, 14)
    assert torch.allclose(policy.lm_head(states)[live], logits[live], atol=1e-5)


def test_frequencies_are_the_softmax_at_the_temperature():
    """20,000 first tokens against the model's own probabilities: chi-square, 99.9 %."""
    from scipy.stats import chisquare

    from amft_lite.tasks import load_task

    task = load_task("general_points")
    tokenizer = word_tokenizer(task)
    model = tiny_llama(len(tokenizer), "0.2M", seed=3).eval()
    with torch.no_grad():  # a fresh model is nearly uniform; make some tokens likelier
        model.lm_head.weight *= 30
    ids, attention = encode(tokenizer, ["10 10 10 ; 24 : J 3 8 |"])
    n = 20_000
    for temperature in (1.0, 0.5):
        drawn = sample(
            model, ids, attention, n, 1, temperature, torch.Generator().manual_seed(1)
        ).tokens[:, 0]
        with torch.no_grad():
            p = (model(ids).logits[0, -1].double() / temperature).softmax(-1)
        counts = torch.bincount(drawn, minlength=len(p)).double()
        often = p * n >= 5  # chi-square needs five expected; the rest is one bin
        observed = torch.cat((counts[often], counts[~often].sum()[None]))
        expected = torch.cat((p[often], p[~often].sum()[None])) * n
        kept = expected > 0
        assert chisquare(observed[kept], expected[kept] / expected[kept].sum() * n).pvalue > 1e-3


def test_nothing_follows_the_end_of_text(base, task):
    policy, tokenizer = base
    ids, attention = encode(tokenizer, [e.prompt for e in task.prompts("train", 16)])
    rolled = sample(policy, ids, attention, 8, 20, generator=torch.Generator().manual_seed(2))
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ended = 0
    for tokens, mask in zip(rolled.tokens.tolist(), rolled.mask.tolist(), strict=True):
        if eos in tokens:
            end = tokens.index(eos) + 1
            ended += 1
        else:
            end = len(tokens)
        assert mask == [1] * end + [0] * (len(tokens) - end)
        assert set(tokens[end:]) <= {pad}
    assert ended > 100


def test_same_generator_same_draws_and_another_other_draws(base, task):
    policy, tokenizer = base
    ids, attention = encode(tokenizer, [e.prompt for e in task.prompts("train", 16)])

    def draw(seed):
        source = torch.Generator().manual_seed(seed)
        return sample(policy, ids, attention, 2, 14, generator=source).tokens

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_other_architectures_are_refused_with_the_way_out():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=10))
    with pytest.raises(ValueError, match=r"gpt2.*model\.generate"):
        sample(model, torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2), 1, 1)


def test_a_sampled_special_token_is_no_blank(base, task):
    """A right answer with `<pad>` or `<unk>` in its middle is not right."""
    tokenizer = base[1]
    demonstration = task.demonstrations(1)[0]
    right = tokenizer(demonstration.completion, return_tensors="pt").input_ids[0]
    for special in (tokenizer.pad_token_id, tokenizer.unk_token_id, None):
        middle = [] if special is None else [special]
        tokens = torch.tensor([[*right[:5], *middle, *right[5:], tokenizer.eos_token_id, 0, 0]])
        mask = torch.ones_like(tokens)
        mask[:, -2:] = 0
        [text] = answer_texts(Rollouts(tokens, mask, tokens, mask), tokenizer)
        reward = task.reward(demonstration.example, text)
        assert reward.reason == ("correct" if special is None else "illegal"), text
    cut_off = torch.ones(1, len(right), dtype=torch.long)
    [text] = answer_texts(Rollouts(right[None], cut_off, right[None], cut_off), tokenizer)
    assert text == demonstration.completion
