"""Choosing among real pushes.

A goal is what a recorded test push did to the object: its motion in the frame in which the object lay before. Candidates are other recorded test pushes of the
same object on the same surface. A model chooses the candidate that it predicts to bring the object nearest to the goal; its regret is how much farther from the
goal that push really ended than the best candidate did, beside a random choice and the oracle, whose regret is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from structwm.data import Pushes
from structwm.geometry.outline import boundary_point
from structwm.roles import Interval, Ranking, draw_candidates, rank

POINTS = 64  # on the outline, evenly along the perimeter


def rank_pushes(pushes: Pushes, predicted: Mapping[str, np.ndarray], *, goals: int | None = None, candidates: int = 32, seed: int = 0) -> dict[str, Ranking]:
    """How well models choose, among recorded pushes of one object, the one that brings it nearest to where another recorded push brought it.

    Args:
        pushes: n test pushes of one object on one surface.
        predicted: final poses (n, 3) in the world frame [m, m, rad] by model.
        goals: how many of the pushes are goals in turn; all by default.
        candidates: other pushes to choose from, for each goal; the same for all models.
        seed: of goals and candidates.

    Returns:
        By model, the ranking; costs in metres, the mean distance of corresponding outline points.

    Raises:
        ValueError: if predictions do not fit the pushes, or there are fewer than three of these.
    """
    for name, poses in predicted.items():
        if np.shape(poses) != pushes.final_pose.shape:
            raise ValueError(f"rank_pushes needs final poses {pushes.final_pose.shape} of {name!r}, got {np.shape(poses)}.")
    count = len(pushes) if goals is None else goals
    chosen, table = draw_candidates([pushes.name] * len(pushes), goals=count, candidates=candidates, seed=seed)
    recorded = moved_outline(pushes, pushes.final_pose)
    true = _distance(recorded[table], recorded[chosen])
    return {name: rank(_distance(moved_outline(pushes, poses)[table], recorded[chosen]), true, seed=seed) for name, poses in predicted.items()}


def moved_outline(pushes: Pushes, final_pose: np.ndarray) -> np.ndarray:
    """Outline points after each push in the slider's frame before it, (n, POINTS, 2) [m], from final poses (n, 3) in the world."""
    outline = np.stack([boundary_point(pushes.outline, k / POINTS)[0] for k in range(POINTS)])
    shift, back = final_pose[:, :2] - pushes.init_pose[:, :2], _turns(-pushes.init_pose[:, 2])
    turned = np.einsum("nij,pj->npi", _turns(final_pose[:, 2] - pushes.init_pose[:, 2]), outline)
    return turned + np.einsum("nij,nj->ni", back, shift)[:, None]


def show(rankings: Mapping[str, Ranking], console: Console) -> None:
    """One row a model, then a random choice and the oracle."""
    first = next(iter(rankings.values()))
    title = f"choosing of {first.candidates} recorded pushes for {first.goals} goals; 90 % intervals"
    table = Table("chosen by", "regret \\[mm]", "over random", "Kendall's tau", "best one chosen", title=title)
    for name, ranking in rankings.items():
        table.add_row(name, _mm(ranking.regret), f"{ranking.relative_regret.value:.3f}", _span(ranking.tau), f"{100 * ranking.hit_rate.value:.1f} %")
    table.add_section()
    table.add_row("random", _mm(first.random_regret), "1", "0", f"{100 * first.random_hit_rate:.1f} %")
    table.add_row(f"oracle (ends {1e3 * first.oracle_cost.value:.2f} mm from the goal)", "0", "0", "1", "100 %")
    console.print(table)


def _mm(value: Interval) -> str:
    return f"{1e3 * value.value:.3f} ({1e3 * value.low:.3f} to {1e3 * value.high:.3f})"


def _span(value: Interval) -> str:
    return "undefined" if np.isnan(value.value) else f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _turns(angles: np.ndarray) -> np.ndarray:
    """Rotations (n, 2, 2) by angles (n,) [rad]."""
    return np.stack([np.stack([np.cos(angles), -np.sin(angles)], -1), np.stack([np.sin(angles), np.cos(angles)], -1)], -2)


def _distance(outcomes: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Mean distance of corresponding points (G, S) [m], of outcomes (G, S, P, 2) from goals (G, P, 2)."""
    return np.linalg.norm(outcomes - goals[:, None], axis=-1).mean(-1)
