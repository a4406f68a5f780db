"""The action filter on pushing: `python -m benchmarks.planning_filter [--quick]`.

Real pushes (`mit_push`): of each object a filter asks whether a push is like those its twin was calibrated on, and whether draws from the twin's posterior
agree about it; its limits are set for several false alarm rates on half of the other pushes, and counted on the rest.

Pushes beside posts in PyBullet: a twin of the object from 20 pushes, a margin and limits from others, and PyBullet says which of the remaining ones hit a
post. A post is a ghost there: it is passed through, and the engine measures the clearance, which up to the first touch is that of a solid post.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pybullet
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, interval_claim, publish
from benchmarks.pushing import kept
from structwm.data import Pushes, fetch, read_mit_push, split
from structwm.demos.push_stages import OBJECT
from structwm.demos.pushing import one_thread
from structwm.ensemble import Ensemble
from structwm.geometry.outline import signed_distance
from structwm.geometry.planar import Polygon, rotate, to_body
from structwm.physics import Settings, calibrate, push_recording, push_twin
from structwm.physics.calibration import Calibration
from structwm.physics.pushing import CALIBRATED, PushState, PushTwin
from structwm.physics.recorded_pushes import push_windows
from structwm.roles import ActionFilter, Collision, Interval, Novelty, Uncertainty, Verdict
from structwm.training import Batch
from structwm.transition import Trajectory
from structwm.worlds import PushingConfig, record_pushes
from structwm.worlds.bullet_pushing import BulletPushing
from structwm.worlds.pushing import Array, place_points

RATES = (0.05, 0.1, 0.2, 0.3)  # false alarm rates on real pushes
MEMBERS = 8
SPLITS = (2, 10)  # quick and full: of the held-out real pushes into those that set limits and those that count
POST = 0.008  # radius of a post [m]
POSTS = 4  # beside each push, each judged by itself
STEPS, DT = 15, 0.04  # of a push
MISSED, ALARMS = 0.05, 0.04  # nominal: share of violating pushes that pass the collision check, and of safe ones that the whole filter rejects
MODEL_PUSHES = 20
QUICK, FULL = (20, 40, 40), (100, 400, 600)  # pushes in PyBullet that model and novelty are fitted to, that set limits, and that count


def relative(trajectory: Trajectory) -> Tensor:
    """What a push looks like from the slider, (*B, H, 4): where the pusher is and where it goes. Where on the table it happens does not matter."""
    states = trajectory.states[(slice(None),) * len(trajectory.batch_shape) + (slice(None, -1),)]
    return torch.cat((to_body(states.pose, states.pusher), rotate(trajectory.actions, -states.pose[..., 2])), -1)


def filter_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`filter_coverage_gap`, `unsafe_rejected`, `safe_rejected`."""
    return coverage_claim(SPLITS[0 if quick else 1], console) | collision_claims(quick, console)


def coverage_claim(splits: int, console: Console) -> dict[str, Any]:
    """The largest difference, over the rates, of the share of real pushes that is accepted from the nominal one; means over splits of the held-out pushes."""
    cells = read_mit_push(fetch("mit_push"))
    calibrations, _ = kept(cells)
    accepted = np.array([cell_coverage(*part, splits, seed=100 * k) for k, part in enumerate(zip(cells, calibrations, strict=True))])  # (cells, splits, rates)
    weight = np.array([len(split(pushes)[1]) for pushes in cells])
    share = (accepted.mean(1) * weight[:, None]).sum(0) / weight.sum()
    table = Table(
        "nominal", "accepted", "least and most of the splits", "least and most of the cells", title=f"{weight.sum()} held-out real pushes, {splits} splits"
    )
    pooled = (accepted * weight[:, None, None]).sum(0) / weight.sum()
    for k, rate in enumerate(RATES):
        spans = [f"{part[:, k].min():.3f} to {part[:, k].max():.3f}" for part in (pooled, accepted.mean(1))]
        table.add_row(f"{1 - rate:.2f}", f"{share[k]:.4f}", *spans)
    console.print(table)
    gaps = np.abs(share - (1 - np.array(RATES)))
    worst = int(gaps.argmax())
    reach = 1.645 * float(np.sqrt(RATES[worst] * (1 - RATES[worst]) / weight.sum()))
    return {"filter_coverage_gap": claim(float(gaps[worst]), n=int(weight.sum()), low=max(float(gaps[worst]) - reach, 0.0), high=float(gaps[worst]) + reach)}


