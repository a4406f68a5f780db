"""Simulated seconds per second of wall time of the tossed cube with many worlds on a GPU: RigidTwin beside MuJoCo Warp and Newton.

Each engine replays a captured CUDA graph of one step, on states that stay on the device. MuJoCo Warp takes the model that MuJoCo was calibrated with, at its
time step; Newton, which was not calibrated, a cube of the same size and mass on a plane under its XPBD solver, at the same time step. MuJoCo Warp 3.6 goes
with MuJoCo 3.6: `pip install mujoco-warp==3.6.0 newton`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import warp as wp
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, median_claim
from structwm.data.cube_tosses import MASS, RATE, SIDE
from structwm.physics import MujocoTwin, RigidTwin
from structwm.physics.rigid_scene import RigidState

WORLDS = (4096, 65536)
REPEATS = 5

Timed = Callable[[], float]  # runs once; seconds of wall time


def graph_timed(step: Callable[[], None], steps: int, device: str) -> Timed:
    """Replays of one recorded step."""
    with wp.ScopedDevice(device):
        step()  # compiles and allocates
        with wp.ScopedCapture(device=device) as capture:
            step()

    def run() -> float:
        wp.synchronize_device(device)
        begin = time.perf_counter()
        for _ in range(steps):
            wp.capture_launch(capture.graph)
        wp.synchronize_device(device)
        return time.perf_counter() - begin

    return run


def rigid_timed(twin: RigidTwin, state: RigidState, steps: int, device: str) -> Timed:
    """RigidTwin's public call, all steps in one launch."""
    there, now = twin.to(device), state.to(device)
    actions = torch.zeros(len(now), steps, 0, device=device)

    def run() -> float:
        wp.synchronize_device(device)
        begin = time.perf_counter()
        with torch.no_grad():
            there.roll(now, actions)
        wp.synchronize_device(device)
        return time.perf_counter() - begin

    return run


def mujoco_warp_timed(twin: MujocoTwin, state: RigidState, steps: int, device: str) -> Timed:
    """`mujoco_warp.step` on the calibrated model."""
    import mujoco_warp
    from mujoco import MjData

    models = twin._prepared()
    model = models.of(torch.zeros(1, dtype=torch.int64).numpy())[0]
    q, v = (part.double().numpy() for part in (state.configuration, state.velocity))
    start = models.maps.inward(q, v)
    with wp.ScopedDevice(device):
        there = mujoco_warp.put_model(model)
        data = mujoco_warp.put_data(model, MjData(model), nworld=len(q), nconmax=16, njmax=64)  # a world
        data.qpos.assign(start[:, 1 : 1 + model.nq])
        data.qvel.assign(start[:, 1 + model.nq :])

    def step() -> None:
        for _ in range(twin.substeps):
            mujoco_warp.step(there, data)

    return graph_timed(step, steps, device)


def newton_timed(substeps: int, state: RigidState, steps: int, device: str) -> Timed:
    """Newton's XPBD solver."""
    import newton

    cube = newton.ModelBuilder(up_axis=newton.Axis.Z)
    body = cube.add_body(mass=0.0)
    half = SIDE / 2
    cube.add_shape_box(body, hx=half, hy=half, hz=half, cfg=newton.ModelBuilder.ShapeConfig(density=MASS / SIDE**3, mu=0.18, restitution=0.125))
    builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
    builder.replicate(cube, len(state))
    builder.add_ground_plane()
    with wp.ScopedDevice(device):
        model = builder.finalize(device=device)
        pipeline = newton.CollisionPipeline(model)
        contacts = pipeline.contacts()
        solver = newton.solvers.SolverXPBD(model, enable_restitution=True)
        states = [model.state(), model.state()]
        control = model.control()
        w, x, y, z = state.configuration[:, 3:].unbind(-1)
        pose = torch.cat((state.configuration[:, :3], torch.stack((x, y, z, w), -1)), -1)
        states[0].body_q.assign(pose.numpy())
        states[0].body_qd.assign(state.velocity.numpy())

    def step() -> None:
        for _ in range(substeps + substeps % 2):  # an even number ends where it began
            states[0].clear_forces()
            pipeline.collide(states[0], contacts)
            solver.step(states[0], states[1], control, contacts, 1 / RATE / substeps)
            states.reverse()

    return graph_timed(step, steps, device)


def gpu_claims(rigid: RigidTwin, mujoco: MujocoTwin, starts: Callable[[RigidTwin, int], RigidState], steps: int, console: Console) -> dict[str, Any]:
    """Ratios of speed; null, with the reason, where there is no GPU or an engine is not installed."""
    if not torch.cuda.is_available():
        return {f"sim_seconds_ratio_{peer}_{worlds}_gpu": claim(None, why="not run on a GPU") for peer in ("mujoco_warp", "newton") for worlds in WORLDS}
    device = "cuda:0"
    table = Table("worlds", "RigidTwin", "MuJoCo Warp", "Newton", title=f"simulated seconds a second, {torch.cuda.get_device_name(0)}, median of {REPEATS}")
    claims: dict[str, Any] = {}
    for worlds in WORLDS:
        state, seconds = starts(rigid, worlds), worlds * steps / RATE
        timed = {"rigid": rigid_timed(rigid, state, steps, device)}
        for peer in ("mujoco_warp", "newton"):
            name = f"sim_seconds_ratio_{peer}_{worlds}_gpu"
            if find_spec(peer) is None:
                claims[name] = claim(None, why=f"{peer} is not installed")
            elif peer == "mujoco_warp":
                timed[peer] = mujoco_warp_timed(mujoco, state, steps, device)
            else:
                timed[peer] = newton_timed(mujoco.substeps, state, steps, device)
        for run in timed.values():
            run()
        rounds = [{name: seconds / run() for name, run in timed.items()} for _ in range(REPEATS)]
        claims[f"sim_seconds_rigid_{worlds}_gpu"] = median_claim([entry["rigid"] for entry in rounds])
        for peer in timed.keys() - {"rigid"}:
            claims[f"sim_seconds_ratio_{peer}_{worlds}_gpu"] = median_claim([entry["rigid"] / entry[peer] for entry in rounds])
        middle = {name: sorted(entry[name] for entry in rounds)[REPEATS // 2] for name in timed}
        table.add_row(f"{worlds:,}", *(f"{middle[name]:,.0f} x" if name in middle else "-" for name in ("rigid", "mujoco_warp", "newton")))
    console.print(table)
    return claims
