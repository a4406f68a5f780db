"""Twins of a rope behind one interface: grippers' velocities in, points of the rope out; and their calibration on what cameras saw of one motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.geometry.rotations import nearest_rotation, quaternion_to_matrix
from structwm.noise import Noise
from structwm.physics import GROUND, Calibration, Rod, RodTwin, Settings, calibrate, rod_recording
from structwm.spec import Action, ActionSpec
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel
from structwm.worlds import Sensing, SoftRecording, observe
from structwm.worlds.bullet_soft import GRAVITY
from structwm.wrappers import ModelWrapper

from .rope_task import RopeTask, sections

SINK = 0.3  # how far the weight of a vertex presses it into the ground, in radii of the rope: harder contacts take more substeps
SAG = 0.02  # by what share a rope's own weight stretches it: stiffer ones would turn the noise of what is observed into motion
SPAN = 4  # edges between two particles that may not be pulled apart: the noise of what is observed would stretch single edges too far
WIDTH = 0.6  # standard deviation of the distances over which tracked points say where a section is, in sections
LEAST = 2.0  # points seen near a section, by weight, below which its place is not known
FRAME_TIME = 1 / 30  # time between two frames of a recording [s]
SEGMENT = 60  # frames that are predicted at once: laid-down and dragged ropes go their own way after some seconds
FITTED = ("bend_stiffness", "bend_damping", "drag", "friction")


class Gripped(ModelWrapper[Any]):
    """A model of particles that grippers move: an action is their velocities (G * 3,) [m/s]. A gripper stops where its workspace ends.

    Args:
        model: whose actions are velocities of driven groups of particles.
        particles: of each gripper, those whose mean is its place.
        drives: for each driven group of the model, the gripper that moves it.
        speed: bound of each component [m/s].
        low: (3,) corner of the workspace [m].
        high: (3,) the opposite corner [m].
    """

    def __init__(
        self,
        model: TransitionModel[Any],
        particles: Sequence[Sequence[int]],
        drives: Sequence[int],
        *,
        speed: float,
        low: Sequence[float] = (-math.inf,) * 3,
        high: Sequence[float] = (math.inf,) * 3,
    ) -> None:
        names = [f"gripper{g}.v{axis}" for g in range(len(particles)) for axis in "xyz"]
        action = ActionSpec.box(-speed, speed, len(names), names=tuple(names), units=("m/s",) * len(names), convention="velocity")
        super().__init__(model, action=action)
        if model.spec.action.size != 3 * len(drives) or not set(drives) <= set(range(len(particles))):
            raise ValueError(f"Gripped needs a gripper for each of the {model.spec.action.size // 3} driven groups of the model, got {tuple(drives)}.")
        self.particles, self.drives, self.speed = tuple(map(tuple, particles)), tuple(drives), speed
        self.low, self.high = tuple(low), tuple(high)

    def config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("model", "particles", "drives", "speed", "low", "high")}

    def places(self, state: Any) -> Tensor:
        """Where the grippers are, (*B, G, 3) [m]."""
        return torch.stack([state.positions[..., list(group), :].mean(-2) for group in self.particles], -2)

    def within(self, places: Tensor, velocities: Tensor) -> Tensor:
        """The velocities (*B, G, 3) [m/s] that lead from places (*B, G, 3) no farther than to the end of the workspace."""
        dt = self.spec.dt or 1.0
        low, high = (torch.tensor(corner).to(places) for corner in (self.low, self.high))
        there = places + dt * velocities
        inside = there.clamp(low, high)
        return torch.where(inside == there, velocities, (inside - places) / dt)

    def inner(self, state: Any, action: Action) -> tuple[Any, Action]:
        velocities = self.within(self.places(state), action.unflatten(-1, (-1, 3)))
        return state, velocities[..., list(self.drives), :].flatten(-2)

    def roll(self, state: Any, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        places, moves = self.places(state), []
        for velocity in actions.unflatten(-1, (-1, 3)).unbind(-3):
            allowed = self.within(places, velocity)
            moves.append(allowed[..., list(self.drives), :].flatten(-2))
            places = places + (self.spec.dt or 1.0) * allowed
        return replace(self.model.roll(state, torch.stack(moves, -2), noise=noise), actions=actions)


@dataclass(frozen=True)
class RopeModel:
    """A model of a rope, and how its particles lie to the nodes that are observed."""

    model: Gripped
    weights: Tensor  # (K, P) of the nodes whose weighted mean each particle is
    offsets: Tensor  # (K, 3) that are added [m]
    rest: Tensor  # (K, 3) where the particles are when the grippers are where the rope was gripped [m]
    gripped: tuple[tuple[int, ...], ...]  # particles that each gripper moves
    pairs: Tensor  # int64 (L, 2) particles that may not be pulled apart
    rest_length: float  # of each pair [m]
    corners: Tensor  # int64 (Q, 2) particles between which points of the rope lie
    shares: Tensor  # (Q, 2) their weights

    def place(self, nodes: Tensor, grippers: Tensor) -> Tensor:
        """Where the particles are (*B, K, 3) [m] for nodes (*B, P, 3) and grippers (*B, G, 3)."""
        return self.hold(self.weights.to(nodes) @ nodes + self.offsets.to(nodes), grippers)

    def hold(self, positions: Tensor, grippers: Tensor) -> Tensor:
        """The particles (*B, K, 3) with those that grippers hold where these (*B, G, 3) say [m]."""
        positions = positions.clone()
        for own, group, place in zip(self.model.particles, self.gripped, grippers.unbind(-2), strict=True):
            rest = self.rest[list(group)] - self.rest[list(own)].mean(0)
            positions[..., list(group), :] = place.unsqueeze(-2) + rest.to(positions)
        return positions

    def state(self, positions: Tensor, velocities: Tensor | None = None) -> State:
        """The model's state for particles (*B, K, 3) [m] and their velocities [m/s]."""
        return self.model.model.state(positions, velocities)  # type: ignore[operator, no-any-return]


