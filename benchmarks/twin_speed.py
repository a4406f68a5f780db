"""Simulated seconds per second of wall time of the tossed cube, in three engines on two threads, each at the largest time step that costs it no accuracy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, median_claim
from benchmarks.raster_speed import Peak
from benchmarks.twin_speed_gpu import Timed, gpu_claims
from benchmarks.twin_tosses import NAMES, fast_twin, runs_of, some_tosses
from structwm.data.cube_tosses import RATE
from structwm.physics import BulletTwin, MujocoTwin, RigidTwin, rigid_recording
from structwm.physics.rigid_scene import RigidState

WORLDS = (1, 128, 4096)
STEPS = 74  # 0.5 s, in which most cubes land
REPEATS = 5
LONG = 1000  # steps of the rollout whose memory is measured
THREADS = 2


def starts(twin: RigidTwin, count: int) -> RigidState:
    """First states of test tosses, one after the other until there are enough."""
    recording = rigid_recording(twin, runs_of(some_tosses()))
    return recording.state[torch.arange(count) % len(recording)].apply(lambda value: value.float())


def rigid_timed(twin: RigidTwin, count: int, steps: int) -> Timed:
    """RigidTwin's public call."""
    state, actions = starts(twin, count), torch.zeros(count, steps, 0)

    def run() -> float:
        begin = time.perf_counter()
        with torch.no_grad():
            twin.roll(state, actions)
        return time.perf_counter() - begin

    return run


def gradient_timed(twin: RigidTwin, count: int, steps: int) -> Timed:
    """Forward and backward, to the start and to every parameter."""
    state, actions = starts(twin, count), torch.zeros(count, steps, 0)
    values = {name: value.clone().requires_grad_() for name, value in twin.values.items()}

    def run() -> float:
        leaf = state.configuration.clone().requires_grad_()
        begin = time.perf_counter()
        fitted = twin.with_parameters(values)
        states = fitted.roll(RigidState(configuration=leaf, velocity=state.velocity, batch_size=state.batch_size), actions).states
        torch.autograd.grad(states.configuration.sum(), [leaf, *values.values()], allow_unused=True)
        return time.perf_counter() - begin

    return run


def mujoco_timed(twin: MujocoTwin, state: RigidState, steps: int) -> Timed:
    """`mujoco.rollout` alone: its states are not even turned into ours."""
    from mujoco.rollout import Rollout

    models = twin._prepared()
    q, v = (part.double().numpy() for part in (state.configuration, state.velocity))
    start, each, data = models.maps.inward(q, v), models.of(np.zeros(len(q), dtype=int)), models.data_for(min(THREADS, len(q)))
    pool = Rollout(nthread=len(data) if len(data) > 1 else 0)

    def run() -> float:
        begin = time.perf_counter()
        pool.rollout(each, data, start, nstep=steps * twin.substeps)
        return time.perf_counter() - begin

    return run


