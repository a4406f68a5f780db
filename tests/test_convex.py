"""Convex hulls of few vertices: within the body or out of it by what volume asks for, extremes kept, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from structwm.geometry.convex import few_vertices

Array = NDArray[np.float64]


def ball(count: int, seed: int = 0) -> Array:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cylinder(sides: int) -> Array:
    angle = 2 * np.pi * np.arange(sides) / sides
    return np.concatenate([np.stack([0.03 * np.cos(angle), 0.03 * np.sin(angle), 0 * angle + z], axis=1) for z in (0.0, 0.1)])


def box(half: tuple[float, float, float] = (0.1, 0.05, 0.02)) -> Array:
    return np.array(np.meshgrid(*((-h, h) for h in half))).reshape(3, 8).T


def stands_out(points: Array, of: Array) -> float:
    """How far the farthest of the points lies outside the hull of others."""
    faces = ConvexHull(of).equations
    return float((points @ faces[:, :3].T + faces[:, 3]).max())


def test_a_hull_of_few_vertices_stays_as_it_is() -> None:
    inside = np.random.default_rng(1).uniform(-0.9, 0.9, (500, 3)) * (0.1, 0.05, 0.02)
    found = few_vertices(np.concatenate([inside, box()]))
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, box().tolist()))


def test_vertices_along_edges_are_left_out() -> None:
    grid = np.array(np.meshgrid(*[np.linspace(0, 1, 8)] * 3)).reshape(3, -1).T
    assert len(few_vertices(grid)) == 8


def test_a_cylinder_keeps_ends_volume_and_shape() -> None:
    mesh = cylinder(512)
    few = few_vertices(mesh)
    assert len(few) == 64 and stands_out(few, mesh) < 1e-12 and stands_out(mesh, few) < 0.006 * 0.1
    np.testing.assert_array_equal([few.min(0), few.max(0)], [mesh.min(0), mesh.max(0)])
    assert ConvexHull(few).volume > 0.99 * ConvexHull(mesh).volume


def test_what_is_too_small_grows_about_its_centroid() -> None:
    """A ball of 64 vertices lacks 9 % of its volume: they move out until 2 % lack, all by the same share."""
    mesh = 0.05 * ball(2000) + (1.0, 2.0, 3.0)
    volume = ConvexHull(mesh).volume
    plain, grown = few_vertices(mesh, kept=0.0), few_vertices(mesh)
    assert stands_out(plain, mesh) < 1e-12 and ConvexHull(plain).volume < 0.95 * volume
    assert ConvexHull(grown).volume == pytest.approx(0.98 * volume, rel=1e-9)
    np.testing.assert_allclose(np.linalg.norm(grown - (1.0, 2.0, 3.0), axis=1), 0.05 * (0.98 * volume / ConvexHull(plain).volume) ** (1 / 3), rtol=2e-3)
    assert max(stands_out(grown, mesh), stands_out(mesh, grown)) < 0.025 * 0.1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(4, 80), limit=st.integers(4, 40))
def test_any_points(seed: int, count: int, limit: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3)) * (1.0, 0.3, 0.05)
    few, subset = few_vertices(points, limit), few_vertices(points, limit, kept=0.0)
    assert len(few) <= limit and stands_out(subset, points) < 1e-9 and {*map(tuple, subset.tolist())} <= {*map(tuple, points.tolist())}
    assert 0.98 - 1e-9 <= ConvexHull(few).volume / ConvexHull(points).volume <= 1 + 1e-9


def test_more_vertices_come_closer() -> None:
    mesh = ball(1000) * (0.1, 0.05, 0.02)
    gaps = [stands_out(mesh, few_vertices(mesh, limit, kept=0.0)) for limit in (8, 16, 32, 64)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < gaps[0] / 4


def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected points that span a volume"):
        few_vertices(box() * (1, 1, 0))
    with pytest.raises(ValueError, match="expected points that span a volume"):
        few_vertices(box()[:3])
    with pytest.raises(ValueError, match=r"expected finite points \(m, 3\), got shape \(8, 2\)"):
        few_vertices(box()[:, :2])
    with pytest.raises(ValueError, match="expected a limit of 4 or more and a share of 0 to 1, got 3 and 0.98"):
        few_vertices(box(), 3)
