"""Recordings of pushes on tables whose objects, friction and masses are drawn for each episode."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from .tabletop import make_tabletop
from .tabletop_config import AnyPusher, Array, Box, Chain, CylinderPusher, PlatePusher, SpherePusher, TabletopConfig, Thing
from .tabletop_episodes import TabletopEpisodes
from .tabletop_policy import push_policy

Kind = Literal["boxes", "chain", "mixed"]
PUSHERS: dict[str, AnyPusher] = {"cylinder": CylinderPusher(), "sphere": SpherePusher(), "plate": PlatePusher()}
COUNTS: dict[str, tuple[int, int]] = {"boxes": (2, 5), "chain": (1, 1), "mixed": (2, 3)}  # of objects
HALF_EXTENTS, MASS, FRICTION = (0.02, 0.05), (0.1, 1.0), (0.2, 0.8)  # [m], [kg] of a whole object, [-]
CHAIN_LENGTH = 0.36  # at most [m]


def sample_config(
    rng: np.random.Generator, objects: tuple[int, int] | None = None, kind: Kind = "boxes", pusher: AnyPusher | str = "cylinder", **fields: Any
) -> TabletopConfig:
    """A table whose objects are drawn: half extents of boxes of 2 to 5 cm, masses of 0.1 to 1 kg, friction of 0.2 to 0.8 for each object and the table.

    Args:
        rng: where all draws come from.
        objects: fewest and most of them; 2 to 5 boxes, 1 chain, 2 to 3 where mixed, if not given.
        kind: boxes, chains of 5 to 9 links, or one chain among boxes.
        pusher: "cylinder", "sphere", "plate" or one of any size.
        fields: of `TabletopConfig` that are not drawn.

    Raises:
        ValueError: on an unknown kind or pusher, or counts that are no range.
    """
    if kind not in COUNTS or (isinstance(pusher, str) and pusher not in PUSHERS):
        raise ValueError(f"sample_config knows the kinds {', '.join(COUNTS)} and pushers {', '.join(PUSHERS)}, got {kind!r} and {pusher!r}.")
    fewest, most = COUNTS[kind] if objects is None else objects
    if not 1 <= fewest <= most <= 8:
        raise ValueError(f"sample_config needs a range of objects from 1 to 8, got {(fewest, most)}.")
    count = int(rng.integers(fewest, most + 1))
    things: list[Thing] = [_chain(rng) if kind == "chain" or (kind == "mixed" and index == 0) else _box(rng) for index in range(count)]
    drawn = {"table_friction": float(rng.uniform(*FRICTION)), "pusher_friction": float(rng.uniform(0.2, 0.5)), **fields}
    return TabletopConfig(objects=tuple(things), pusher=PUSHERS[pusher] if isinstance(pusher, str) else pusher, **drawn)


def _box(rng: np.random.Generator) -> Box:
    x, y, z = rng.uniform(*HALF_EXTENTS, 3).tolist()
    return Box((x, y, z), float(rng.uniform(*MASS)), float(rng.uniform(*FRICTION)))


def _chain(rng: np.random.Generator) -> Chain:
    length, width = float(rng.uniform(0.016, 0.024)), float(rng.uniform(0.009, 0.013))
    links = min(int(rng.integers(5, 10)), int(CHAIN_LENGTH / (2 * length + width)))
    shape: Literal["box", "capsule"] = "box" if rng.uniform() < 0.5 else "capsule"
    joint: Literal["hinge", "ball"] = "hinge" if rng.uniform() < 0.5 and shape == "box" else "ball"  # capsules with hinges would roll away
    return Chain(links, (length, width, width), float(rng.uniform(*MASS)) / links, float(rng.uniform(*FRICTION)), shape, joint)


@dataclass(frozen=True)
class _Job:
    engine: str
    steps: int
    seed: int
    points: int
    settings: dict[str, Any]  # of sample_config


def record_tabletop(
    engine: str,
    episodes: int,
    steps: int,
    seed: int,
    *,
    points: int = 64,
    objects: tuple[int, int] | None = None,
    kind: Kind = "boxes",
    pusher: AnyPusher | str = "cylinder",
    workers: int = 1,
    **fields: Any,
) -> TabletopEpisodes:
    """Pushes on tables, each with objects of its own; the same for the same arguments bit for bit, whatever the number of workers.

    Args:
        engine: "bullet" or "mujoco".
        episodes: R.
        steps: T - 1, control periods of an episode.
        seed: of everything; more episodes begin with the same ones.
        points: material points of each object.
        objects: as in `sample_config`.
        kind: as in `sample_config`.
        pusher: as in `sample_config`.
        workers: processes that share the episodes.
        fields: of `TabletopConfig` that are not drawn.

    Raises:
        ValueError: on less than one episode, step or worker, and as `sample_config`.
    """
    if min(episodes, steps, workers) < 1:
        raise ValueError(f"record_tabletop needs episodes, steps and workers of at least 1, got {episodes}, {steps} and {workers}.")
    settings: dict[str, Any] = {"objects": objects, "kind": kind, "pusher": pusher, **fields}
    sample_config(np.random.default_rng(0), **settings)  # refuses before any work is done
    return TabletopEpisodes.join(in_processes(partial(_record, _Job(engine, steps, seed, points, settings)), episodes, workers))


def in_processes(record: Callable[[int], TabletopEpisodes], episodes: int, workers: int) -> list[TabletopEpisodes]:
    """`record` of 0 to episodes - 1, in order, by as many processes."""
    if workers == 1:
        return [record(index) for index in range(episodes)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(record, range(episodes)))


def _record(job: _Job, index: int) -> TabletopEpisodes:
    rng = np.random.default_rng((job.seed, index))
    config = sample_config(rng, **job.settings)
    policy = push_policy(rng)
    world = make_tabletop(job.engine, config=config)
    try:
        observation, _ = world.reset(seed=int(rng.integers(2**31)))
        poses, pusher, actions = [world.truth().poses], [observation["pusher"]], []
        for _ in range(job.steps):
            actions.append(policy.act(config, poses[-1], pusher[-1]))
            observation = world.step(actions[-1])[0]
            poses.append(world.truth().poses)
            pusher.append(observation["pusher"])
        material = world.surface_points(job.points, int(rng.integers(2**31)))
    finally:
        world.close()
    return one_episode(config, material.at(np.array(poses)), material.object_ids, material.body_ids, np.array(poses), np.array(pusher), np.array(actions))


def one_episode(config: Any, positions: Array, object_ids: Any, body_ids: Any, poses: Array, pusher: Array, actions: Array) -> TabletopEpisodes:
    """An episode (R = 1) of arrays without their first axis."""
    objects = [body.object_id for body in config.bodies] if isinstance(config, TabletopConfig) else []

    def real(value: Array) -> torch.Tensor:
        return torch.from_numpy(np.asarray(value, np.float32))[None]

    return TabletopEpisodes(
        positions=real(positions),
        mask=torch.ones(1, positions.shape[1], dtype=torch.bool),
        object_ids=torch.from_numpy(np.asarray(object_ids, np.int64))[None],
        body_ids=torch.from_numpy(np.asarray(body_ids, np.int64))[None],
        poses=real(poses),
        body_objects=torch.tensor([objects], dtype=torch.int64),
        pusher=real(pusher),
        actions=real(actions),
        dt=config.dt,
        configs=(config,),
    )
