"""Speed and memory of learned models of points: many rollouts of some hundred points, and one step of ten thousand."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, median_claim
from structwm.points import ContactDynamics, Embodied, GraphDynamics, PointCloud, PointTransformer, RigidTools, point_cloud
from structwm.points.cloud_model import CloudModel

RIGID: dict[str, Any] = {"rigid": "all", "inertia": 0.0, "ground": True}
KINDS: dict[str, tuple[type[CloudModel], dict[str, Any], str]] = {  # with options, and what the names of claims end with
    "graph network": (GraphDynamics, RIGID, ""),
    "contact network": (ContactDynamics, {}, "_contact"),
    "transformer": (PointTransformer, RIGID, "_transformer"),
}
TOOL, OBJECTS = 24, 3
MANY = (64, 20, 300)  # candidates, steps, points
LARGE = 10_000
ROUNDS = 5


def scene(count: int, batch: tuple[int, ...]) -> PointCloud:
    """Three balls that touch, of points some 12 mm apart, and a tool beside them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(count) % OBJECTS
    radius = 0.012 * (count / OBJECTS / (4 * math.pi)) ** 0.5
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    positions = radius * (away + 2.02 * torch.nn.functional.one_hot(ids, 3) / 2**0.5 + torch.tensor([0.0, 0.0, 1.0]))
    robot = 0.01 * torch.nn.functional.normalize(torch.randn(TOOL, 3, generator=generator), dim=-1) + torch.tensor([-0.012, 0.0, radius])
    return point_cloud(positions.expand(*batch, count, 3), robot.expand(*batch, TOOL, 3), object_ids=ids)


def model_of(kind: str) -> Embodied:
    """A network of the usual size; how fast it is does not depend on its weights."""
    torch.manual_seed(0)
    network, options, _ = KINDS[kind]
    return Embodied(network(robot_points=TOOL, dt=0.1, objects=OBJECTS, **options), RigidTools([TOOL]))


@torch.no_grad()
def measured(kind: str, threads: int, rounds: int) -> dict[str, Any]:
    """Rollouts a second, time of a step of a large cloud [s] and the memory that it takes [MB]; that is looked at first, before rollouts take more."""
    torch.set_num_threads(threads)
    model = model_of(kind)
    candidates, steps, count = MANY
    state, actions = scene(count, (1,)), 0.05 * torch.randn(1, candidates, steps, 2, generator=torch.Generator().manual_seed(1))
    large, action = scene(LARGE, ()), torch.zeros(1, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    single = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        model.rollout(large, action)
        single.append(time.perf_counter() - begin)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = state.unsqueeze(1).expand(1, candidates)
    spent = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        model.rollout(many, actions)
        spent.append(time.perf_counter() - begin)
    return {"rollouts": [candidates / value for value in spent[1:]], "large": single[1:], "memory": max(0.0, (after - before) / 1024), "whole": after / 1024}


def alone(kind: str, threads: int, rounds: int) -> dict[str, Any]:
    """`measured` in a process of its own, whose memory nothing else has used."""
    command = [sys.executable, "-m", "benchmarks.points_speed", kind, str(threads), str(rounds)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.rstrip().split("\n")[-1])
    return found


def speed_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`rollouts_per_s`, `forward_ms_10k`, `memory_mb_10k`, and the same with `_contact` and `_transformer`."""
    threads, claims = os.cpu_count() or 1, {}
    candidates, steps, count = MANY
    table = Table("model", "rollouts/s", "10,000 points, ms a step", "MB it takes", "MB of the process", title=f"{candidates} x {steps} steps x {count} points")
    for kind, (_, _, end) in KINDS.items():
        found = alone(kind, threads, 2 if quick else ROUNDS)
        row = (found["rollouts"], [1e3 * value for value in found["large"]])
        table.add_row(kind, *(f"{np.median(values):.1f}" for values in row), f"{found['memory']:.0f}", f"{found['whole']:.0f}")
        values = (median_claim(row[0]), median_claim(row[1]), claim(found["memory"], n=1))
        claims |= dict(zip((f"rollouts_per_s{end}", f"forward_ms_10k{end}", f"memory_mb_10k{end}"), values, strict=True))
    console.print(table)
    return claims


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
