"""Splats of tables from RGB-D as few tokens, and their dynamics: how well scenes are drawn again, and what they look like ten steps ahead.

Pushes of two boxes in PyBullet, seen by three depth cameras; the table and the pusher, whose place the robot knows, are cut out of the clouds. Both networks
train on one core. Images are those of the observed splats through the same cameras.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, settings_hash
from structwm.geometry.camera import Camera
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.splat_motion import place_splats
from structwm.perception import farthest_points, psnr, rgbd_cloud, select_points, thin_by_voxels
from structwm.render import render, splats_from_points, stack_scenes
from structwm.splats import SplatEncoder, SplatLatentDynamics, SplatLatentLoss, SplatReconstructionLoss, fit_splat_encoder, follow_splats, latent_windows
from structwm.state import Splats
from structwm.training import Curriculum, FitSettings, fit, load_model, model_facts, save_model
from structwm.training.open_loop import clustered_standard_error
from structwm.worlds import make_tabletop
from structwm.worlds.tabletop_policy import push_policy
from structwm.worlds.tabletop_recording import sample_config
from structwm.worlds.tabletop_views import place_pusher, pusher_points

KEPT = Path(__file__).parent / "artefacts" / "splat_latent"
BACKGROUND = (0.86, 0.85, 0.80)  # of images: the table's colour
FLOOR, VOXEL, SPLATS, MARGIN = 0.004, 0.005, 600, 0.003  # [m] above the table; of thinning; at most in a frame; around the pusher [m]
AHEAD, MOVED = 10, 0.01  # steps; a window counts in which a box moves by more [m]
TURNS = 3  # ways in which each training run is turned about the vertical


@dataclass(frozen=True)
class Plan:
    """What is recorded and how long is trained."""

    train: int = 64  # episodes
    held_out: int = 8  # that decide when training stops
    test: int = 16
    steps: int = 32  # of an episode
    encoder_steps: int = 1200
    dynamics_steps: int = 1200
    robot: int = 16  # points of the pusher


PLAN = Plan()
ENCODER: dict[str, Any] = {"tokens": 24, "size": 16, "splats": 24, "width": 64, "layers": 2}
DYNAMICS: dict[str, Any] = {"width": 64, "layers": 3, "robot_points": PLAN.robot, "dt": 0.1}
CONFIG = settings_hash(asdict(PLAN), ENCODER, DYNAMICS, FLOOR, VOXEL, SPLATS, MARGIN, TURNS)


@dataclass(frozen=True)
class Recorded:
    """Runs of T instants."""

    splats: Splats  # (R, T)
    robot: Tensor  # (R, T, M, 3) [m]
    boxes: Tensor  # (R, T, 2, 3) true places of the boxes, to choose windows by [m]
    cameras: Camera  # (3,)


def seen_splats(observed: dict[str, Any], cameras: Camera, size: float, radius: float) -> Splats:
    """What three depth cameras show above the table, without the pusher."""
    box = torch.tensor([[-size, -size, FLOOR], [size, size, 0.3]])
    cloud = rgbd_cloud(torch.from_numpy(observed["depth"]), cameras, images=torch.from_numpy(observed["rgb"]).float() / 255, box=box)
    away = (cloud.positions[:, :2] - torch.from_numpy(observed["pusher"][:2]).to(cloud.positions)).norm(dim=-1)
    cloud = thin_by_voxels(select_points(cloud, away > radius + MARGIN), VOXEL)
    if len(cloud.positions) > SPLATS:
        cloud = select_points(cloud, farthest_points(cloud.positions, SPLATS))
    return splats_from_points(cloud.positions, cloud.colors)


def recorded(episodes: int, seed: int, steps: int = PLAN.steps) -> Recorded:
    """Pushes of two boxes, the same for the same seed."""
    scenes, robot, boxes = [], [], []
    cameras: Camera | None = None
    for index in range(episodes):
        rng = np.random.default_rng((seed, index))
        config = sample_config(rng, (2, 2), "boxes", "cylinder")
        policy, tool = push_policy(rng), pusher_points(config, PLAN.robot)
        world = make_tabletop("bullet", config=config, images=True)
        try:
            observed, _ = world.reset(seed=int(rng.integers(2**31)))
            for step in range(steps + 1):
                scenes.append(seen_splats(observed, world.cameras, config.workspace, config.pusher_reach))
                robot.append(torch.from_numpy(place_pusher(tool, observed["pusher"])).float())
                poses = world.truth().poses
                boxes.append(torch.from_numpy(poses[:, :3]).float())
                if step < steps:
                    observed = world.step(policy.act(config, poses, observed["pusher"]))[0]
            cameras = world.cameras
        finally:
            world.close()
    assert cameras is not None
    shape = (episodes, steps + 1)
    return Recorded(stack_scenes(scenes).reshape(*shape), torch.stack(robot).unflatten(0, shape), torch.stack(boxes).unflatten(0, shape), cameras)


def turned(runs: Recorded, seed: int) -> tuple[Splats, Tensor]:
    """Splats and robot of each run turned about the vertical through the table's middle by an angle of its own."""
    count, instants = runs.splats.batch_size
    angle = 2 * np.pi * torch.rand(count, generator=torch.Generator().manual_seed(seed))
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.stack((0 * angle, 0 * angle, angle), -1)))
    return place_splats(runs.splats, turn[:, None].expand(-1, instants, 3, 3), torch.zeros(3)), runs.robot @ turn.mT.unsqueeze(1)


