"""Benchmarks are run by hand; that each of them can be imported is tested."""

from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
ELSEWHERE = {"planning_peer_torchrl"}  # runs in an environment of its own


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ELSEWHERE))
def test_benchmarks_can_be_imported(name: str) -> None:
    import_module(f"benchmarks.{name}")