def cell_coverage(pushes: Pushes, calibration: Calibration[PushTwin], splits: int, *, seed: int) -> Array:
    """Share of the test pushes of one object that is accepted, (splits, rates)."""
    few, rest = split(pushes)
    model, known, others = Ensemble(calibration.sample(MEMBERS)), windows_of(pushes[few]), windows_of(pushes[rest])
    screen = ActionFilter(model, [Novelty.fit(model, known, features=relative), Uncertainty()])
    found = np.empty((splits, len(RATES)))
    for s in range(splits):
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed + s))
        limits, test = others[order[: len(order) // 2]], others[order[len(order) // 2 :]]
        for k, rate in enumerate(RATES):
            fitted = screen.calibrated(limits, rate, seed=seed + s)
            found[s, k] = float(fitted(test.start, test.actions[:, None]).accepted.double().mean())
    return found


def windows_of(pushes: Pushes) -> Batch:
    """Whole pushes as windows of one step, float32."""
    return push_windows(pushes).to(torch.float32)


class PostWorld(BulletPushing):
    """Pushing beside ghost posts, `POSTS` in every episode, drawn in front of the slider as the pusher comes; keeps the least clearance of each episode."""

    def __init__(self, *, seed: int, **fields: Any) -> None:
        super().__init__(dt=DT, **fields)
        self.rng = np.random.default_rng(seed)
        self.posts: list[Array] = []  # of each episode (POSTS, 2) [m]
        self.clearances: list[Array] = []  # of each episode (POSTS,) [m], least of all physics steps
        self._ghosts: list[int] = []

    def _place(self, object_pose: Array, pusher: Array) -> None:
        super()._place(object_pose, pusher)
        self.posts.append(self._draw(object_pose, pusher))
        self.clearances.append(np.full(POSTS, np.inf))
        at = self._at
        sphere = pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=POST, **at)
        self._ghosts = [pybullet.createMultiBody(0, sphere, basePosition=[*post, self.config.height / 2], **at) for post in self.posts[-1].tolist()]
        for ghost in self._ghosts:
            for body in (self._slider_id, self._pusher_id):
                for link in (-1, 0, 1):
                    pybullet.setCollisionFilterPair(body, ghost, link, -1, 0, **at)

    def _move_pusher(self, position: Array, velocity: Array) -> None:
        for k, ghost in enumerate(self._ghosts):  # before and after every physics step
            near = pybullet.getClosestPoints(self._slider_id, ghost, 0.05, linkIndexA=-1, **self._at)
            if near:
                self.clearances[-1][k] = min(self.clearances[-1][k], min(point[8] for point in near))
        super()._move_pusher(position, velocity)

    def _draw(self, object_pose: Array, pusher: Array) -> Array:
        """Posts (POSTS, 2) within 45 mm of the slider, in front of it, none nearer than 1 mm."""
        outline, heading = place_points(object_pose, self.config.vertices), object_pose[:2] - pusher
        found: list[Array] = []
        while len(found) < POSTS:
            angle = np.arctan2(heading[1], heading[0]) + self.rng.uniform(-1.3, 1.3)
            post = object_pose[:2] + self.rng.uniform(0.03, 0.12) * np.array([np.cos(angle), np.sin(angle)])
            if 0.001 < float(signed_distance(outline, post)) - POST < 0.045:
                found.append(post)
        return np.stack(found)


@dataclass(frozen=True)
class Beside:
    """N pushes, each with one post, as windows with what PyBullet found."""

    windows: Batch
    posts: Tensor  # (N, 1, 3) [m]
    clearance: Tensor  # (N,) least during the push [m]
    push: Tensor  # int64 (N,), several posts share one

    def __getitem__(self, rows: Tensor) -> Beside:
        return Beside(self.windows[rows], self.posts[rows], self.clearance[rows], self.push[rows])

    @property
    def unsafe(self) -> Tensor:
        """Which pushes hit their post, bool (N,)."""
        return self.clearance <= 0

    def collision(self) -> Collision:
        """The check for these posts, in their rows."""
        return Collision(self.posts, radii=POST, name="post")


def record(count: int, *, seed: int) -> Beside:
    """Pushes of the demo's object in PyBullet, each beside `POSTS` posts."""
    world = PostWorld(seed=seed, **OBJECT)
    try:
        made = record_pushes(world, count, seed=seed, steps=STEPS)
        posts, clearance = np.concatenate(world.posts), np.concatenate(world.clearances)
    finally:
        world.close()
    rows = torch.arange(count).repeat_interleave(POSTS)
    pose, pusher, actions = (torch.tensor(part, dtype=torch.float32)[rows] for part in (made.object_pose, made.pusher, made.actions))
    states = PushState(pose=pose, pusher=pusher, batch_size=pose.shape[:2])
    placed = torch.nn.functional.pad(torch.tensor(posts, dtype=torch.float32), (0, 1))[:, None]
    return Beside(Batch(states, actions, torch.ones(pose.shape[:2], dtype=torch.bool)), placed, torch.tensor(clearance), rows)


def bullet_models(known: Beside) -> tuple[Ensemble[PushState], PushTwin]:
    """Draws from the posterior of a twin that was calibrated on a few of the known pushes, and the twin as it was before, with the timing of these pushes."""
    config = PushingConfig(dt=DT, **OBJECT)
    pose, pusher = (part[::POSTS][:MODEL_PUSHES].double().numpy() for part in (known.windows.states.pose, known.windows.states.pusher))
    ends = {"init_pose": pose[:, 0], "final_pose": pose[:, -1], "init_tip": pusher[:, 0], "final_tip": pusher[:, -1]}
    pushes = Pushes(surface="bullet", shape="box", outline=config.vertices, tip_radius=config.pusher_radius, source="bullet/box", **ends)
    calibration = calibrate(push_twin(pushes), push_recording(pushes), CALIBRATED, held_out=None, settings=Settings(evaluations=0), progress=False)
    twin = PushTwin(Polygon.of(config.vertices), pusher_radius=config.pusher_radius, dt=DT, max_speed=config.max_speed, substeps=2)
    return Ensemble(twin.with_parameters(calibration.draw(MEMBERS))), twin


def collision_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Shares of the pushes that hit a post, and of the others, that the filter rejects."""
    begin = time.perf_counter()
    known, limits, test = (record(count, seed=seed) for count, seed in zip(QUICK if quick else FULL, (2, 3, 4), strict=True))
    recorded = time.perf_counter()
    model, before = bullet_models(known)
    rows: dict[str, Tensor] = {}
    for name, each in (("uncalibrated twin", before), ("calibrated twins", model)):
        margins = ActionFilter(each, [limits.collision()]).with_margins(limits.windows, MISSED, groups=limits.push, least=-float("inf"))
        verdict = judged(margins, test)
        reach = -1e3 * float(margins.check("post").limit or 0.0)
        rows |= {f"{name}, post": verdict.values[:, 0, 1] > 0, f"{name}, post with its margin of {reach:.2f} mm": ~verdict.accepted[:, 0]}
    screen = ActionFilter(model, [margins.check("post"), Novelty.fit(model, known.windows, features=relative), Uncertainty()])
    safe = limits[~limits.unsafe]
    screen = screen.replaced(_moved(screen, safe)).calibrated(safe.windows, ALARMS, groups=safe.push)
    verdict = judged(screen, test)
    rows |= {check.name: verdict.failed[:, 0, k] for k, check in enumerate(verdict.checks) if check.learnt} | {"all": ~verdict.accepted[:, 0]}
    console.print(f"recorded in {recorded - begin:.0f} s, judged in {time.perf_counter() - recorded:.0f} s")
    return _table(rows, test, console)


def judged(screen: ActionFilter, beside: Beside) -> Verdict:
    """Each push as the only candidate of its problem."""
    return screen.replaced(_moved(screen, beside))(beside.windows.start, beside.windows.actions[:, None])


def _moved(screen: ActionFilter, beside: Beside) -> Collision:
    check = screen.check("post")
    assert isinstance(check, Collision)
    return check.moved(beside.posts)


def _table(rows: dict[str, Tensor], test: Beside, console: Console) -> dict[str, Any]:
    """What each check rejects, and the claims of all together, with bootstraps over pushes."""
    unsafe, pushes = test.unsafe, int(test.push.max()) + 1

    def share(rejected: Tensor, among: Tensor) -> Interval:
        hits, count = (torch.bincount(test.push, weights=part.double(), minlength=pushes).numpy() for part in (rejected & among, among))
        return Interval.of_mean(hits, over=count)

    title = f"{pushes} pushes beside {POSTS} posts each in PyBullet: {int(unsafe.sum())} hit, {int((~unsafe).sum())} pass; rejected share with 90 % interval"
    table = Table("check", "of those that hit", "of those that pass", title=title)
    for name, rejected in rows.items():
        found = [share(rejected, among) for among in (unsafe, ~unsafe)]
        table.add_row(name, *(f"{part.value:.3f} ({part.low:.3f} to {part.high:.3f})" for part in found))
    console.print(table)
    return {
        "unsafe_rejected": interval_claim(share(rows["all"], unsafe), int(unsafe.sum())),
        "safe_rejected": interval_claim(share(rows["all"], ~unsafe), int((~unsafe).sum())),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pushes in PyBullet; under 20 seconds")
    options = parser.parse_args(arguments)
    with one_thread():
        claims = filter_claims(options.quick, Console(width=150))
    publish("planning_filter", claims)


if __name__ == "__main__":
    main()
