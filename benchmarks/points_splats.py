"""Pictures of the future: splats from one RGB-D frame of pushed boxes, driven by the learned model, beside what the cameras see two seconds later.

Splats come from the first frame of four cameras, objects from what hangs together there and has one colour. The learned model rolls 20 steps out under the
pusher's recorded motion, and the splats are drawn into these cameras and into four others. PSNR is over a mask: the union of the pixels that show objects in
the true picture at step 20 and in the prediction, dilated by `MARGIN` pixels; for the picture that is kept, of step 20 and of the start. Objects are coloured,
all else is grey, so that the judge tells an object's pixel by its colour.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from benchmarks.points_tabletop import CONTEXT, KEPT, POINTS, TOOL
from structwm.geometry import Camera, knn, quaternion_to_matrix
from structwm.interfaces import Observation
from structwm.perception import psnr
from structwm.points import PointCloud
from structwm.splats import STATIC, SplatDynamics, SplatScene, TableScene, render_states, table_scene
from structwm.training import load_model
from structwm.worlds import make_tabletop, table_observation, table_tracker
from structwm.worlds.tabletop_config import Array, TabletopConfig
from structwm.worlds.tabletop_policy import push_policy
from structwm.worlds.tabletop_recording import sample_config
from structwm.worlds.tabletop_views import place_pusher, pusher_points

EPISODES = (4, 24)  # quick and full
SEED = 21  # none of training
STEPS, EPISODE = 20, 60  # control periods that are predicted; of an episode
MOVED, REST = 0.02, 0.0005  # by how much an object must be pushed; by how little all may have moved in two steps before [m]
VIEWS = 4  # cameras that splats come from, and as many between them
PIXELS = {"width": 240, "height": 180, "antialias": 3}
BLUR = 0.1  # of what is drawn [px^2]
MARGIN, COLOURED = 3, 0.1  # [px]; least difference of the channels of an object's pixel
GOAL, GAIN = 25.0, 3.0  # [dB]


@dataclass(frozen=True)
class Push:
    """A window of an episode in which something is pushed, and what is seen at its ends."""

    config: TabletopConfig
    cameras: Camera  # (2 VIEWS,)
    frames: tuple[dict[str, Any], dict[str, Any]]  # observations at its start and end
    pusher: Array  # (STEPS + 1, 3) [m]
    poses: tuple[Array, Array]  # (K, 7) at its start and end, for the judge [m, wxyz]


def draw_push(seed: int) -> Push:
    """An episode of pushes as in the recordings, at rest at first; the same for the same seed."""
    for attempt in range(100):
        rng = np.random.default_rng((SEED, seed, attempt))
        config = sample_config(rng, None, "boxes", "cylinder", cameras=2 * VIEWS, **PIXELS)
        policy, start = push_policy(rng), int(rng.integers(2**31))
        world = make_tabletop("bullet", config=config)
        try:
            observed, _ = world.reset(seed=start)
            poses, pusher, actions = [world.truth().poses], [observed["pusher"]], []
            for _ in range(EPISODE):
                actions.append(policy.act(config, poses[-1], pusher[-1]))
                observed, _, ended, _, _ = world.step(actions[-1])
                if ended:
                    break
                poses.append(world.truth().poses)
                pusher.append(observed["pusher"])
            places = np.array(poses)[..., :3]
            windows = [first for first in range(2, len(poses) - STEPS) if _pushes(places, first)]
            if windows:
                first = int(rng.choice(windows))
                frames = _photographs(world, start, actions, (first, first + STEPS))
                return Push(config, world.cameras, frames, np.array(pusher[first : first + STEPS + 1]), (poses[first], poses[first + STEPS]))
        finally:
            world.close()
    raise RuntimeError(f"No push of seed {seed} moved an object by {MOVED} m.")


def _pushes(places: Array, first: int) -> bool:
    """Whether all objects rest at an instant, and one is pushed in the window that begins there; of places (T, K, 3)."""
    before, now, after = (places[first + step] for step in (-2, 0, STEPS))
    return bool(np.linalg.norm(now - before, axis=-1).max() < REST and np.linalg.norm(after - now, axis=-1).max() > MOVED)


def _photographs(world: Any, seed: int, actions: list[Array], instants: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The episode again, with pictures at two instants."""
    world.reset(seed=seed)
    found = []
    for step, action in enumerate(actions[: instants[1]], 1):
        world.images = step in instants
        observed = world.step(action)[0]
        if world.images:
            found.append(observed)
    world.images = False
    return found[0], found[1]


