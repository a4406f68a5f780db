"""Learn to push a box to goal poses inside a model, then try it in PyBullet and in MuJoCo, which the policy has never met.

The model is a `PushTwin` under several frictions, one for each imagined episode; any model of pushing will do. Needs `pip install structwm[demo,rl]`.

    python examples/learn_in_imagination.py --steps 1500000 --goals 20
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from structwm.demos.push_control import random_goals
from structwm.demos.push_policy import Learning, PushEpisodes, imagined_pushing, run_policy
from structwm.demos.push_training import learn_to_push
from structwm.ensemble import Ensemble
from structwm.physics.pushing import PushTwin, rectangle
from structwm.worlds import make


@dataclass(frozen=True)
class Options:
    """What to run."""

    steps: int = 1_500_000  # imagined; more learn better: a million takes about 50 seconds on one core
    goals: int = 20  # random poses within 10 cm and 60 degrees, reached to 1 cm and 5 degrees
    envs: int = 1024  # imagined episodes at once
    seed: int = 0


def main(options: Options) -> None:
    torch.set_num_threads(1)  # small networks are faster so
    twin = PushTwin(rectangle(0.10, 0.06), dt=0.1, substeps=5)
    model = Ensemble(twin.with_parameters({"friction": torch.tensor([0.15, 0.2, 0.25, 0.32, 0.4])}))
    episodes = PushEpisodes()
    begin, told = time.perf_counter(), [0.0]

    def tell(steps: int, reached: float) -> None:
        seconds = time.perf_counter() - begin
        if seconds - told[0] > 10:
            told[0] = seconds
            print(f"{steps:8d} imagined steps, {seconds:4.0f} s: {100 * reached:3.0f} % of the episodes reach their goals")

    actor = learn_to_push(imagined_pushing(model, twin, options.envs, episodes), Learning(steps=options.steps, seed=options.seed), tell=tell)
    starts, goals = random_goals(options.goals, seed=options.seed)
    for engine in ("bullet", "mujoco"):
        worlds = [make(engine) for _ in range(options.goals)]
        run = run_policy(worlds, starts, goals, lambda pose, pusher, goal: actor(pose, pusher, goal, 0.1), episodes)
        took = 0.1 * float(np.median(run.steps))
        print(f"{engine}: {int(run.reached.sum())} of {options.goals} goals reached, after {took:.1f} s of pushing in the median")


if __name__ == "__main__":
    main(tyro.cli(Options))