class BulletWorker:
    """What one process does: a client of its own, whose worlds take turns, with a bare loop of `stepSimulation` and one look at the pose a step."""

    run: Any = None

    @classmethod
    def prepare(cls, twin: BulletTwin) -> None:
        """Build the scene."""
        from structwm.physics.bullet_twin import Run

        width = twin.scene.world.bodies and 7
        start = np.zeros((1, width))
        start[:, 3] = 1.0
        assert twin.spec.dt is not None
        calls = 1 if twin.substeps & (twin.substeps - 1) == 0 else twin.substeps
        cls.run = Run(twin, twin._prepared(), start, np.zeros((1, 6)), np.zeros((1, 1, 0)), np.zeros(1, dtype=int), calls)
        cls.scene = twin._client.scene()
        cls.scene.show(twin.layout, twin._prepared(), 0, twin.spec.dt / calls, twin.substeps // calls)

    @classmethod
    def work(cls, starts: np.ndarray, steps: int) -> float:
        """Seconds that worlds (n, 13) take."""
        run, scene = cls.run, cls.scene
        engine, client, uid = scene.engine, scene.client, scene.parts[0].uid
        begin = time.perf_counter()
        for start in starts:
            run._forget(scene)
            run._place(scene, uid, start)
            for _ in range(steps):
                for _ in range(run.calls):
                    engine.stepSimulation(client)
                engine.getBasePositionAndOrientation(uid, client)
        return time.perf_counter() - begin


def bullet_timed(twin: BulletTwin, state: RigidState, steps: int, pool: ProcessPoolExecutor) -> Timed:
    """PyBullet in one process, or half of the worlds in each of two; starting them is not counted."""
    rows = torch.cat((state.configuration[:, :3], state.configuration[:, [4, 5, 6, 3]], state.velocity), -1).double().numpy()
    halves = [half for half in np.array_split(rows, THREADS) if len(half)] if len(rows) > 1 else [rows]

    def run() -> float:
        return max(future.result() for future in [pool.submit(BulletWorker.work, half, steps) for half in halves])

    return run


def speed_claims(found: Mapping[str, Any], quick: bool, console: Console) -> dict[str, Any]:
    """Ratios of speed at several numbers of worlds, of gradients beside none, and memory of a long rollout."""
    rigid, bullet, mujoco = (fast_twin(found, engine) for engine in ("rigid", "bullet", "mujoco"))
    assert isinstance(rigid, RigidTwin) and isinstance(bullet, BulletTwin) and isinstance(mujoco, MujocoTwin)
    steps = {name: f"{1e3 / RATE / twin.substeps:.2f} ms" for name, twin in (("rigid", rigid), ("bullet", bullet), ("mujoco", mujoco))}
    threads = torch.get_num_threads()
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    columns = (f"{NAMES[name]}, steps of {step}" for name, step in steps.items())
    table = Table("worlds", *columns, "RigidTwin with gradients", title=f"simulated seconds a second, {THREADS} threads or processes, median of {REPEATS}")
    claims: dict[str, Any] = {}
    try:
        with ProcessPoolExecutor(THREADS, mp_context=get_context("spawn"), initializer=BulletWorker.prepare, initargs=(bullet,)) as pool:
            for worlds in WORLDS:
                state = starts(rigid, worlds)
                fewer = min(worlds, 512 if quick else worlds)  # of PyBullet, whose worlds take turns
                timed: dict[str, tuple[Timed, float]] = {
                    "rigid": (rigid_timed(rigid, worlds, STEPS), worlds * STEPS / RATE),
                    "bullet": (bullet_timed(bullet, state[:fewer], STEPS, pool), fewer * STEPS / RATE),
                    "mujoco": (mujoco_timed(mujoco, state, STEPS), worlds * STEPS / RATE),
                    "gradient": (gradient_timed(rigid, worlds, STEPS), worlds * STEPS / RATE),
                }
                for run, _ in timed.values():
                    run()
                rounds = [{name: seconds / run() for name, (run, seconds) in timed.items()} for _ in range(REPEATS)]  # interleaved
                rates = {name: [entry[name] for entry in rounds] for name in timed}
                table.add_row(f"{worlds:,}", *(f"{np.median(rates[name]):,.0f} x" for name in timed))
                claims[f"sim_seconds_rigid_{worlds}"] = median_claim(rates["rigid"])
                claims[f"backward_cost_{worlds}"] = median_claim([a / b for a, b in zip(rates["rigid"], rates["gradient"], strict=True)])
                for peer in ("mujoco", "bullet"):
                    claims[f"sim_seconds_ratio_{peer}_{worlds}"] = median_claim([a / b for a, b in zip(rates["rigid"], rates[peer], strict=True)])
    finally:
        torch.set_num_threads(threads)
    console.print(table)
    megabytes = memory(rigid, 128)
    console.print(f"a differentiable rollout of {LONG} steps of 128 worlds, backward with it: {megabytes:.0f} MB above what was there")
    claims["memory_1000_steps_mb"] = claim(megabytes, n=1)
    return claims | gpu_claims(rigid, mujoco, starts, STEPS, console)


def memory(twin: RigidTwin, worlds: int) -> float:
    """Greatest memory [MB] of a long rollout forward and backward."""
    state, actions = starts(twin, worlds), torch.zeros(worlds, LONG, 0)
    leaf: Tensor = state.configuration.clone().requires_grad_()
    with Peak() as peak:
        states = twin.roll(RigidState(configuration=leaf, velocity=state.velocity, batch_size=state.batch_size), actions).states
        torch.autograd.grad(states.configuration.sum(), leaf)
    return peak.megabytes
