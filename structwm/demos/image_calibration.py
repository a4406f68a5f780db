"""Friction from images alone: of a block pushed in PyBullet and seen by two cameras, and of a T pushed and rendered by others.

What pushes a body is often not known well enough to predict the push: its shape, and how contacts give. So a run is cut where the pusher lets go. Its masks say
where the body was on each image and how fast it went at the cut, and the twin explains how it slid on from there. Start poses and velocities are fitted along.

Slides that end within two or three images are short of data: at 24 images a second, frictions above 0.6 come out 8 to 13 % low, beyond their intervals
(`benchmarks.twin_images`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.data.push_t_images import PushTImages
from structwm.geometry import Camera, quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector
from structwm.physics import (
    Body,
    BoxShape,
    BulletTwin,
    Calibration,
    ConvexShape,
    Geometry,
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

from .mask_tracking import planar, track_on_plane

HALF = (0.06, 0.04, 0.03)  # of the block [m]
TIP = 0.02  # radius of the pusher [m]
DT = 1 / 24  # of a frame [s]
FRAMES, PUSH = 18, 6  # frames behind the first, and of those the pusher moves in
FRICTIONS = (0.1, 0.2, 0.3, 0.45, 0.6)
WIDTH, HEIGHT = 96, 72
PARAMETERS = ("block.friction", "block.inertia")  # where under a body its weight rests is not seen, so how hard it is to turn is fitted along
SCALE = {"x": 1e-3, "y": 1e-3, "qz": 5e-3}  # of what is read off masks, where the noise estimate starts [m]; z of the quaternion: half the turn, about
SPREAD = {"x": 1e-3, "y": 1e-3, "rz": 0.01, "vx": 0.3, "vy": 0.3, "wz": 3.0}  # how far off a start may be that is read off masks [m, rad, s]
REPEATED = 0.02  # of a pixel; a body that has moved less since the last image is at rest
SETTINGS = Settings(evaluations=0, iterations=30, block=1)  # errors of masks hang together in space, not in time


def block_world(half: tuple[float, float, float] = HALF, *, pusher: bool = True) -> RigidWorld:
    """A block, and a ball that is driven against it."""
    block = Body("block", 0.5, box_inertia(0.5, half), (Geometry(BoxShape(half), color=(0.8, 0.3, 0.2)),), material=Material(friction=0.3, restitution=0.1))
    tip = Body("pusher", 1.0, 1.0, (Geometry(SphereShape(TIP)),), joint=Joint("driven"))
    return RigidWorld((tip, block), actuators=drive("pusher", 1.0, axes=(0, 1))) if pusher else RigidWorld((block,))


def block_cameras() -> Camera:
    """Two cameras that look down at the table from two sides, batch size (2,)."""
    eyes, target = [(-0.15, -0.55, 0.45), (0.75, -0.35, 0.4)], (0.2, 0.0, 0.02)
    each = [Camera.look_at(eye, target, width=WIDTH, height=HEIGHT) for eye in eyes]
    return Camera(torch.stack([c.intrinsics for c in each]), torch.stack([c.world_from_camera for c in each]), WIDTH, HEIGHT)


def block_pushes(twin: WorldTwin, half: tuple[float, float, float] = HALF, *, seed: int | None = None) -> tuple[RigidState, Tensor]:
    """Start states and actions of eight pushes: quick shoves on and off centre, after which the block slides on; with a seed, others."""
    offsets = torch.tensor([0.0, 0.012, -0.015, 0.006, -0.008, 0.018, -0.003, 0.01])
    speeds = torch.tensor([0.9, 0.8, 0.75, 0.6, 0.65, 0.7, 0.85, 0.55])
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        offsets, speeds = (low + (high - low) * torch.rand(8, generator=generator) for low, high in ((-0.018, 0.018), (0.5, 0.9)))
    count = len(offsets)
    start = torch.zeros(count, 7)
    start[:, 3] = 1.0
    block, tip = start.clone(), start.clone()
    block[:, 2] = half[2]
    tip[:, 0], tip[:, 1], tip[:, 2] = -half[0] - TIP - 0.01, offsets, half[2]
    actions = torch.zeros(count, FRAMES, 2)
    actions[:, :PUSH, 0] = speeds[:, None]
    actions[:, PUSH, 0] = -0.5  # out of the way
    return twin.state({"block": block, "pusher": tip}), actions


def pixel(camera: Camera, place: Tensor) -> float:
    """How large a pixel is at a place (3,), of the camera that sees it finest [m]: splats so wide end where their body does, to half a millimetre."""
    focal = camera.intrinsics[:, (0, 1), (0, 1)].mean(-1)
    return float(((camera.positions - place.to(camera.positions)).norm(dim=-1) / focal).min())


@dataclass(frozen=True)
class BlockImages:
    """What the cameras saw of pushes in PyBullet."""

    masks: Tensor  # (N, H+1, V, h, w), 0 or 1
    camera: Camera  # batch size (V,)
    half: tuple[float, float, float]  # of the block [m]
    start: Tensor  # (N, 7) where the block stood
    friction: float  # for scoring only, as what follows
    poses: Tensor  # (N, H+1, 7)


def film_block(friction: float, *, half: tuple[float, float, float] = HALF, seed: int | None = None, substeps: int = 40) -> BlockImages:
    """Push a block in PyBullet at a friction, and render what the cameras see: masks, and nothing else.

    Raises:
        ValueError: if the friction is not above 0.
    """
    if not 0 < friction < math.inf:
        raise ValueError(f"film_block needs a friction above 0, got {friction}.")
    world, camera = block_world(half), block_cameras()
    looks = {"block": surface_splats(world.body("block").geometries, spacing=pixel(camera, torch.zeros(3)))}
    judge = BulletTwin(world, dt=DT, substeps=substeps, values={"block.friction": friction}, appearance=looks)
    state, actions = block_pushes(judge, half, seed=seed)
    trajectory = judge.rollout(state, actions)
    splats = judge.scene.splats(trajectory.states).float().reshape(-1)
    masks = render(splats, camera[None], antialiased=True).alpha.unflatten(0, tuple(trajectory.states.batch_size))
    poses = judge.scene.poses(trajectory.states)[..., 1, :]
    return BlockImages((masks > 0.5).float(), camera, half, poses[:, 0].float(), friction, poses)


@dataclass(frozen=True)
class Slide:
    """Runs of a body from where it was let go: what its masks say, and the twin that explains them."""

    twin: RigidTwin
    recording: Recording[RigidState]
    tracked: Tensor  # (N, T, 7) where the masks show the body, from the first image on
    begin: int  # the image a run is cut at


def sliding(
    world: RigidWorld,
    masks: Tensor,
    camera: Camera,
    start: Tensor,
    *,
    begin: int | None = None,
    horizon: int = 0,
    dt: float = DT,
    tracked: Tensor | None = None,
) -> Slide:
    """Cut runs where the pusher lets go.

    Args:
        world: of one free body on a plane, without its pusher.
        masks: (N, T, V, h, w), NaN where there is no image.
        camera: batch size (V,).
        start: (N, 7) about where the body is on the first image.
        begin: the image they are cut at; by default the first by which all bodies have been fastest.
        horizon: steps behind the cut that are rolled out; at least to the last image.
        dt: time from one image to the next [s].
        tracked: (N, T, 7) poses, if known otherwise than from the masks.

    Raises:
        ValueError: if the world has several bodies, or fewer than two images are left behind the cut.
    """
    if len(world.bodies) != 1:
        raise ValueError(f"sliding needs a world of one body, got {', '.join(body.name for body in world.bodies)}.")
    (body,) = world.bodies
    size = pixel(camera, start[0, :3])
    look = surface_splats(body.geometries, spacing=size)
    if tracked is None:
        tracked = track_on_plane(look, masks, camera, start)
    path = planar(tracked)
    if begin is None:
        begin = 1 + int((path[:, 1:, :2] - path[:, :-1, :2]).norm(dim=-1).nan_to_num(0.0).argmax(1).max())
    left = tracked.shape[1] - 1 - begin
    if begin < 0 or left < 2:
        raise ValueError(f"sliding needs two images or more after the pusher let go; it did at image {begin} of {tracked.shape[1]}.")
    horizon = max(horizon, left)
    twin = RigidTwin(world, dt=dt, substeps=60, appearance={body.name: look})
    rate = (path[:, begin + 1] - path[:, begin]) / dt
    twist = torch.zeros(len(tracked), 6, dtype=torch.float64)
    twist[:, :2], twist[:, 5] = rate[:, :2], rate[:, 2]
    state = twin.state({body.name: tracked[:, begin].float()}, {body.name: twist.float()})
    again = torch.zeros(tracked.shape[:2], dtype=torch.bool)  # images of a body at rest have all the same error, and so say no more than the first of them
    again[:, 1:] = (path[:, 1:, :2] - path[:, :-1, :2]).norm(dim=-1) < REPEATED * size
    observed = {name: torch.full((len(tracked), horizon + 1), math.nan, dtype=torch.float64) for name in SCALE}
    for name, column in (("x", 0), ("y", 1), ("qz", 6)):
        observed[name][:, : left + 1] = torch.where(again[:, begin:], math.nan, tracked[:, begin:, column])
    spread = {f"{body.name}.{name}": value for name, value in SPREAD.items()}
    recording: Recording[RigidState] = Recording(state, torch.zeros(len(tracked), horizon, 0), observed, SCALE, start_spread=spread)
    return Slide(twin, recording, tracked, begin)


def friction_from_images(images: BlockImages, *, settings: Settings = SETTINGS) -> Calibration[RigidTwin]:
    """The block's friction from masks, with its interval; neither a pose nor what the pusher did is used, but for when it let go."""
    slide = sliding(block_world(images.half, pusher=False), images.masks, images.camera, images.start, begin=PUSH)
    return calibrate(slide.twin, slide.recording, PARAMETERS, held_out=None, settings=settings, progress=False)


