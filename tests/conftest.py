"""Shared settings: one thread, no network, `--run-slow` for the long versions."""

import os
from pathlib import Path

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


def pytest_configure(config):
    # files run by nbmake, where a whole run was asked for
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    whole = config.getoption("--nbmake", False) and "notebooks" in config.args
    config.notebooks_wanted = {p.name for p in folder.glob("*.ipynb")} if whole else set()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session):
    """A notebook that was skipped or never collected must not go unnoticed."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter and not hasattr(config, "workerinput"):
        files = {Path(r.nodeid.split("::")[0]) for r in reporter.getreports("passed")}
        passed = {file.name for file in files if file.suffix == ".ipynb"}
        missing = sorted(config.notebooks_wanted - passed)
        if missing and session.exitstatus == 0:
            reporter.write_line(f"notebooks that did not run: {', '.join(missing)}", red=True)
            session.exitstatus = 1
    return (yield)


@pytest.fixture(scope="session")
def task():
    return load_task("general_points")


@pytest.fixture
def base():
    """A fresh copy of the shipped policy, and its tokenizer."""
    return load_policy(base_folder("general_points"))
