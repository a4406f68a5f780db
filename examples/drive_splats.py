"""A real rope's splats driven by a learned model: a graph network is trained on motions of a rod of the rope's shape, and draws what a new motion looks like.

Photos and splats are those of gs_dynamics_rope (Zhang, Zhang and Li, CoRL 2024; `structwm fetch gs_dynamics_rope`), cleaned as in `reconstruct_rope.py`. How
a rope moves is learned from a rod on the table whose end is carried about at random; the motion that is shown is another.

    python examples/drive_splats.py --folder runs/drive_splats
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from reconstruct_rope import Options as RopeOptions
from reconstruct_rope import RopeScene, beside, lift, rope_scene, save_strips, strip
from torch import Tensor

from structwm.points import CloudRecording, GraphDynamics, PointCloud, PointLoss, point_cloud
from structwm.splats import DrivenSplats, SplatDynamics
from structwm.training import Curriculum, FitSettings, fit, save_model

EVERY = 3  # steps of the twin in one of the learned model
SETTLE = 30  # steps of the twin in which the rope comes to lie on the table; the centre line of the photos hovers in places
CONTEXT = 2


@dataclass(frozen=True)
class Options:
    """What to run."""

    vertices: int = 24  # of the rod, and points of the learned model
    runs: int = 128  # random motions to learn from
    seconds: float = 3.0  # of each
    steps: int = 500  # of training, one to two minutes
    horizon: int = 15  # steps that training looks ahead
    width: int = 48  # of the network
    pictures: int = 6  # in a strip
    folder: Path = Path("runs/drive_splats")
    seed: int = 0


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # operations this small gain little from more
    scene = rope_scene(options.vertices)
    model = learned(scene, options)
    options.folder.mkdir(parents=True, exist_ok=True)
    save_model(model, options.folder / "model")
    compare(scene, model, options)


def random_motions(count: int, seconds: float, seed: int) -> Tensor:
    """Velocities (count, H, 3) of the held end at the twin's steps: from place to place, at rest in each, after `SETTLE` steps of rest [m/s]."""
    generator, steps = torch.Generator().manual_seed(seed), round(60 * seconds)
    found = torch.zeros(count, steps, 3)
    for velocities in found:
        place, at = torch.zeros(3), SETTLE
        while at < steps:
            angle, reach, height, rest = torch.rand(4, generator=generator).tolist()
            goal = torch.tensor([0.22 * reach * math.cos(2 * math.pi * angle), 0.22 * reach * math.sin(2 * math.pi * angle), 0.3 * height])
            length = round(60 * (0.8 + 1.2 * rest))
            share = torch.linspace(0, 1, length + 1)
            share = 10 * share**3 - 15 * share**4 + 6 * share**5
            part = 60 * (share[1:] - share[:-1]).unsqueeze(-1) * (goal - place)
            velocities[at : at + length] = part[: steps - at]
            place, at = goal, at + length
    return found


@torch.no_grad()
def recorded(scene: RopeScene, velocities: Tensor) -> CloudRecording:
    """How the rod moves, as points and the gripper that holds the first of them."""
    start = scene.twin.state(scene.nodes.expand(len(velocities), -1, -1))
    trajectory = scene.twin.rollout(start, velocities)
    positions = trajectory.states.positions[trajectory.valid.all(-1)][:, SETTLE::EVERY]
    return CloudRecording(positions, positions[:, :, :1], EVERY / 60, rest=straight(scene), held=held(scene))


def straight(scene: RopeScene) -> Tensor:
    """The rope laid out (V, 3), by which the network knows neighbours along it from strands that cross [m]."""
    lengths = (scene.nodes[1:] - scene.nodes[:-1]).norm(dim=-1)
    return torch.nn.functional.pad(torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).unsqueeze(-1), (0, 2))


def held(scene: RopeScene) -> Tensor:
    """Which vertex the gripper holds: the first."""
    return torch.where(torch.arange(len(scene.nodes)) == 0, 0, -1)