def push_t_world(images: PushTImages) -> RigidWorld:
    """The T of the set on a plane."""
    hulls = tuple(Geometry(ConvexShape(piece.vertices.double().numpy()), color=(0.8, 0.1, 0.1)) for piece in images.pieces)
    mass = float(images.mass)
    bar, stem = box_inertia(mass / 2, (0.05, 0.02, 0.025)), box_inertia(mass / 2, (0.02, 0.05, 0.025))
    inertia = tuple(a + b + mass * 0.035**2 * (axis != 1) for axis, (a, b) in enumerate(zip(bar, stem, strict=True)))
    return RigidWorld((Body("block", mass, inertia, hulls, material=Material(friction=0.1, restitution=0.1)),))


@dataclass(frozen=True)
class PushTFit:
    """What came of fitting to the first images of the T."""

    calibration: Calibration[RigidTwin]
    slide: Slide
    poses: Tensor  # (n - begin, 7) of the T as predicted from the cut on
    errors: Tensor  # (images behind the fitted, 2): position in the plane [m], rotation [rad]
    still: Tensor  # the same for the pose of the last fitted image, held still


def fit_push_t(images: PushTImages, *, fitted: int = 12, given: Tensor | None = None, settings: Settings = SETTINGS) -> PushTFit:
    """Friction of the T, and how hard it is to turn, from the masks of the first `fitted` images; then predict the rest of the run.

    Args:
        images: of one run.
        fitted: how many of its images are looked at.
        given: (fitted, 7) poses to fit to instead of the masks: what perfect eyes could give.
        settings: of the calibration.

    Raises:
        ValueError: if there are no images left to predict, or the T is not let go three images before the last that is fitted.
    """
    count = len(images.times)
    if not 3 < fitted < count:
        raise ValueError(f"fit_push_t needs 4 to {count - 1} images to fit, got {fitted}.")
    world, camera, start, dt = push_t_world(images), images.camera[:1], images.poses[:1], float(images.times[1] - images.times[0])
    masks = images.masks[None, :fitted, None]
    slide = sliding(world, masks, camera, start, dt=dt, tracked=None if given is None else given[None])
    slide = sliding(world, masks, camera, start, begin=slide.begin, horizon=count - 1 - slide.begin, dt=dt, tracked=slide.tracked)
    calibration = calibrate(slide.twin, slide.recording, PARAMETERS, held_out=None, settings=settings, progress=False)
    poses, truth = predicted(calibration, slide.recording)[0, :, 0], images.poses[fitted:]
    return PushTFit(
        calibration, slide, poses, planar_error(poses[fitted - slide.begin :], truth), planar_error(images.poses[fitted - 1].expand_as(truth), truth)
    )


