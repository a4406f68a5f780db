"""Friction from images alone: a block pushed in PyBullet and seen by two cameras, and a T pushed and rendered by others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.data.push_t_images import PushTImages
from structwm.geometry import Camera
from structwm.physics import (
    Body,
    BoxShape,
    BulletTwin,
    Calibration,
    ConvexShape,
    Geometry,
    ImageMeasurement,
    Joint,
    Material,
    Recording,
    RigidState,
    RigidTwin,
    RigidWorld,
    Settings,
    SphereShape,
    WorldTwin,
    box_inertia,
    calibrate,
    drive,
    surface_splats,
)
from structwm.render import render

HALF = (0.06, 0.04, 0.03)  # of the block [m]
TIP = 0.02  # radius of the pusher [m]
DT = 1 / 24  # of a frame [s]
FRAMES, PUSH = 18, 6  # frames behind the first, and of those the pusher moves in
EVERY = 3  # frames from one image to the next
FRICTIONS = (0.1, 0.2, 0.3, 0.45, 0.6)
WIDTH, HEIGHT = 96, 72


def block_world() -> RigidWorld:
    """A block and a ball that is driven against it."""
    block = Body("block", 0.5, box_inertia(0.5, HALF), (Geometry(BoxShape(HALF), color=(0.8, 0.3, 0.2)),), material=Material(friction=0.3, restitution=0.1))
    tip = Body("pusher", 1.0, 1.0, (Geometry(SphereShape(TIP)),), joint=Joint("driven"))
    return RigidWorld((tip, block), actuators=drive("pusher", 1.0, axes=(0, 1)))


def block_cameras() -> Camera:
    """Two cameras that look down at the table from two sides, batch size (2,)."""
    eyes, target = [(-0.15, -0.55, 0.45), (0.75, -0.35, 0.4)], (0.2, 0.0, 0.02)
    each = [Camera.look_at(eye, target, width=WIDTH, height=HEIGHT) for eye in eyes]
    return Camera(torch.stack([c.intrinsics for c in each]), torch.stack([c.world_from_camera for c in each]), WIDTH, HEIGHT)


def block_pushes(twin: WorldTwin) -> tuple[RigidState, Tensor]:
    """Start states and actions of eight pushes: quick shoves on and off centre, after which the block slides on."""
    offsets = torch.tensor([0.0, 0.012, -0.015, 0.006, -0.008, 0.018, -0.003, 0.01])
    speeds = torch.tensor([0.9, 0.8, 0.75, 0.6, 0.65, 0.7, 0.85, 0.55])
    count = len(offsets)
    start = torch.zeros(count, 7)
    start[:, 3] = 1.0
    block, tip = start.clone(), start.clone()
    block[:, 2] = HALF[2]
    tip[:, 0], tip[:, 1], tip[:, 2] = -HALF[0] - TIP - 0.01, offsets, HALF[2]
    actions = torch.zeros(count, FRAMES, 2)
    actions[:, :PUSH, 0] = speeds[:, None]
    actions[:, PUSH, 0] = -0.5  # out of the way
    return twin.state({"block": block, "pusher": tip}), actions


@dataclass(frozen=True)
class BlockImages:
    """What the cameras saw of pushes in PyBullet."""

    recording: Recording[RigidState]
    friction: float
    poses: Tensor  # (N, H+1, 7) of the block, for scoring only


def film_block(friction: float, *, substeps: int = 40) -> BlockImages:
    """Push the block in PyBullet at a friction, and render what the cameras see: masks, and nothing else."""
    world = block_world()
    looks = {"block": surface_splats(world.body("block").geometries, spacing=0.006)}
    judge = BulletTwin(world, dt=DT, substeps=substeps, values={"block.friction": friction}, appearance=looks)
    state, actions = block_pushes(judge)
    trajectory = judge.rollout(state, actions)
    splats = judge.scene.splats(trajectory.states).float().reshape(-1)
    camera = block_cameras()
    masks = render(splats, camera[None]).alpha.unflatten(0, tuple(trajectory.states.batch_size))
    seen = (masks > 0.5).float()
    seen[:, torch.arange(FRAMES + 1) % EVERY != 0] = math.nan
    recording: Recording[RigidState] = Recording(state, actions, measurements=(ImageMeasurement(seen, camera),))
    return BlockImages(recording, friction, judge.scene.poses(trajectory.states)[..., 1, :])


def friction_from_images(images: BlockImages, *, settings: Settings = Settings(evaluations=60, iterations=8)) -> Calibration[RigidTwin]:
    """The block's friction and restitution from masks, with intervals; no pose is used."""
    world = block_world()
    looks = {"block": surface_splats(world.body("block").geometries, spacing=0.006)}
    twin = RigidTwin(world, dt=DT, substeps=60, appearance=looks)
    return calibrate(twin, images.recording, ["block.friction", "block.restitution"], held_out=None, settings=settings, progress=False)