def first_frame(push: Push) -> Observation:
    """What the cameras that splats come from saw at the start."""
    whole = seen_by(push, 0)
    names = sorted(whole.depth)[::2]

    def some(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[name] for name in names}

    return Observation(
        whole.time,
        images=some(whole.images),
        depth=some(whole.depth),
        intrinsics=some(whole.intrinsics),
        world_from_camera=some(whole.world_from_camera),
        proprioception=whole.proprioception,
    )


def seen_by(push: Push, which: int) -> Observation:
    """All that the cameras saw at the start (0) or the end (1)."""
    return table_observation(SimpleNamespace(cameras=push.cameras), push.frames[which])  # type: ignore[arg-type]


def pictures(push: Push, which: int) -> Tensor:
    """(2 VIEWS, height, width, 3) in [0, 1]."""
    return torch.from_numpy(push.frames[which]["rgb"]).float() / 255


def driven_scene(push: Push, model: Any) -> tuple[SplatDynamics, TableScene]:
    """Splats of the first frame, driven by the model from the state that the tracker makes of it."""
    frame = first_frame(push)
    whole = torch.from_numpy(place_pusher(pusher_points(push.config, 1200), push.pusher[0])).float()
    scene = table_scene(frame, whole, blur=BLUR)
    eyes = table_tracker(push.config, points=POINTS, robot_points=TOOL, context=CONTEXT)
    state: PointCloud = eyes.state(eyes.start(frame))[0]
    return SplatDynamics(model, scene.splats, state, object_ids=same_numbers(scene, state)), scene


def same_numbers(scene: TableScene, state: PointCloud) -> Tensor:
    """Ids of splats by the objects of the state, by which nodes most of an object's splats are near."""
    ids = scene.object_ids.clone()
    for number in range(int(ids.max()) + 1):
        own = scene.object_ids == number
        near = knn(scene.splats.means[own].contiguous(), state.positions.contiguous(), 1)
        ids[own] = state.object_ids[near.indices[:, 0].long()].mode().values if float(near.distances.median()) < 0.02 else STATIC
    return ids


def true_end(push: Push, start: SplatScene, ids: Tensor) -> SplatScene:
    """Where nodes would be if they went as the bodies did: what a perfect model could reach."""
    before, after = (torch.from_numpy(value).float() for value in push.poses)
    moved = start.positions.clone()
    for number in ids.unique().tolist():
        own = ids == number
        body = int((before[:, :3] - start.positions[own].mean(0)).norm(dim=-1).argmin())
        local = (start.positions[own] - before[body, :3]) @ quaternion_to_matrix(before[body, 3:])
        moved[own] = local @ quaternion_to_matrix(after[body, 3:]).mT + after[body, :3]
    shift = torch.from_numpy(push.pusher[-1] - push.pusher[0]).float()
    return start.replace(positions=moved, robot=start.robot + shift)  # type: ignore[no-any-return]


def coloured(images: Tensor) -> Tensor:
    """Which pixels show an object."""
    return images.amax(-1) - images.amin(-1) > COLOURED


def masked_psnr(images: Tensor, true: Tensor) -> Tensor:
    """PSNR (V,) around the objects of both pictures."""
    either = (coloured(images) | coloured(true)).float().unsqueeze(1)
    return psnr(images, true, mask=torch.nn.functional.max_pool2d(either, 2 * MARGIN + 1, 1, MARGIN)[:, 0])


