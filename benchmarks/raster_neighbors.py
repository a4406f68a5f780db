"""Nearest neighbors beside SciPy and open3d: `python -m benchmarks.raster_neighbors [--quick]`; part of `python -m benchmarks.raster`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

from benchmarks.claims import claim, median_claim
from structwm.geometry.neighbors import knn
from structwm.geometry.set_distances import chamfer

Jobs = dict[str, Callable[[], Any]]
SIZES = (10_000, 100_000)
REPEATS = 7


def cube(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform in a cube of 1 m."""
    return rng.random((count, 3), dtype=np.float32)


def sphere(count: int, rng: np.random.Generator) -> np.ndarray:
    """On a sphere of radius 1 m, with noise of 1 mm."""
    points = rng.normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True) + 1e-3 * rng.normal(size=(count, 3))).astype(np.float32)


def clusters(count: int, rng: np.random.Generator) -> np.ndarray:
    """Twenty clusters of 1 m down to 1 micrometre."""
    which = rng.integers(20, size=count)
    spread = 10.0 ** -np.linspace(0, 6, 20)[which, None]
    return (rng.random((20, 3))[which] + spread * rng.normal(size=(count, 3))).astype(np.float32)


def neighbor_claims(quick: bool, console: Console | None = None) -> dict[str, Any]:
    """Peer's time over ours for the nearest neighbor of every point of a cloud, trees built on both sides, on all cores: the worst of clouds and sizes."""
    console = console or Console(width=150)
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, 2))
    try:
        return _measured(quick, console)
    finally:
        torch.set_num_threads(before)


def _measured(quick: bool, console: Console) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    table = Table("cloud", "points", "task", "structwm [ms]", "SciPy [ms]", "open3d [ms]", "SciPy / ours", "open3d / ours", title="nearest neighbors, medians")
    ratios: dict[str, list[list[float]]] = {"SciPy": [], "open3d": []}
    for cloud in (cube, sphere, clusters):
        for size in SIZES:
            points, others = cloud(size, rng), cloud(size, rng)
            tasks = {"k = 1": own_neighbors(points, 1)}
            if not quick or cloud is cube:
                tasks["k = 16"] = own_neighbors(points, 16)
                tasks["chamfer, forward and backward"] = both_chamfers(points, others)
            if not quick:
                tasks["k = 8"] = own_neighbors(points, 8)
                tasks["k = 1 in another cloud"] = other_neighbors(points, others)
            for task, jobs in tasks.items():
                times = interleaved(jobs, 3 if quick else REPEATS)
                ours = times["structwm"]
                slower = {name: [theirs / mine for theirs, mine in zip(times[name], ours, strict=True)] for name in ratios if name in times}
                cells = [f"{1e3 * np.median(times[name]):.1f}" if name in times else "-" for name in ("structwm", "SciPy", "open3d")]
                table.add_row(cloud.__name__, f"{size:,}", task, *cells, *(f"{np.median(slower[name]):.2f}" if name in slower else "-" for name in ratios))
                for name, values in slower.items():
                    if task == "k = 1":
                        ratios[name].append(values)
            table.add_section()
    console.print(table)
    missing = claim(None, why="open3d is not installed: pip install structwm[clouds]")
    claims = {name: median_claim(min(values, key=np.median)) if values else missing for name, values in ratios.items()}
    return {"knn_ratio_scipy": claims["SciPy"], "knn_ratio_open3d": claims["open3d"]}


def interleaved(jobs: Jobs, repeats: int) -> dict[str, list[float]]:
    """Seconds of each job, in turns, after one turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def own_neighbors(points: np.ndarray, k: int) -> Jobs:
    """The k nearest of every point in its own cloud, itself included."""
    ours, double = torch.from_numpy(points), points.astype(np.float64)
    jobs: Jobs = {"structwm": lambda: knn(ours, ours, k), "SciPy": lambda: cKDTree(double).query(double, k=k, workers=-1)}
    return jobs | by_open3d(points, points, k)


def other_neighbors(points: np.ndarray, queries: np.ndarray) -> Jobs:
    """The nearest point to every point of another cloud."""
    ours, theirs = [torch.from_numpy(value) for value in (queries, points)], [value.astype(np.float64) for value in (queries, points)]
    jobs: Jobs = {"structwm": lambda: knn(*ours, 1), "SciPy": lambda: cKDTree(theirs[1]).query(theirs[0], workers=-1)}
    return jobs | by_open3d(points, queries, 1)


def by_open3d(points: np.ndarray, queries: np.ndarray, k: int) -> Jobs:
    """The same by open3d, where it is installed."""
    if find_spec("open3d") is None:
        return {}
    from open3d import core

    data, wanted = core.Tensor.from_numpy(points), core.Tensor.from_numpy(queries)

    def search() -> Any:
        index = core.nns.NearestNeighborSearch(data)
        index.knn_index()
        return index.knn_search(wanted, k)

    return {"open3d": search}


def both_chamfers(a: np.ndarray, b: np.ndarray) -> Jobs:
    """Chamfer distance and its gradients by both clouds; with SciPy the trees choose the pairs and torch does the rest."""
    leaves = [torch.from_numpy(value).requires_grad_() for value in (a, b)]
    double = [value.astype(np.float64) for value in (a, b)]

    def by_scipy() -> Any:
        trees = [cKDTree(value) for value in double]
        pairs = [torch.from_numpy(tree.query(value, workers=-1)[1]) for tree, value in zip(trees[::-1], double, strict=True)]
        sides = [(mine - other.index_select(0, pair)).norm(dim=-1).mean() for mine, other, pair in zip(leaves, leaves[::-1], pairs, strict=True)]
        return torch.autograd.grad(sides[0] + sides[1], leaves)

    return {"structwm": lambda: torch.autograd.grad(chamfer(*leaves), leaves), "SciPy": by_scipy}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tasks")
    neighbor_claims(parser.parse_args().quick)


if __name__ == "__main__":
    main()
