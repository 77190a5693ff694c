"""What a result was made with: versions, commit, machine in words."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("amft-lite", "torch", "transformers", "numpy")


def git_commit() -> str:
    """The commit of the working tree, with `+` if files differ from it or modules are not in it;
    "unknown" outside one, and where the package is installed inside another project's."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        changed += git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> str:
    """One line for the top of a notebook."""
    return ", ".join(f"{package} {version(package)}" for package in (*PACKAGES, "plotly"))


def provenance(packages: tuple[str, ...] = (), accelerator: str = "none (CPU)") -> dict[str, str]:
    """A flat dict of words, the same on every call but for the date.

    `packages` besides those of every result; `accelerator`, what it was computed on: the tiny
    policies know none.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, *packages)},
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "accelerator": accelerator,
    }