def rod_model(task: RopeTask, grippers: int, values: dict[str, Tensor | float], *, dt: float | None = None, substeps: int | None = None) -> RopeModel:
    """The rope as a discrete elastic rod with a vertex at each section. A gripper does not turn, so the rod is clamped: a vertex beyond the held end, an edge
    away, moves with it.

    Args:
        task: what the rope is, but for its material.
        grippers: 1 or 2.
        values: parameters of `RodTwin`.
        dt: of a step [s]; the task's if not given.
        substeps: in a step; of an 80th of a second if not given.
    """
    edge, count = task.length / task.segments, task.segments + 1
    both = grippers == 2
    vertices = 1 + count + both
    driven = (0, 1, vertices - 2, vertices - 1) if both else (0, 1)
    rod = Rod((edge,) * (vertices - 1), driven=driven, radius=task.floor, obstacles=(GROUND,))
    known = {"line_density": task.mass / task.length, "radius": task.floor}
    known["contact_stiffness"] = GRAVITY * task.mass / count / (SINK * task.floor)
    known["stretch_stiffness"] = GRAVITY * task.mass / SAG
    dt = task.dt if dt is None else dt
    twin = RodTwin(rod, dt=dt, substeps=substeps or math.ceil(80 * dt), values=known | values)
    mean = torch.kron(torch.eye(count), torch.full((1, 3), 1 / 3))
    weights, offsets = torch.cat((mean[:1], mean, mean[-1:])), torch.zeros(count + 2, 3)
    offsets[0, 0], offsets[-1, 0] = -edge, edge
    model = Gripped(twin, ((1,), (vertices - 2,))[:grippers], (0, 0, 1, 1)[: len(driven)], speed=task.speed, low=(-math.inf, -math.inf, task.floor))
    weights, offsets = weights[:vertices], offsets[:vertices]
    rest = weights @ task.mesh().nodes.float() + offsets
    edges = torch.arange(1, count)[:, None] + torch.arange(2)
    corners, shares = between(edges, parts=1)
    spans = torch.arange(1, count + 1 - SPAN)[:, None] + torch.tensor([0, SPAN])
    return RopeModel(model, weights, offsets, rest, ((0, 1), (vertices - 2, vertices - 1))[:grippers], spans, SPAN * edge, corners, shares)


def between(edges: Tensor, parts: int = 2) -> tuple[Tensor, Tensor]:
    """Points on the edges (L, 2) of a line, `parts` on each and its last: the ends between which they are (L * parts + 1, 2), and their weights."""
    share = torch.arange(parts) / parts
    corners = torch.cat((edges.repeat_interleave(parts, 0), edges[-1:]))
    weights = torch.cat((torch.stack((1 - share, share), -1).repeat(len(edges), 1), torch.tensor([[0.0, 1.0]])))
    return corners, weights