def overlay(seen: Tensor, drawn: Tensor) -> Tensor:
    """Pictures (*B, h, w, 3) of what was seen and what is predicted: grey where masks agree, red where only the seen one is, blue where only the predicted."""
    return 1 - torch.stack((0.55 * drawn, 0.55 * torch.maximum(seen, drawn), 0.55 * seen), -1).clamp(0, 1)


def drawn_masks(twin: RigidTwin, poses: Tensor, camera: Camera) -> Tensor:
    """Masks (*B, V, h, w) of a twin's one body at poses (*B, 7), seen by cameras (V,)."""
    splats = twin.scene.splats(twin.state(poses.float())).float()
    return render(splats.reshape(-1), camera[None], antialiased=True).alpha.unflatten(0, poses.shape[:-1])


def predicted(calibration: Calibration[RigidTwin], recording: Recording[RigidState]) -> Tensor:
    """Poses (N, H+1, K, 7) of the calibrated twin from the fitted starts."""
    twin, state = calibration.twin, recording.state
    if calibration.start is not None:
        moves = {name: calibration.start[:, k].float() * spread for k, (name, spread) in enumerate(recording.start_spread.items())}
        state = twin.displaced(state, moves)
    with torch.no_grad():
        return twin.scene.poses(twin.rollout(state, recording.actions).states).double()


def planar_error(a: Tensor, b: Tensor) -> Tensor:
    """Position error in the plane [m] and rotation error [rad], (n, 2), of poses (n, 7)."""
    turn = quaternion_to_rotation_vector(quaternion_multiply(a[:, 3:], quaternion_conjugate(b[:, 3:]))).norm(dim=-1)
    return torch.stack(((a[:, :2] - b[:, :2]).norm(dim=-1), turn), -1)