def push_t_world(images: PushTImages, radius: float = 0.018) -> RigidWorld:
    """The T of the set and a ball for its pusher, whose shape the set does not state."""
    hulls = tuple(Geometry(ConvexShape(piece.vertices.double().numpy()), color=(0.8, 0.1, 0.1)) for piece in images.pieces)
    mass = float(images.mass)
    bar, stem = box_inertia(mass / 2, (0.05, 0.02, 0.025)), box_inertia(mass / 2, (0.02, 0.05, 0.025))
    inertia = tuple(a + b + mass / 2 * 2 * 0.035**2 / 2 * (axis != 1) for axis, (a, b) in enumerate(zip(bar, stem, strict=True)))
    block = Body("block", mass, inertia, hulls, material=Material(friction=0.1, restitution=0.1))
    tip = Body("pusher", 1.0, 1.0, (Geometry(SphereShape(radius)),), joint=Joint("driven"))
    return RigidWorld((tip, block), actuators=drive("pusher", 5.0, axes=(0, 1)))


@dataclass(frozen=True)
class PushTFit:
    """What came of fitting to the first images of the T."""

    calibration: Calibration[RigidTwin]
    errors: Tensor  # (held-out frames, 2): position in the plane [m], rotation [rad]
    still: Tensor  # the same for the pose of the last fitted frame, held still


def fit_push_t(images: PushTImages, *, fitted: int = 12, settings: Settings = Settings(evaluations=120, iterations=10)) -> PushTFit:
    """Friction, the pusher's size and how springy it is, from the first `fitted` masks; then predict the rest of the run from its start."""
    world = push_t_world(images)
    looks = {"block": surface_splats(world.body("block").geometries, spacing=0.004)}
    twin = RigidTwin(world, dt=float(images.times[1] - images.times[0]), substeps=80, appearance=looks)
    count = len(images.times)
    pusher = images.pusher_positions.float()
    tips = torch.zeros(1, 7)
    tips[0, :2], tips[0, 2], tips[0, 3] = pusher[0, :2], images.poses[0, 2].float(), 1.0
    state = twin.state({"block": images.poses[:1].float(), "pusher": tips})
    velocity = (pusher[1:, :2] - pusher[:-1, :2]) / float(images.times[1] - images.times[0])
    actions = velocity[None].clamp(-5.0, 5.0)
    masks = images.masks.float()
    seen = torch.full((1, count, 1, *masks.shape[1:]), math.nan)
    seen[0, : fitted + 1, 0] = masks[: fitted + 1]
    measurement = ImageMeasurement(seen, images.camera[:1], tile=4)
    recording: Recording[RigidState] = Recording(state, actions, measurements=(measurement,))
    names = ["block.friction", "pusher.size", "block.restitution"]
    calibration = calibrate(twin, recording, names, held_out=None, settings=settings, progress=False)
    with torch.no_grad():
        trajectory = calibration.twin.rollout(state, actions)
        poses = twin.scene.poses(trajectory.states)[0, :, 1].double()
    truth = images.poses.double()
    held = slice(fitted + 1, None)
    return PushTFit(calibration, _planar(poses[held], truth[held]), _planar(truth[fitted].expand_as(truth[held]), truth[held]))


def _planar(a: Tensor, b: Tensor) -> Tensor:
    """Position error in the plane [m] and rotation error [rad], (n, 2)."""
    from structwm.geometry import quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector

    turn = quaternion_to_rotation_vector(quaternion_multiply(a[:, 3:], quaternion_conjugate(b[:, 3:]))).norm(dim=-1)
    return torch.stack(((a[:, :2] - b[:, :2]).norm(dim=-1), turn), -1)