def explore(task: RopeTask, *, seed: int = 0, seconds: float = 8.0) -> SoftRecording:
    """One motion of the rope, held at one end, as three cameras see it: dragged over the ground in curves, lifted and swung."""
    rng = np.random.default_rng(seed)
    frames = round(seconds / FRAME_TIME)
    time = FRAME_TIME * np.arange(frames)
    lift = np.interp(time / seconds, (0.0, 0.6, 0.75, 1.0), (0.0, 0.0, 0.9, 0.9)) * task.length
    rates, phases = rng.uniform(0.15, 0.35, 2), rng.uniform(0, 2 * math.pi, 2)
    size = 0.25 * task.length * np.minimum(1.0, time / 0.5)
    away = np.stack([size * (np.sin(2 * math.pi * rate * time + phase) - math.sin(phase)) for rate, phase in zip(rates, phases, strict=True)], -1)
    swing = 0.12 * task.length * np.interp(time / seconds, (0.7, 0.78, 1.0), (0.0, 1.0, 1.0)) * np.sin(2 * math.pi * 1.3 * time)
    with replace(task, dt=FRAME_TIME).world("one end") as world:
        nodes = [world.reset()]
        for _ in range(10):
            nodes[0] = world.step(np.zeros((1, 3)))
        places = world.controllers + np.stack((away[:, 0], away[:, 1] + swing, lift), -1)[:, None]
        for velocity in np.diff(places, axis=0) / FRAME_TIME:
            nodes.append(world.step(velocity))
    return observe(
        torch.from_numpy(np.array(nodes)),
        torch.from_numpy(places),
        task.mesh(),
        dt=FRAME_TIME,
        held=task.held("one end"),
        sensing=Sensing(tracks=400, seed=seed),
    )


def section_tracks(seen: SoftRecording) -> Tensor:
    """The middle of each section over the frames (T, V, 3) [m], from tracked points alone: the rigid motion that brings those near it from where they are at
    rest to where they were seen (Kabsch, 1976), each weighted by a normal distribution of `WIDTH` sections. NaN where little was seen."""
    rest = seen.mesh.nodes
    middle, points = sections(rest), seen.material_points(rest)
    spacing = float((middle[1] - middle[0]).norm())
    known = seen.tracks.isfinite().all(-1)
    tracks = torch.where(known.unsqueeze(-1), seen.tracks, 0.0).double()
    lines = []
    for centre in middle:
        weights = known * torch.exp(-0.5 * ((points - centre).norm(dim=-1) / (WIDTH * spacing)).square())
        lines.append(_rigid_place(points - centre, tracks, weights))
    return torch.stack(lines, 1)


def _rigid_place(local: Tensor, tracks: Tensor, weights: Tensor) -> Tensor:
    """Where the origin of points (n, 3) is when they are at (T, n, 3), (T, 3); weights (T, n)."""
    total, weights = weights.sum(1), weights.unsqueeze(-1)
    seen = total > LEAST
    share = weights / total.clamp_min(LEAST)[:, None, None]
    here, there = (share * local).sum(1, keepdim=True), (share * tracks).sum(1, keepdim=True)
    moment = ((tracks - there) * share).mT @ (local - here)
    turn = quaternion_to_matrix(nearest_rotation(torch.where(seen[:, None, None], moment, torch.eye(3, dtype=moment.dtype))))
    return torch.where(seen[:, None], (there - here @ turn.mT).squeeze(1), torch.nan)


def calibrate_rod(task: RopeTask, seen: Sequence[SoftRecording], *, settings: Settings | None = None, progress: bool = False) -> Calibration[RodTwin]:
    """The rod's material from recordings with one end held, as long as each other: bending, drag and friction on the ground.

    One recording of some seconds tells bending from friction badly, for what is dragged has a shape that depends on their ratio: give a few.

    Raises:
        ValueError: without a recording, or if they differ in frames or times.
    """
    if not seen or any(len(each.times) != len(seen[0].times) or not torch.allclose(each.times, seen[0].times) for each in seen):
        raise ValueError("calibrate_rod needs one recording at least, and all of them with the same times.")
    rope = rod_model(task, 1, {}, dt=float(seen[0].times[1] - seen[0].times[0]), substeps=4)
    runs = []
    for each in seen:
        centres = section_tracks(each)
        centres[:, 0] = each.controllers[:, 0]
        runs.append(torch.cat((centres[:, :1] + rope.offsets[:1], centres), 1))
    twin = rope.model.model
    assert isinstance(twin, RodTwin)
    recording = rod_recording(twin, torch.stack(runs).double(), segment=SEGMENT, scale=0.005)
    settings = settings or Settings(evaluations=400, iterations=10, explore=0)
    return calibrate(twin, recording, FITTED, held_out=None, settings=settings, progress=progress)
