"""The parts of `benchmarks.deformable` on soft bodies run, with little of everything, and score what they are given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

pytest.importorskip("pybullet")

from benchmarks import soft_scenes, soft_transfer, spring_bodies
from benchmarks.spring_bodies import Effort, scores
from structwm.worlds import record_soft

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are made anew."""
    for module in (soft_scenes, soft_transfer, spring_bodies):
        monkeypatch.setattr(module, "KEPT", tmp_path)


def value(claims: dict[str, Any], name: str) -> float:
    return float(claims[name]["value"])


def test_scores_of_made_up_predictions() -> None:
    """The truth is off by the noise of what was seen, a body elsewhere by as much as it is; what comes before the held-out frames does not count."""
    seen = record_soft("bullet", "beam", frames=12)
    late = seen.nodes[seen.split :]
    chamfer, track = scores(late, seen)
    assert chamfer < 0.005 and track < 0.0015
    moved = scores(late + torch.tensor([0.0, 0.0, 0.3]), seen)
    assert moved[1] == pytest.approx(0.3, rel=0.01) and moved[0] > 0.2
    seen.tracks[: seen.split] += 1.0
    assert scores(late, seen) == (chamfer, track)


def test_claims_are_means_over_encounters() -> None:
    found = {"transferred": [(0.01, 0.02), (0.03, 0.06)], "default parameters": [(0.05, 0.1), (0.05, 0.1)], "holding still": [(1.0, 1.0), (1.0, 1.0)]}
    claims = soft_transfer._claims(found, [1.0, 3.0])
    told = {"spring_transfer_chamfer_m": 0.02, "spring_transfer_track_m": 0.04, "spring_transfer_default_chamfer_m": 0.05}
    told |= {"spring_transfer_default_track_m": 0.1, "spring_transfer_seconds": 3.0}
    assert {name: value(claims, name) for name in claims} == pytest.approx(told)


@pytest.mark.slow
def test_springs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spring_bodies, "PIECE", 4)
    monkeypatch.setattr(spring_bodies, "STRIDE", 2)
    effort = Effort(scenes=1, frames=18, evaluations=2, material=1, springs=1)
    console = Console(width=150, quiet=True)
    claims = spring_bodies.spring_claims(True, console, effort=effort)
    assert 0.0 < value(claims, "phystwin_like_chamfer_m") < 0.05 and 0.0 < value(claims, "phystwin_like_track_m") < 0.05
    assert math.isfinite(value(claims, "phystwin_like_track_m_worst_ratio"))


@pytest.mark.slow
def test_soft_transfer_runs() -> None:
    claims = soft_transfer.transfer_soft_claims(True, Console(width=150, quiet=True), frames=12, evaluations=1)
    kinds = {name.removeprefix("spring_transfer").removesuffix("_chamfer_m") for name in claims if name.endswith("_chamfer_m")}
    assert kinds == {"", "_balanced", "_old_rest", "_default"}
    assert all(math.isfinite(value(claims, name)) for name in claims)
    assert value(claims, "spring_transfer_default_chamfer_m") < 0.03  # holding still is 0.1 m off
