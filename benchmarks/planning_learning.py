"""Learning inside models, and models that learn: `python -m benchmarks.planning --only learning [--quick]`.

A policy learns by PPO to push a box to goal poses inside a model, a `PushTwin` whose friction and pressure are drawn anew for every episode; it never meets an
engine. It is judged in PyBullet and in MuJoCo, whose frictions are drawn alike, beside model predictive control with the same model and beside random actions:
the same starts, goals, frictions and time for all; a goal is reached to 1 cm and 5 degrees. The policy and random actions stop where that holds first, control
goes on to 0.6 of it and rests. The policy of the last full run is kept beside this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, fraction_claim, settings_hash
from structwm.demos.push_control import PushGoal, push_to_goals, random_goals
from structwm.demos.push_policy import Learning, PushActor, PushEpisodes, imagined_pushing, run_policy
from structwm.ensemble import Ensemble
from structwm.physics.pushing import PushState, PushTwin, rectangle
from structwm.roles import ImaginedEnv
from structwm.training import load_model, model_facts, save_model
from structwm.worlds import PlanarPushing, make

Array = NDArray[np.float64]
KEPT = Path(__file__).parent / "artefacts" / "push_policy"
ENGINES = {"bullet": "PyBullet", "mujoco": "MuJoCo"}
EPISODES = PushEpisodes()
ENVS, MEMBERS = 1024, 8
FRICTION, SPREAD, PRESSURE = 0.25, 0.3, 0.2  # between pusher and box; standard deviations of its logarithm and of the pressure parameters
LEARNING = Learning()
QUICK, FULL = {"policy": 10, "mpc": 1, "random": 2}, {"policy": 200, "mpc": 40, "random": 50}  # goals


@dataclass(frozen=True)
class Row:
    """How one way of acting did."""

    reached: NDArray[np.bool_]
    seconds: Array  # until the goal was reached
    position: Array  # [m] at the end
    yaw: Array  # [rad]


def policy_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`rl_success`, `mpc_success`, `random_success`, in both engines; `rl_training_s`, `imagined_steps_per_s`."""
    model, twin = randomised()
    if not quick:
        train(model, twin, console)
    actor, facts = kept()
    counts, claims = QUICK if quick else FULL, {}
    for engine, title in ENGINES.items():
        suffix = "" if engine == "bullet" else "_second_engine"
        rows = {"rl": policy(engine, counts["policy"], actor_speed(actor, twin)), "mpc": control(engine, counts["mpc"], model, twin)}
        rows["random"] = policy(engine, counts["random"], random_actions(twin))
        show(rows, f"goals in {title}, to 1 cm and 5 degrees within {0.1 * EPISODES.steps:.0f} s", console)
        claims |= {f"{name}_success{suffix}": fraction_claim(int(row.reached.sum()), len(row.reached)) for name, row in rows.items()}
    console.print(
        f"the policy learned from {facts['steps'] / 1e6:.1f} million imagined steps in {facts['seconds']:.0f} s; "
        f"of its last imagined episodes {100 * facts['reached']:.0f} % reached their goals"
    )
    return claims | {"rl_training_s": claim(facts["seconds"], n=1), "imagined_steps_per_s": steps_per_s(imagined_pushing(model, twin, ENVS, EPISODES))}


def randomised() -> tuple[Ensemble[PushState], PushTwin]:
    """Members whose friction and pressure differ, and the twin in their middle."""
    twin = PushTwin(rectangle(0.10, 0.06), dt=0.1, substeps=5)
    generator = torch.Generator().manual_seed(0)
    kicks = torch.randn(4, MEMBERS, generator=generator)
    pressure = {f"pressure_{name}": PRESSURE * kick for name, kick in zip(("x", "y", "radial"), kicks[1:], strict=True)}
    return Ensemble(twin.with_parameters({"friction": FRICTION * (SPREAD * kicks[0]).exp(), **pressure})), twin


def train(model: Ensemble[PushState], twin: PushTwin, console: Console) -> None:
    """Learn a policy and keep it."""
    from structwm.demos.push_training import learn_to_push  # stable-baselines3 loads where something learns

    reached = [0.0]

    def tell(steps: int, share: float) -> None:
        reached[0] = share

    begin = time.perf_counter()
    with console.status("learning to push inside the model"):
        actor = learn_to_push(imagined_pushing(model, twin, ENVS, EPISODES), LEARNING, tell=tell)
    save_model(actor, KEPT, facts={"config": config_hash(), "seconds": time.perf_counter() - begin, "steps": LEARNING.steps, "reached": reached[0]})