def trained(console: Console) -> SplatLatentDynamics:
    """Encoder and dynamics, from recording to the end; kept beside their settings."""
    begin = time.process_time()
    runs, judged = recorded(PLAN.train, 1), recorded(PLAN.held_out, 2)
    after_recording = time.process_time()
    torch.manual_seed(0)
    encoder = SplatEncoder(**ENCODER)
    scenes = cast(Splats, runs.splats.reshape(-1))
    settings = FitSettings(steps=PLAN.encoder_steps, batch=8, learning_rate=2e-3)
    fit_splat_encoder(encoder, scenes, runs.cameras, background=BACKGROUND, loss=SplatReconstructionLoss(), settings=settings, progress=False)
    after_encoder = time.process_time()
    model = SplatLatentDynamics(encoder, **DYNAMICS)
    parts: list[Any] = [follow_splats(model, *(turned(runs, seed) if seed else (runs.splats, runs.robot))) for seed in range(TURNS + 1)]
    windows = latent_windows(cast(Any, torch.cat(parts)), AHEAD, stride=2)
    held_out = latent_windows(follow_splats(model, judged.splats, judged.robot), AHEAD, stride=3)
    model.fit_scales(windows)
    curriculum = Curriculum(first=2, reach=0.7)
    settings = FitSettings(steps=PLAN.dynamics_steps, batch=16, learning_rate=2e-3, curriculum=curriculum, evaluate_every=PLAN.dynamics_steps // 6)
    fit(model, windows, held_out=held_out, loss=SplatLatentLoss(noise=5e-4), settings=settings, progress=False)
    end = time.process_time()
    spent = {"recording": after_recording - begin, "encoder": after_encoder - after_recording, "dynamics": end - after_encoder}
    console.print(f"{KEPT.name}: one core, " + ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in spent.items()))
    save_model(model.half(), KEPT, facts={"config": CONFIG, "seconds": end - begin})  # half as large a file; what is judged is what is kept
    return kept()


def kept() -> SplatLatentDynamics:
    """The model that was kept, in single precision."""
    model: SplatLatentDynamics = load_model(KEPT).float()
    return model


def drawn(splats: Splats, cameras: Camera) -> Tensor:
    """Images (S, V, height, width, 3) of scenes (S,)."""
    views = Camera(cameras.intrinsics, cameras.world_from_camera.expand(len(splats), -1, -1, -1), cameras.width, cameras.height)
    return render(splats, views, background=BACKGROUND, check=False).image


def compared(splats: Splats, seen: Splats, cameras: Camera) -> Tensor:
    """PSNR (S,) of one set of scenes as images of another, pixels of all views together [dB]."""
    found: list[Tensor] = []
    for first in range(0, len(seen), 16):
        pair = [drawn(scenes[first : first + 16], cameras).flatten(1, 2) for scenes in (splats, seen)]
        found.append(psnr(*pair))
    return torch.cat(found)


