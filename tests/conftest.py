"""Shared settings: one thread, no network, `--run-slow` for the long versions."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from amft_lite.models import base_folder, load_policy
from amft_lite.tasks import load_task

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also run the long versions")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="a long version: make test-all runs it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def task():
    return load_task("general_points")


@pytest.fixture
def base():
    """A fresh copy of the shipped policy, and its tokenizer."""
    return load_policy(base_folder("general_points"))