def kept() -> tuple[PushActor, dict[str, Any]]:
    """The policy of the last full run and facts about it.

    Raises:
        ValueError: if it was trained under other settings.
    """
    facts = dict(model_facts(KEPT))
    if facts["config"] != config_hash():
        raise ValueError("The kept policy was trained under other settings; run python -m benchmarks.planning --only learning once, without --quick.")
    actor = load_model(KEPT)
    assert isinstance(actor, PushActor)
    return actor, facts


def config_hash() -> str:
    """Changes when what is learned, or how, changes."""
    return settings_hash(asdict(EPISODES), ENVS, MEMBERS, FRICTION, SPREAD, PRESSURE, asdict(LEARNING))


def actor_speed(actor: PushActor, twin: PushTwin) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The policy at the model's greatest speed."""
    speed = float(twin.spec.action.high.min())
    return lambda pose, pusher, goal: actor(pose, pusher, goal, speed)


def random_actions(twin: PushTwin) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Velocities drawn uniformly at every step."""
    speed, generator = float(twin.spec.action.high.min()), torch.Generator().manual_seed(0)
    return lambda pose, pusher, goal: speed * (2 * torch.rand(len(pose), 2, generator=generator) - 1)


def make_worlds(engine: str, count: int) -> list[PlanarPushing]:
    """Worlds whose friction at the pusher is drawn like the model's."""
    friction = FRICTION * np.exp(SPREAD * np.random.default_rng(7).normal(size=count))
    return [make(engine, pusher_friction=float(value)) for value in friction]


def policy(engine: str, count: int, act: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Row:
    """The first goals, by a policy."""
    worlds = make_worlds(engine, count)
    starts, goals = tasks(count)
    try:
        run = run_policy(worlds, starts, goals, act, EPISODES)
    finally:
        for world in worlds:
            world.close()
    return Row(run.reached, 0.1 * run.steps[run.reached], run.position_error, run.yaw_error)


def control(engine: str, count: int, model: Ensemble[PushState], twin: PushTwin) -> Row:
    """The first goals, by model predictive control with the mean over the model's members."""
    worlds = make_worlds(engine, count)
    starts, goals = tasks(count)
    try:
        run = push_to_goals(worlds, starts, goals, model, twin, PushGoal(EPISODES.position_tolerance, EPISODES.yaw_tolerance, steps=EPISODES.steps))
    finally:
        for world in worlds:
            world.close()
    return Row(run.reached, 0.1 * run.steps[run.reached], run.position_error, run.yaw_error)


def tasks(count: int) -> tuple[Array, Array]:
    """Starts and goals (count, 3), the same first ones for any count."""
    pairs = [random_goals(1, seed=1000 + k, distance=EPISODES.distance, angle=EPISODES.angle) for k in range(count)]
    return np.concatenate([start for start, _ in pairs]), np.concatenate([goal for _, goal in pairs])


def steps_per_s(env: ImaginedEnv) -> dict[str, Any]:
    """Steps of all imagined episodes together, under random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions, rates = env.action_space.sample(), []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(10):
            env.step(actions)
        rates.append(10 * env.num_envs / (time.perf_counter() - begin))
    return claim(float(np.median(rates[2:])), n=5, low=min(rates[2:]), high=max(rates[2:]))


def show(rows: dict[str, Row], title: str, console: Console) -> None:
    """A row for each way of acting."""
    table = Table("by", "goals", "reached", "90 %", "median seconds", "median error, mm", "degrees", title=title)
    for name, row in rows.items():
        rate = fraction_claim(int(row.reached.sum()), len(row.reached))
        took = f"{np.median(row.seconds):.1f}" if len(row.seconds) else "-"
        errors = [f"{1e3 * np.median(row.position):.1f}", f"{np.degrees(np.median(row.yaw)):.1f}"]
        table.add_row(name, str(len(row.reached)), f"{rate['value']:.3f}", f"{rate['low']:.3f} to {rate['high']:.3f}", took, *errors)
    console.print(table)