@torch.no_grad()
def measured(model: SplatLatentDynamics, runs: Recorded, console: Console) -> dict[str, Any]:
    """Claims on held-out runs."""
    states = follow_splats(model, runs.splats, runs.robot)
    count, instants = states.batch_size
    every: Any = (slice(None), slice(0, None, 4))
    fresh = model.encoder.encode(cast(Splats, runs.splats[every].reshape(-1)))
    observed = cast(Splats, runs.splats[every].reshape(-1))
    again = compared(model.encoder.decode(fresh), observed, runs.cameras)
    plain = torch.zeros_like(observed.opacities, dtype=torch.bool)
    empty = compared(observed.replace(mask=plain), observed, runs.cameras)
    starts = torch.arange(0, instants - AHEAD, 3)
    rows, first = torch.arange(count).repeat_interleave(len(starts)), starts.repeat(count)
    moved = (runs.boxes[rows, first + AHEAD] - runs.boxes[rows, first]).norm(dim=-1).amax(-1) > MOVED
    rows, first = rows[moved], first[moved]
    actions = torch.stack([runs.robot[row, at : at + AHEAD + 1].diff(dim=0).flatten(1) for row, at in zip(rows.tolist(), first.tolist(), strict=True)])
    future = cast(Splats, runs.splats[rows, first + AHEAD])
    final = cast(Any, model.rollout(cast(Any, states[rows, first]), actions).final().states[:, 0])
    ahead = compared(model.scene.splats(final), future, runs.cameras)
    still = compared(cast(Splats, runs.splats[rows, first]), future, runs.cameras)
    coded = compared(model.scene.splats(cast(Any, states[rows, first])), future, runs.cameras)
    known = compared(model.scene.splats(cast(Any, states[rows, first + AHEAD])), future, runs.cameras)
    table = Table("images of held-out tables", "PSNR, dB", "of", title=f"{model.encoder.tokens} tokens of {model.encoder.size} numbers and a place")
    for title, values in (
        ("decoded from tokens", again),
        ("nothing but the table", empty),
        (f"predicted {AHEAD} steps ahead", ahead),
        ("persistence, observed splats", still),
        ("persistence, decoded splats", coded),
        ("decoded tokens of that instant", known),
    ):
        table.add_row(title, f"{float(values.mean()):.2f}", str(len(values)))
    console.print(table)
    apart = (final.centres - states[rows, first + AHEAD].centres).norm(dim=-1)
    went = (states[rows, first].centres - states[rows, first + AHEAD].centres).norm(dim=-1)
    both = states[rows, first].present & states[rows, first + AHEAD].present
    console.print(f"places of tokens: {1e3 * float(apart[both].mean()):.1f} mm off, {1e3 * float(went[both].mean()):.1f} mm of holding still")
    frames = torch.arange(count).repeat_interleave(len(again) // count)
    return {"splat_latent_psnr": by_run(again, frames), "splat_latent_gain_10": by_run(ahead - still, rows)}


def by_run(values: Tensor, runs: Tensor) -> dict[str, Any]:
    """The mean of values (W,) from runs (W,), its interval as of runs that are independent; what is of one run is not."""
    mean, reach = float(values.mean()), 1.645 * clustered_standard_error(values.double().numpy(), runs.numpy())
    return claim(mean, n=len(runs.unique()), low=mean - reach, high=mean + reach)


def latent_splat_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Claims of the model that is trained, or in a quick run of the one that is kept.

    `splat_latent_psnr` [dB] of held-out frames drawn from their tokens. `splat_latent_gain_10` [dB] of predictions ten steps ahead over persistence, that is
    over the observed splats held still, in windows in which a box moves by more than a centimetre.
    """
    if quick and not KEPT.with_suffix(".safetensors").is_file():
        return {name: claim(None, why="no model is kept; run without --quick, which trains one") for name in ("splat_latent_psnr", "splat_latent_gain_10")}
    if quick and model_facts(KEPT)["config"] != CONFIG:
        raise SystemExit("benchmarks/artefacts/splat_latent was trained with other settings; run without --quick to train it again.")
    model = kept() if quick else trained(console)
    return measured(model, recorded(4 if quick else PLAN.test, 3), console)
