"""Checkpoints that are whole or are not there: one safetensors file a step, written beside and
moved into place, with a checksum. A damaged one is named and the one before it is used.

`save_model` writes the folder of a trained model, for other programs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


class DamagedCheckpoint(ValueError):
    """A checkpoint file that cannot be read back as it was written."""


def pack(tree: Any, tensors: dict[str, torch.Tensor], path: str = "state") -> Any:
    """JSON for any nest of dicts, lists, numbers, text; its tensors go to `tensors` by path.

    Dicts become lists of pairs, because optimiser states have whole numbers for keys.
    """
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().contiguous().clone()
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[k, pack(v, tensors, f"{path}.{k}")] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [pack(v, tensors, f"{path}.{i}") for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(f"a checkpoint cannot hold a {type(tree).__name__} (at {path})")


def unpack(packed: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: unpack(v, tensors) for k, v in content}
    if kind in ("list", "tuple"):
        items = [unpack(v, tensors) for v in content]
        return tuple(items) if kind == "tuple" else items
    return content


def _checksum(tensors: dict[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.safetensors"


@contextmanager
def disk_errors(failed: str) -> Iterator[None]:
    """safetensors and torch.save have errors of their own for a full disk; in here they are the
    system's, which every command line expects.

    Raises:
        OSError: `failed`, a clause, and why.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise  # not of torch's file format
        raise OSError(f"{failed} (is the disk full?): {error}") from None


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 3) -> Path:
    """Write the checkpoint of `step` and drop all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(state, tensors))
    path = checkpoint_path(folder, step)
    beside = path.with_suffix(".partial")
    try:
        with disk_errors(f"the checkpoint {path} could not be written"):
            save_file(tensors, beside, {"state": text, "sha256": _checksum(tensors, text)})
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    with open(beside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
    halves = folder.glob("step-*.partial")  # of a process that was killed
    for old in (*in_order(folder)[:-keep], *halves):
        old.unlink()
    return path


def in_order(folder: Path) -> list[Path]:
    """The checkpoints there, by step."""
    return sorted(folder.glob("step-*.safetensors"), key=lambda path: (len(path.name), path.name))


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Weights and tokenizer in `transformers` layout.

    Raises:
        OSError: they could not be written.
    """
    with disk_errors(f"the model in {folder} could not be written"):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        DamagedCheckpoint: truncated, altered, or no checkpoint at all.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _checksum(tensors, header["state"]) != header["sha256"]:
            raise DamagedCheckpoint(f"{path} has changed since it was written")
        return unpack(json.loads(header["state"]), tensors)
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        if isinstance(error, DamagedCheckpoint):
            raise
        raise DamagedCheckpoint(f"{path} is not a whole checkpoint") from error


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest whole checkpoint (None if there is none) and the damaged ones newer than it."""
    damaged = []
    for path in reversed(in_order(folder)):
        try:
            return load(path), damaged
        except DamagedCheckpoint:
            damaged.append(path)
    return None, damaged
