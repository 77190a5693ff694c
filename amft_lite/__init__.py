"""amft-lite: learn and reproduce AMFT, (1 - mu) L_RL + mu L_SFT with a mu that learns.

Names are imported when first used, so `import amft_lite` costs nothing (no torch, no
transformers). Start reading at `amft_lite.loop`, Algorithm 1 in plain torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

try:
    __version__ = _version("amft-lite")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOME = {
    "AMFT": "loop",
    "AMFTConfig": "trainer",
    "AMFTTrainer": "trainer",
    "Run": "runs",
    "RunConfig": "config",
    "build_config": "config",
    "evaluate": "evaluation",
    "load_model": "real_models",
    "load_policy": "models",
    "load_task": "tasks",
    "make_rule": "weighting",
    "sample": "sampling",
    "use_plotly": "figures",
}
_OTHER_NAME = {"build_config": "build"}
_MODULES = (
    "batches benchmarks checkpoint config evaluation exercises figures implicit_reward loop "
    "meta_gradient methods models objectives plan pretrain provenance real_models report runs "
    "sampling smollm2 statistics study tasks weighting"
).split()

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"amft_lite.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'amft_lite' has no attribute {name!r}")
    return getattr(importlib.import_module(f"amft_lite.{_HOME[name]}"), _OTHER_NAME.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
