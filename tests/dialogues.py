"""Recorded dialogues for both engines, tiny talks, and tokenizers with chat templates."""

import random
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from amft_lite.batches import Batch
from amft_lite.config import build
from amft_lite.tasks import Demonstration, Example
from amft_lite.trainer import AMFTConfig, AMFTTrainer
from tests.parity import SETTINGS, RecordedLoop, Recording, Watched, policy, words


@dataclass
class Talks(Recording):
    """Dialogues drawn once: answers with and without end-of-text, replies between them, and some
    that are cut off while the task speaks."""

    def demonstrations(self, n, seed=0, split="train"):
        rng = random.Random(f"{self.seed}/expert/{split}")
        found = []
        for i in range(n):
            example = Example(f"{words(rng, 1, 8)} :", split, f"e{i}", "")
            turns = rng.randint(1, 3)
            answers = tuple(words(rng, 1, 5) for _ in range(turns))
            replies = tuple(words(rng, 1, 4) for _ in range(turns - 1))
            found.append(Demonstration(example, answers, replies=replies))
        return found

    def dialogue(self, prompt, k, number):
        """(token ids, 1 where the policy's own, reward)."""
        rng = random.Random(f"{self.seed}/{prompt}/{k}/{number}")
        ids, own = [], []
        for turn in range(rng.randint(1, 4)):
            if turn:
                reply = [rng.randrange(3, 100) for _ in range(rng.randint(1, 5))]
                ids, own = ids + reply, own + [0] * len(reply)
            answer = [rng.randrange(3, 100) for _ in range(rng.randint(1, 5))] + [1]
            answer = answer[: rng.choice((5, 6))]
            ids, own = ids + answer, own + [1] * len(answer)
        if rng.random() < 0.3:
            ids, own = [*ids, 7, 8], [*own, 0, 0]
        return ids, own, float(rng.random() < 0.4)


class TalkingLoop(RecordedLoop):
    """The loop, with dialogues from the recording in place of samples."""

    def sample(self, prompts, n, purpose, facts, temperature=None):
        rows = [(p, *self.task.dialogue(p.prompt, k, self.step)) for p in prompts for k in range(n)]
        encoded = self.tokenizer([p.prompt for p, *_ in rows], padding=True, return_tensors="pt")
        T = max(len(ids) for _, ids, _, _ in rows)
        tokens = torch.tensor([ids + [0] * (T - len(ids)) for _, ids, _, _ in rows])
        there = torch.tensor([[1] * len(ids) + [0] * (T - len(ids)) for _, ids, _, _ in rows])
        return Batch(
            torch.cat((encoded.input_ids, tokens), 1),
            torch.cat((encoded.attention_mask, there), 1),
            tokens,
            torch.tensor([own + [0] * (T - len(own)) for _, _, own, _ in rows]),
            torch.tensor([reward for *_, reward in rows]),
        )


def talking_loop(steps=3, **changes):
    model, tokenizer = policy()
    loop = TalkingLoop(model, tokenizer, Talks(), build({**SETTINGS, **changes}))
    loop.rule = Watched(loop.rule)
    for _ in range(steps):
        loop.train_step()
    return loop


def settings(folder, **changes):
    plain = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [],
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6,
        "max_episode_tokens": 40, "save_strategy": "no", "disable_tqdm": True, "max_steps": 2,
        "sft_warmup_steps": 0, "logging_steps": 1, "sft_batch_size": 4, "validation_prompts": 2,
        "validation_rollouts": 4, "meta_every": 1, "weight_decay": 0.0,
    }  # fmt: skip
    return AMFTConfig(**{**plain, **changes})


def talking_trainer(folder, accumulation=1, own=lambda own: own, **changes):
    """An AMFTTrainer set as `talking_loop`; `own` may spoil the rollouts' masks."""
    c = build({**SETTINGS, **changes})
    tiny, tokenizer = policy()
    task = Talks()
    args = settings(
        folder, learning_rate=c.lr, max_steps=c.steps, gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=c.prompts_per_step * c.rollouts_per_prompt // accumulation,
        num_generations=c.rollouts_per_prompt, sft_batch_size=c.sft_batch,
        sft_warmup_steps=c.warmup_steps, shuffle_dataset=False, mu_start=c.mu_start,
        validation_prompts=c.validation_prompts, validation_rollouts=c.validation_rollouts,
        meta_every=c.meta_every, eta_mu=c.eta_mu, entropy_form=c.entropy_form, seed=c.seed,
        advantage=c.advantage,
    )  # fmt: skip

    class Recorded(AMFTTrainer):
        def _rows(self, dataset, n, number, purpose):
            if purpose == "demonstrations":
                return super()._rows(dataset, n, number, purpose)
            return dataset[list(range(number * n, (number + 1) * n))]

        def converse(self, rows, episode):
            n, step = c.rollouts_per_prompt, self.state.global_step
            found = [task.dialogue(r["prompt"], i % n, step) for i, r in enumerate(rows)]
            turns = SimpleNamespace(
                said=[ids for ids, _, _ in found], own=[own(mask) for _, mask, _ in found]
            )
            ids = self._tokenize_prompts([r["prompt"] for r in rows])[0]
            return ids, turns, [], [reward for *_, reward in found]

    def table(examples):
        return [{"prompt": e.prompt} for e in examples]

    experts = [{"prompt": d.prompt, "completion": [text for text, _ in d.spoken]}
               for d in task.demonstrations(c.demonstrations)]  # fmt: skip
    made = Recorded(
        tiny, None, args, table(task.prompts("train", c.steps * c.prompts_per_step)),
        sft_dataset=experts, validation_dataset=table(task.prompts("validation", 16)),
        method=c.method, processing_class=tokenizer, episode=lambda row: None,
    )  # fmt: skip
    made.rule = Watched(made.rule)
    return made


class Chat:
    """Three answers; the reward is how many of them have an odd number of letters."""

    def __init__(self, row):
        self.row, self.said = row, []

    def answer(self, text):
        self.said.append(text)
        return None if len(self.said) == 3 else f"; {len(self.said)} ;"

    @property
    def reward(self):
        return sum(len(text) % 2 for text in self.said) / 3


ROWS = {kind: [{"prompt": f"{i} {i} | {'; ' * (kind == 'validation')}"} for i in range(12)]
        for kind in ("train", "validation")}  # fmt: skip
EXPERTS = [
    {"prompt": f"{i} :", "completion": [f"{i} + 1", "; 1 ;", f"{i}", "; 2 ;", "; ;"]}
    for i in range(6)
]


def chatting(folder, episode=Chat, model=None, reward=None, sft=EXPERTS, method="amft", **changes):
    """A trainer that samples; the task is `Chat`."""
    kwargs = {k: changes.pop(k) for k in ("tools", "rollout_func", "callbacks") if k in changes}
    tiny, tokenizer = policy()
    return AMFTTrainer(
        model or tiny, reward, settings(folder, **changes), ROWS["train"], sft_dataset=sft,
        validation_dataset=ROWS["validation"], method=method, processing_class=tokenizer,
        episode=episode, **kwargs,
    )  # fmt: skip


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (  # as Llama 2: the end of an answer is behind a space
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
BARE = (  # no token ends an answer
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_tokenizer(template):
    """One token a byte, and the special tokens of the templates."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"], padding_side="left",
    )  # fmt: skip
    made.chat_template = template
    return made
