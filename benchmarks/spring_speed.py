"""Substeps a second of spring networks, forward and with gradients, and the memory of a thousand substeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.claims import claim, median_claim
from benchmarks.raster_speed import Peak
from benchmarks.spring_speed_newton import newton_steps
from structwm.physics import GROUND, ParticleState, SpringBody, SpringTwin

SIZES, WORLDS = (1_000, 10_000, 100_000), (1, 64)
SPACING = 0.02  # [m]
WORK = 3e7  # springs times substeps of a measurement, about
STEPS, SUBSTEPS = 1000, (1, 4, 32, 250, 1000)  # whose memory is measured: so many substeps, and how many of them are in a step


def network(springs: int, *, substeps: int) -> SpringTwin:
    """A cube on the ground with about so many springs."""
    side = 2
    while True:
        points = SPACING * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
        pairs = cKDTree(points).query_pairs(1.8 * SPACING, output_type="ndarray")
        if len(pairs) >= 0.9 * springs:
            break
        side += 1
    body = SpringBody(torch.from_numpy(points), torch.from_numpy(pairs[np.lexsort(pairs.T[::-1])]), obstacles=(GROUND,))
    return SpringTwin(body, dt=1e-4 * substeps, substeps=substeps, values={"mass": 1e-3 * len(points), "stiffness": 1.0})


def start(twin: SpringTwin, worlds: int, device: str = "cpu") -> ParticleState:
    """At rest, as Newton's copies are: its lowest particles touch the ground."""
    return twin.state(twin.body.positions.float()).expand(worlds).to(device)


def forward(twin: SpringTwin, state: ParticleState, steps: int) -> None:
    """A rollout."""
    with torch.no_grad():
        twin.rollout(state, torch.zeros(*state.batch_size, steps, 0, device=state.positions.device))
    wait(state)


def both(twin: SpringTwin, state: ParticleState, steps: int) -> Tensor:
    """A rollout and the gradient of its end by its start."""
    leaf: Tensor = state.positions.clone().requires_grad_()
    ends = twin.rollout(state.replace(positions=leaf), torch.zeros(*state.batch_size, steps, 0, device=leaf.device)).states.positions[..., -1, :, :]
    (gradient,) = torch.autograd.grad(ends.square().sum(), leaf)
    wait(state)
    return gradient


def wait(state: ParticleState) -> None:
    """Until the device has done what it was told."""
    if state.positions.is_cuda:
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Wall time of each run, after one that is not counted."""
    run()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return found


def spring_speed_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Substeps of all worlds together a second, on one thread, on all, and on a GPU where there is one; beside Newton; memory."""
    columns = ("springs", "particles", "worlds", "on", "substeps/s", "with gradients", "ratio", "Newton")
    table = Table(*columns, title="float32, in contact with the ground")
    claims: dict[str, Any] = {}
    threads, cuda = torch.get_num_threads(), torch.cuda.is_available()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = [("cpu", count) for count in dict.fromkeys((1, available))] + ([("cuda:0", 1)] if cuda else [])
    try:
        for size in SIZES[: 2 if quick else 3]:
            twin = network(size, substeps=20)
            for worlds in WORLDS:
                beside: dict[str, float] = {}
                for device, count in places:
                    torch.set_num_threads(count)
                    there = twin.to(device)
                    work = WORK * (100 if device != "cpu" else 0.25 if quick else 1)
                    steps = max(1, min(50, round(work / (size * worlds * twin.substeps))))
                    plain, graded = _measured(there, start(twin, worlds, device), steps, quick)
                    if device not in beside:
                        run = newton_steps(twin, worlds, steps, device)
                        beside[device] = float(np.median([worlds * steps * twin.substeps / t for t in seconds(run, 3)]))
                    ratio = f"{np.median(plain) / np.median(graded):.1f}"
                    row = (f"{len(twin.body.springs):,}", f"{twin.body.particles:,}", str(worlds), f"{count} threads" if device == "cpu" else device)
                    table.add_row(*row, f"{np.median(plain):,.0f}", f"{np.median(graded):,.0f}", ratio, f"{beside[device]:,.0f}")
                    if device != "cpu" or count == available:
                        kind = "" if device == "cpu" else "gpu_"
                        claims[f"substeps_per_s_{kind}{size}_{worlds}"] = median_claim(plain)
                        claims[f"substeps_per_s_gradients_{kind}{size}_{worlds}"] = median_claim(graded)
                        claims[f"substeps_per_s_newton_{kind}{size}_{worlds}"] = claim(beside[device], n=3)
                if not cuda:
                    claims |= {f"substeps_per_s_gpu_{size}_{worlds}": claim(None, why="no CUDA device here")}
    finally:
        torch.set_num_threads(threads)
    claims["substeps_per_s"] = claims["substeps_per_s_10000_64"]
    console.print(table)
    return claims | _memory_claims(console)


def _measured(twin: SpringTwin, state: ParticleState, steps: int, quick: bool) -> tuple[list[float], list[float]]:
    """Substeps of all worlds a second, forward and with gradients, of each repeat."""
    taken = len(state) * steps * twin.substeps
    plain = [taken / t for t in seconds(lambda: forward(twin, state, steps), 3 if quick else 5)]
    return plain, [taken / t for t in seconds(lambda: both(twin, state, steps), 3)]


def _memory_claims(console: Console) -> dict[str, Any]:
    """Of a thousand substeps with gradients, in steps of several lengths."""
    claims: dict[str, Any] = {}
    memory = Table("steps", "substeps in each", "MB", title=f"greatest memory of {STEPS:,} substeps with gradients, {SIZES[1]:,} springs, one world")
    for substeps in SUBSTEPS:
        twin = network(SIZES[1], substeps=substeps)
        state = start(twin, 1)
        both(twin, state, 1)
        with Peak() as peak:
            both(twin, state, STEPS // substeps)
        memory.add_row(str(STEPS // substeps), str(substeps), f"{peak.megabytes:.1f}")
        claims[f"memory_1000_substeps_mb_{STEPS // substeps}_steps"] = claim(peak.megabytes, n=1)
    console.print(memory)
    return claims