@torch.no_grad()
def judged(model: Any, seed: int) -> dict[str, float]:
    """PSNR of one push by what predicts the picture, means over cameras; errors of nodes [m]; seconds."""
    push = draw_push(seed)
    begin = time.perf_counter()
    driven, scene = driven_scene(push, model)
    made, begin = time.perf_counter() - begin, time.perf_counter()
    motion = torch.from_numpy(np.diff(push.pusher, axis=0)).float().repeat(1, TOOL)
    start = driven.start()
    predicted = driven.rollout(start, motion).states
    rolled, begin = time.perf_counter() - begin, time.perf_counter()
    draw = partial(render_states, driven.scene, camera=push.cameras, background=scene.background, blur=BLUR)
    shown = draw(predicted[-1]).image.clamp(0, 1)
    drawn = time.perf_counter() - begin
    nodes = driven.scene.packing.start["object_ids"]
    true = true_end(push, start, nodes)
    before, after = pictures(push, 0), pictures(push, 1)
    images = {"learned": shown, "true motion": draw(true).image.clamp(0, 1), "kept": before, "splats kept": draw(start).image.clamp(0, 1)}
    found: dict[str, float] = {}
    for name, image in images.items():
        values = masked_psnr(image, after)
        found |= {name: float(values[::2].mean()), f"{name}, other cameras": float(values[1::2].mean())}
    first = masked_psnr(images["splats kept"], before)
    found |= {"first frame": float(first[::2].mean()), "first frame, other cameras": float(first[1::2].mean())}
    away = (true.positions - start.positions).norm(dim=-1)
    found["drift"] = float((predicted[-1].positions - true.positions).norm(dim=-1)[away > 0.5 * MOVED].mean())
    return found | {"moved": float(away.max()), "made": made, "rolled": rolled, "drawn": drawn}


def splat_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`splat_psnr_20` and `splat_psnr_gain` over the first picture kept, `..._other_cameras`; `splat_psnr_true_motion`, of a perfect model."""
    if not KEPT.with_suffix(".safetensors").is_file():
        return {name: claim(None, why="no model is kept; run --only boxes first, which trains one") for name in ("splat_psnr_20", "splat_psnr_gain")}
    model = load_model(KEPT)
    found = [judged(model, seed) for seed in range(EPISODES[0] if quick else EPISODES[1])]
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    table = Table(
        "picture", "PSNR around objects, dB", "other cameras", title=f"{STEPS} steps ahead, {len(found)} pushes, {PIXELS['width']} x {PIXELS['height']}"
    )
    titles = {
        "kept": "first picture kept",
        "splats kept": "splats of the first frame",
        "learned": "splats, learned model",
        "true motion": "splats, true motion",
    }
    for name, title in (titles | {"first frame": "splats against their own first frame"}).items():
        table.add_row(title, *(f"{values[which].mean():.2f}" for which in (name, f"{name}, other cameras")))
    console.print(table)
    per = " ".join(f"{one['learned']:.1f}" for one in found)
    console.print(f"each push [dB]: {per}")
    console.print(
        f"nodes of what moved are off by {1e3 * values['drift'].mean():.1f} mm (median {1e3 * np.median(values['drift']):.1f}); a scene is made in "
        f"{values['made'].mean():.1f} s, rolled out in {values['rolled'].mean():.2f} s, {2 * VIEWS} pictures drawn in {values['drawn'].mean():.2f} s"
    )
    return {
        "splat_psnr_20": mean_claim(values["learned"]),
        "splat_psnr_gain": mean_claim(values["learned"] - values["kept"]),
        "splat_psnr_20_other_cameras": mean_claim(values["learned, other cameras"]),
        "splat_psnr_gain_other_cameras": mean_claim(values["learned, other cameras"] - values["kept, other cameras"]),
        "splat_psnr_true_motion": mean_claim(values["true motion"]),
    }
