"""The policies: a word-level tokenizer and a tiny Llama, both plain `transformers` objects.

Because they are ordinary `PreTrainedTokenizerFast` and `LlamaForCausalLM`, everything here also
works on a real checkpoint; only the sizes differ.

Left out: hub models, LoRA and 4-bit (`amft_lite.real_models`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from amft_lite.tasks import sight_of

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from amft_lite.tasks import Task

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"

#: name -> (width, layers, heads). Only 0.2M is shipped with weights; the others are recipes.
SIZES = {"0.2M": (64, 3, 4), "0.8M": (128, 4, 4), "2.7M": (192, 6, 6)}

_HOME = Path(__file__).resolve().parent.parent
#: `data/` of a clone; where the package was installed, the same files as `amft_lite_data/`.
DATA = _HOME / "data" if (_HOME / "data" / "bases").is_dir() else _HOME / "amft_lite_data"


def quiet_transformers() -> None:
    """No progress bars for models that load in a blink, and no advice about widgets for them."""
    import warnings

    warnings.filterwarnings("ignore", message="IProgress not found")
    from transformers.utils import logging

    logging.disable_progress_bar()


def word_tokenizer(task: Task) -> PreTrainedTokenizerFast:
    """One token a word of the task's vocabulary, words parted by spaces; pad, eos, unk first."""
    return _tokenizer_of([PAD, EOS, UNK, *task.vocabulary()])


def _tokenizer_of(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Words, pad, eos and unk among them, as a tokenizer that numbers them in this order."""
    quiet_transformers()
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(table, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, unk_token=UNK, padding_side="left"
    )


def positions(task: Task) -> int:
    """The longest text of a task, in tokens, as a model's config is told: 64, in dialogues more."""
    return 64 + getattr(task, "max_episode_tokens", 0)


LARGE = 32  #: pixels; pictures above are read in steps of two, at about 60 % of the time


def eye_for(task: Task, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any] | None:
    """What `PictureLlamaConfig` is told of a task's pictures; None where there are none."""
    sight = sight_of(task)
    return sight and {
        "picture_token_id": tokenizer.get_vocab()[sight.word],
        "picture_height": sight.height,
        "picture_width": sight.width,
        "picture_stride": 2 if max(sight.height, sight.width) > LARGE else 1,
        "pictures_in_replies": sight.in_replies,
    }


def tiny_llama(
    vocabulary: int, size: str = "0.2M", seed: int = 0, eye: dict[str, Any] | None = None,
    positions: int = 64,
) -> LlamaForCausalLM:  # fmt: skip
    """A freshly initialised Llama of one of `SIZES` (tied embeddings); with an `eye` where there is
    something to see (`eye_for`).

    Raises:
        ValueError: no such size.
    """
    quiet_transformers()
    from transformers import LlamaConfig, LlamaForCausalLM

    from amft_lite.picture_llama import PictureLlama, PictureLlamaConfig

    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
    width, layers, heads = SIZES[size]
    config = (PictureLlamaConfig if eye else LlamaConfig)(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=4 * width * 2 // 3 // 8 * 8,  # SwiGLU: 2/3 of 4x keeps the weights even
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **(eye or {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (PictureLlama if eye else LlamaForCausalLM)(config)


def base_folder(task_name: str, size: str = "0.2M") -> Path:
    """Where the pretrained base of a task lives."""
    return DATA / "bases" / f"{task_name}-{size}"


def load_policy(folder: str | Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Weights and tokenizer from a folder in `transformers` layout, in float32, in eval mode.

    (The tiny models have no dropout; eval mode makes that hold for any other model too.)

    Raises:
        FileNotFoundError: the folder holds no model.
    """
    quiet_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import amft_lite.picture_llama  # noqa: F401  (makes itself known to AutoModel)

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no model in {folder}; `amft-lite pretrain --task TASK --out {folder}` trains a base"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def take_weights(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, base: nn.Module,
    words: PreTrainedTokenizerFast,
) -> None:  # fmt: skip
    """Give a fresh model the weights of a base, whose tokenizer is `words`: layer by layer, and
    embeddings word by word.

    What the base does not have (an eye, words of its own) stays as it was drawn.
    """
    table, own = words.get_vocab(), tokenizer.get_vocab()
    shared = [word for word in own if word in table]
    weights = model.state_dict()
    for name, value in base.state_dict().items():
        if value.shape == weights[name].shape:
            weights[name].copy_(value)
        else:  # embeddings, which have a row for each word
            weights[name][[own[word] for word in shared]] = value[[table[word] for word in shared]]


def with_words(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, more: Sequence[str], seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The policy with `more` words, drawn from `seed` as those of a fresh model are; every other
    word keeps its number and its embedding.

    Raises:
        ValueError: the tokenizer is none of `word_tokenizer`.
    """
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    if words[:3] != [PAD, EOS, UNK] or len(words) != policy.config.vocab_size:
        raise ValueError("only a tokenizer of whole words can be given more words")
    larger = _tokenizer_of([*words, *more])
    config = copy.deepcopy(policy.config)
    config.vocab_size = len(larger)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(policy)(config)
    take_weights(model, larger, policy, tokenizer)
    return model.eval(), larger


def _inputs(
    ids: torch.Tensor, attention: torch.Tensor, pictures: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """A forward pass's arguments; positions count real tokens only."""
    given = {"input_ids": ids, "attention_mask": attention}
    given["position_ids"] = (attention.cumsum(1) - 1).clamp(min=0)
    return given if pictures is None else given | {"pixel_values": pictures}


def completion_logits(
    model: nn.Module,
    ids: torch.Tensor,
    attention: torch.Tensor,
    completion_length: int,
    pictures: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits that predict the last `completion_length` tokens: [B, completion_length, V].

    `ids` and `attention` are [B, L]; prompts are left-padded, so completions share their columns.
    `pictures` uint8 [B, n, height, width, 3] for a model with an eye.
    """
    output = model(
        **_inputs(ids, attention, pictures), use_cache=False, logits_to_keep=completion_length + 1
    )
    return output.logits[:, :-1]


def hidden_states(
    model: nn.Module,
    ids: torch.Tensor,
    attention: torch.Tensor,
    completion_length: int,
    pictures: torch.Tensor | None = None,
) -> torch.Tensor:
    """Last hidden states where the completion is predicted: [B, completion_length, d]."""
    given = _inputs(ids, attention, pictures)
    if given.pop("pixel_values", None) is not None:
        given["inputs_embeds"] = model.embed(given.pop("input_ids"), pictures)
    output = model.base_model(**given, use_cache=False)
    return output.last_hidden_state[:, -completion_length - 1 : -1]


def token_logps(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log pi(token): [B, T] from logits [B, T, V] and tokens [B, T]."""
    return torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