def learned(scene: RopeScene, options: Options) -> GraphDynamics:
    begin = time.perf_counter()
    train, test = (recorded(scene, random_motions(count, options.seconds, seed)) for count, seed in ((options.runs, 1), (12, 2)))
    print(f"{len(train)} motions of the rod in {time.perf_counter() - begin:.0f} s")
    model = GraphDynamics(robot_points=1, dt=train.dt, context=CONTEXT, neighbours=6, inertia=0.0, ground=True, width=options.width)
    windows = train.windows(options.horizon, context=CONTEXT)
    model.fit_scales(windows[::37])
    curriculum = Curriculum(first=2, reach=0.6)
    settings = FitSettings(steps=options.steps, batch=12, learning_rate=3e-3, curriculum=curriculum, evaluate_every=max(options.steps // 5, 1), patience=9)
    judged = test.windows(30, stride=10, context=CONTEXT)[:]
    fitted = fit(model, windows, held_out=judged, loss=PointLoss(noise=3e-4), settings=settings)
    print(f"trained in {fitted.seconds:.0f} s")
    with torch.no_grad():
        away = (model.rollout(judged.start, judged.actions).states.positions - judged.states.positions).norm(dim=-1).mean((0, 2))
        still = (judged.states.positions[:, :1] - judged.states.positions).norm(dim=-1).mean((0, 2))
    ahead = ", ".join(f"{1e3 * float(away[step]):.1f} ({1e3 * float(still[step]):.1f} held still)" for step in (5, 15, 30))
    print(f"other motions: nodes are off by {ahead} mm after 5, 15 and 30 steps of {train.dt:.2f} s")
    return model


@torch.no_grad()
def compare(scene: RopeScene, model: GraphDynamics, options: Options) -> None:
    """The rope lifted and carried aside, by the learned model and by the rod."""
    velocities = lift(RopeOptions(settle=SETTLE / 60), scene.nodes)
    true = scene.twin.rollout(scene.twin.state(scene.nodes), velocities).states[SETTLE::EVERY]
    motions = velocities[SETTLE:].unflatten(0, (-1, EVERY)).sum(1) / 60

    def cloud(nodes: Tensor) -> PointCloud:
        return point_cloud(nodes, nodes[:1], context=CONTEXT, rest=straight(scene), held=held(scene))

    splats = SplatDynamics(model, scene.splats, cloud(scene.nodes), chain=True)
    begin = time.perf_counter()
    predicted = splats.rollout(splats.state(cloud(true.positions[0])), motions)
    spent = time.perf_counter() - begin
    away = (predicted.states.positions - true.positions).norm(dim=-1)
    moved = (true.positions - true.positions[:1]).norm(dim=-1)
    lengths = predicted.states.positions.diff(dim=-2).norm(dim=-1).sum(-1)
    steps = predicted.horizon
    for step in (steps // 4, steps // 2, steps):
        drift, worst, way = (1e3 * float(value) for value in (away[step].mean(), away[step].max(), moved[step].mean()))
        print(f"lift, {step} steps: nodes are {drift:.0f} mm from where the rod's are, the worst {worst:.0f} mm; they moved {way:.0f} mm")
    first, least, most = (100 * float(value) for value in (lengths[0], lengths.min(), lengths.max()))
    print(f"length {first:.1f} cm at first, {least:.1f} to {most:.1f} cm; rolled out in {spent:.2f} s")
    moments = torch.linspace(0, steps, options.pictures).round().long()
    driven = DrivenSplats(scene.twin, scene.splats, scene.nodes, chain=True)
    for name, view in (("beside", beside(scene.nodes)), ("photo_1", scene.camera[1])):
        rows = [strip(splats.scene, predicted.states[moments], view), strip(driven.scene, true[moments], view)]
        save_strips(options.folder, {name: torch.cat(rows)})
    print(f"strips, the learned model above and the rod below: {options.folder}")


if __name__ == "__main__":
    main(tyro.cli(Options))
