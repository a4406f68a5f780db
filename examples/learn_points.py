"""Learn how boxes on a table move from recorded pushes, see how far predictions drift, and plan with the model from RGB-D images.

Everything is recorded here, in PyBullet; the planner sees pictures, depth and the pusher's own place. Needs `pip install structwm[demo,training]`.

    python examples/learn_points.py --folder runs/learn_points
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from structwm.planning import MPC, ShapeGoal, SplineMPPI
from structwm.points import CloudRecording, ContactDynamics, Embodied, PointLoss, RigidMotion, RigidTools, Still
from structwm.report.point_figures import draw_point_predictions
from structwm.training import Curriculum, FitSettings, fit, save_model
from structwm.transition import Trajectory, all_valid
from structwm.worlds import cloud_recording, make_tabletop, record_tabletop, table_observation, table_tracker
from structwm.worlds.tabletop_config import TabletopConfig

TOOL, POINTS = 64, 64  # points of the pusher's surface; of each object


@dataclass(frozen=True)
class Options:
    """What to run."""

    episodes: int = 60  # recorded pushes to learn from; more learn better
    steps: int = 400  # of training, some two minutes; `python -m benchmarks.points` takes 1,600
    control: int = 24  # control periods of a tenth of a second in which a goal is to be reached
    folder: Path = Path("runs/learn_points")
    seed: int = 0


def main(options: Options) -> None:
    begin = time.perf_counter()
    train, test = record(options.episodes, options.seed), record(10, options.seed + 1)
    print(f"{options.episodes} episodes of pushing recorded in {time.perf_counter() - begin:.0f} s")
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # operations this small gain little from more
    model = ContactDynamics(robot_points=TOOL, dt=train.dt, objects=3)
    windows = train.windows(4)
    model.fit_scales(windows[::17])
    settings = FitSettings(steps=options.steps, batch=32, learning_rate=4e-3, curriculum=Curriculum(first=2, reach=0.6), evaluate_every=options.steps // 4)
    fitted = fit(model, windows, held_out=test.windows(20, stride=15)[:], loss=PointLoss(), settings=settings)
    print(f"trained in {fitted.seconds:.0f} s")
    options.folder.mkdir(parents=True, exist_ok=True)
    save_model(model, options.folder / "model")
    drift(model, test, options.folder)
    push_to_goal(model, options)


def record(episodes: int, seed: int) -> CloudRecording:
    """Pushes of two or three boxes; each episode has its own sizes, masses and friction."""
    found = record_tabletop("bullet", episodes, 50, seed, points=3 * POINTS, objects=(2, 3), workers=os.cpu_count() or 1)
    return cloud_recording(found, points=POINTS, robot_points=TOOL)


@torch.no_grad()
def drift(model: ContactDynamics, test: CloudRecording, folder: Path) -> None:
    """Tell how far predicted points are from where they were after 1, 5 and 20 steps, and draw the run in which most moved."""
    batch = test.windows(20, stride=10, first=2)[:]
    models = {"held still": Still(robot_points=TOOL, dt=test.dt), "goes on": RigidMotion(robot_points=TOOL, dt=test.dt), "learned": model}
    predictions = {}
    for title, one in models.items():
        predictions[title] = one.rollout(batch.start, batch.actions)
        away = (predictions[title].states.positions - batch.states.positions).norm(dim=-1)
        mean = (away * batch.states.mask).sum((0, 2)) / batch.states.mask.sum((0, 2))
        print(f"{title:>10}: points are off by {1e3 * mean[1]:.1f}, {1e3 * mean[5]:.1f} and {1e3 * mean[20]:.1f} mm after 1, 5 and 20 steps")
    moved = (batch.states.positions[:, -1] - batch.states.positions[:, 0]).norm(dim=-1).amax(-1)
    times = predictions["learned"].times
    seen = Trajectory(model.scene, batch.states, batch.actions, times, all_valid(batch.states.batch_size, times.device))
    shown = {title: predictions[title] for title in ("goes on", "learned")}
    picture = draw_point_predictions(seen, shown, (0, 7, 14, 20), robot=batch.states.robot, which=int(moved.argmax()))
    (folder / "predictions.png").write_bytes(picture)
    print(f"predictions beside what happened (grey): {folder / 'predictions.png'}")


@torch.no_grad()
def push_to_goal(model: ContactDynamics, options: Options) -> None:
    """Push a box 6 cm ahead, planning on what cameras see."""
    config = TabletopConfig(width=160, height=120)
    world = make_tabletop("bullet", config=config, images=True)
    places = [np.array(place) for place in ((0.0, 0.0, 0.2), (0.02, 0.12, 0.5), (-0.05, -0.13, 0.0))]
    observed, _ = world.reset(options={"layout": places, "pusher": np.array([-0.07, 0.005])})
    eyes = table_tracker(config, points=POINTS, robot_points=TOOL)
    belief = eyes.start(table_observation(world, observed))
    points = eyes.state(belief).positions[0]
    ids = eyes.state(belief).object_ids[0]
    mine = ids == ids[points.norm(dim=-1).argmin()]  # the box in the middle
    goal = points + 0.06 * mine.unsqueeze(-1) * torch.tensor([1.0, 0.0, 0.0])
    planner = SplineMPPI(horizon=12, samples=32, iterations=3, knots=3, spline="linear", tail="zero")
    control = MPC(Embodied(model, RigidTools([TOOL], max_speed=0.12)), planner, ShapeGoal(goal), every=2)
    for step in range(options.control + 1):
        state = eyes.state(belief)
        if step % 6 == 0:
            print(f"{0.1 * step:.1f} s: the box is {1e3 * float((state.positions[0] - goal)[mine].norm(dim=-1).mean()):.0f} mm from its goal")
        observed = world.step(control.act(state)[0].double().numpy())[0]
        belief = eyes.update(table_observation(world, observed), belief)
    world.close()


if __name__ == "__main__":
    main(tyro.cli(Options))
