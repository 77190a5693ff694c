"""One step of `loop.AMFT` and of `AMFTTrainer` on the same recorded token ids and rewards.

Prompts of different lengths (left padding), answers of different lengths, with and without
end-of-text (masked tails); the task is a recording, so nothing is sampled.
"""

import random
from dataclasses import dataclass, field

import torch

from amft_lite.batches import Batch
from amft_lite.config import build
from amft_lite.loop import AMFT
from amft_lite.models import tiny_llama, word_tokenizer
from amft_lite.tasks import Demonstration, Example, Reward, load_task

WORDS = load_task("general_points").vocabulary()
SETTINGS = {
    "steps": 6, "warmup_steps": 1, "sft_batch": 4, "prompts_per_step": 4, "rollouts_per_prompt": 4,
    "validation_prompts": 4, "validation_rollouts": 4, "meta_every": 2, "demonstrations": 6,
    "lr": 1e-3, "eta_mu": 1.0, "entropy_form": "equation",
}  # fmt: skip


def words(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


@dataclass
class Recording:
    """A task whose prompts, demonstrations and answers were drawn once."""

    seed: int = 0
    name: str = "recording"
    splits: tuple = ("train", "validation", "test", "ood_rule")
    max_new_tokens: int = 12
    answers: dict = field(default_factory=dict)

    def prompts(self, split, n=None, seed=0):
        rng = random.Random(f"{self.seed}/{split}")
        texts = [f"{words(rng, 2, 9)} {i % 90} |" for i in range(n or 64)]
        return [Example(t, split, f"{split}{i}", t) for i, t in enumerate(texts)]

    def demonstrations(self, n, seed=0, split="train"):
        rng = random.Random(f"{self.seed}/expert/{split}")
        return [
            Demonstration(Example(f"{words(rng, 1, 8)} :", split, f"e{i}", ""), words(rng, 2, 11))
            for i in range(n)
        ]

    def answer(self, prompt, k, number):
        """Token ids of the k-th answer to a prompt in step `number`, and its reward."""
        rng = random.Random(f"{self.seed}/{prompt}/{k}/{number}")
        ids = [rng.randrange(3, 100) for _ in range(rng.randint(1, self.max_new_tokens))]
        ends = len(ids) < self.max_new_tokens
        return [*ids[:-1], 1] if ends else ids, float(rng.random() < 0.4)

    def reward(self, example, completion):
        return Reward(0.0, "", False)

    def vocabulary(self):
        return WORDS


class RecordedLoop(AMFT):
    """The loop, with answers from the recording in place of samples."""

    def sample(self, prompts, n, purpose, facts, temperature=None):
        if purpose == "entropy":  # the trainer reads H* off the first rollouts
            purpose = "rollouts"
        rows = [(p, *self.task.answer(p.prompt, k, self.step)) for p in prompts for k in range(n)]
        encoded = self.tokenizer([p.prompt for p, _, _ in rows], padding=True, return_tensors="pt")
        longest = max(len(ids) for _, ids, _ in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, (_, ids, _) in enumerate(rows):
            tokens[i, : len(ids)], mask[i, : len(ids)] = torch.tensor(ids), 1
        return Batch(
            torch.cat((encoded.input_ids, tokens), 1),
            torch.cat((encoded.attention_mask, mask), 1),
            tokens, mask, torch.tensor([reward for _, _, reward in rows]),
        )  # fmt: skip


class Watched:
    """A mu rule that writes down what it is shown."""

    def __init__(self, rule):
        self.rule, self.seen = rule, []

    def __getattr__(self, name):
        return getattr(self.rule, name)

    def update(self, signals):
        mu = self.rule.update(signals)
        self.seen.append((signals, mu, dict(self.rule.parts)))
        return mu


def policy(seed=3):
    """A tiny Llama with weights large enough that its gradients are not."""
    tokenizer = word_tokenizer(load_task("general_points"))
    model = tiny_llama(len(tokenizer), "0.2M", seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model.eval(), tokenizer


def loop_run(steps=3, **changes):
    """[(signals, mu, parts)] of the loop after `steps` steps, and the policy."""
    model, tokenizer = policy()
    config = build({**SETTINGS, **changes})
    loop = RecordedLoop(model, tokenizer, Recording(), config)
    loop.rule = Watched(loop.rule)
    for _ in range(steps):
        loop.train_step()
    return loop


def trainer(folder, steps=3, accumulation=1, processes=1, model=None, callbacks=(), **changes):
    """An AMFTTrainer set as the loop of `loop_run`."""
    from amft_lite.trainer import AMFTConfig, AMFTTrainer

    c = build({**SETTINGS, **changes})
    tiny, tokenizer = policy()
    task = Recording()
    rows = c.prompts_per_step * c.rollouts_per_prompt // accumulation // processes
    args = AMFTConfig(
        str(folder), learning_rate=c.lr, max_steps=c.steps, use_cpu=True, bf16=False,
        per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation,
        num_generations=c.rollouts_per_prompt, max_completion_length=task.max_new_tokens,
        sft_batch_size=c.sft_batch, sft_warmup_steps=c.warmup_steps, shuffle_dataset=False,
        validation_prompts=c.validation_prompts, validation_rollouts=c.validation_rollouts,
        meta_every=c.meta_every, eta_mu=c.eta_mu, entropy_form=c.entropy_form,
        advantage=c.advantage, report_to=[], save_strategy="no", disable_tqdm=True, seed=c.seed,
        logging_steps=1, weight_decay=0.0, mu_start=c.mu_start, gate_start=c.gate_start,
        eta_gate=c.eta_gate, eta_trust=c.eta_trust,
    )  # fmt: skip

    class Recorded(AMFTTrainer):
        """TRL's engine replaced by the recording; everything after it is TRL's own."""

        recorded = True

        def unrecorded(self):
            """Sample freely; the rewards stay those of the recording."""
            self.recorded = False

        def _rows(self, dataset, n, number, purpose):
            if purpose in ("demonstrations", "influence"):
                return super()._rows(dataset, n, number, purpose)
            share = n // self.accelerator.num_processes  # the loop takes slices of a fixed list
            first = number * n + self.accelerator.process_index * share
            return dataset[list(range(first, first + share))]

        def _generate_single_turn(self, prompt_ids, images, fields, num_generations):
            if not self.recorded:
                return super()._generate_single_turn(prompt_ids, images, fields, num_generations)
            ids = []
            for i, row in enumerate(prompt_ids):
                prompt = " ".join(tokenizer.convert_ids_to_tokens(row))
                place = i % num_generations
                ids.append(task.answer(prompt, place, self.state.global_step)[0])
            return ids, None

    def reward(prompts, completions, completion_ids, trainer_state, **_):
        n = c.rollouts_per_prompt
        return [task.answer(p, i % n, trainer_state.global_step)[1] for i, p in enumerate(prompts)]

    def table(examples):
        return [{"prompt": e.prompt} for e in examples]

    demos = [{"prompt": d.prompt, "completion": d.completion}
             for d in task.demonstrations(c.demonstrations)]  # fmt: skip
    made = Recorded(
        model or tiny, reward, args, table(task.prompts("train", c.steps * c.prompts_per_step)),
        sft_dataset=demos, method=c.method, processing_class=tokenizer, callbacks=list(callbacks),
        validation_dataset=table(task.prompts("validation", 16)),
    )  # fmt: skip
    made.rule = Watched(made.rule)
    return made


def in_model_order(vector, trained):
    """A gradient in the optimiser's order as one in the order of model.parameters()."""
    sizes = [p.numel() for p in trained._parameters]
    parts = dict(zip(map(id, trained._parameters), vector.split(sizes), strict=True))
    return torch.cat([parts[id(p)] for p in trained.model.parameters()])
