"""Test data of others, read where it lies and never copied into the repository."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "corpora"
"""Where it lies beside the repository; STREAMGATE_CORPORA names another place."""


def corpus(name: str) -> Path:
    """The folder of one corpus. Skips the test that asks, saying so, where it is absent."""
    folder = Path(os.environ.get("STREAMGATE_CORPORA") or BESIDE) / name
    if not folder.is_dir():
        pytest.skip(f"the corpus {name} is not here: STREAMGATE_CORPORA names no folder that holds it")
    return folder
