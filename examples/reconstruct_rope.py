"""A rope from its photos to a twin that is driven and seen: masks and trained splats give a centre line, that a discrete elastic rod, and the splats follow it.

The photos and splats are those of gs_dynamics_rope (Zhang, Zhang and Li, CoRL 2024; `structwm fetch gs_dynamics_rope`).

    python examples/reconstruct_rope.py --folder runs/reconstruct_rope
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

from structwm.data import PosedImages, load_rope_photos
from structwm.geometry import Camera, chain_places, motion_matrix, place_splats
from structwm.perception import centre_line, reconstruct
from structwm.physics import Fixture, Geometry, PlaneShape, Rod, RodTwin
from structwm.render.scenes import take_splats
from structwm.scene import Scene
from structwm.splats import DrivenSplats, render_states
from structwm.state import Splats, State


@dataclass(frozen=True)
class Options:
    """What to do with the rope."""

    vertices: int = 40  # of the rod
    height: float = 0.25  # that one end is lifted [m]
    aside: float = 0.15  # and carried towards the middle [m]
    seconds: float = 2.0  # of the motion
    settle: float = 0.5  # before it, at rest, so that the rope comes to lie on the table [s]
    pictures: int = 6  # in the strip
    folder: Path = Path("runs/reconstruct_rope")


@dataclass(frozen=True)
class RopeScene:
    """What was made of the photos, in a frame whose z is up, with the table at 0."""

    nodes: torch.Tensor  # (V, 3) vertices of the rod [m]
    splats: Splats
    camera: Camera  # of the photos
    twin: RodTwin  # its first vertex is held


def main(options: Options) -> None:
    scene = rope_scene(options.vertices)
    nodes, twin = scene.nodes, scene.twin
    model = DrivenSplats(twin, scene.splats, nodes, chain=True)
    actions = lift(options, nodes)
    with torch.no_grad():
        trajectory = model.rollout(twin.state(nodes), actions)
    print(f"valid to the end: {bool(trajectory.valid[-1])}; ends at height {100 * float(trajectory.points().positions[-1, 0, 2]):.1f} cm")
    first = round(options.settle * 60)
    moments = torch.linspace(first, trajectory.horizon, options.pictures).round().long()
    rows = [strip(model.scene, trajectory.states[moments], view) for view in (beside(nodes), scene.camera[1])]
    save_strips(options.folder, {"beside": rows[0], "photo_1": rows[1]})
    print(f"strips of {options.pictures} pictures: {options.folder}")


def rope_scene(vertices: int) -> RopeScene:
    """Centre line, splats and a rod from the photos."""
    photos = load_rope_photos()
    # the masks' hull is filled, so its middle is the rope's
    solid = reconstruct(PosedImages(photos.camera, photos.images, None, photos.masks))
    line = centre_line(torch.cat((solid.points.positions, solid.interior)), vertices)
    by_splats = centre_line(photos.splats.means, vertices)
    print(f"length by the masks {100 * line.length:.1f} cm, by the splats {100 * by_splats.length:.1f} cm")
    line = by_splats  # the splats are skinned to it
    up = table_normal(line.vertices, photos.camera.positions)
    turn = frame_of(up)
    floor = float((photos.splats.means @ turn.mT)[:, 2].quantile(0.02))
    shift = torch.tensor([0.0, 0.0, -floor])
    nodes = line.vertices @ turn.mT + shift
    splats = place_splats(photos.splats, turn, shift)
    stray = (chain_places(splats.means, nodes)[1] > 1.8 * line.radius) | (splats.scales.amax(-1) > 0.7 * line.radius)
    splats = take_splats(splats, ~stray)  # hairs of the fit that belong to no strand
    print(f"{int(stray.sum())} stray splats of {len(stray)} left out")
    rest = tuple((nodes[1:] - nodes[:-1]).norm(dim=-1).tolist())
    table = Fixture((Geometry(PlaneShape()),), name="table")
    rod = Rod(rest, driven=(0,), radius=line.radius, obstacles=(table,))
    values = {"line_density": 0.15, "bend_stiffness": 2e-3, "bend_damping": 2e-4, "drag": 1.0}
    return RopeScene(nodes, splats, photos.camera.moved(motion_matrix(turn, shift)), RodTwin(rod, dt=1 / 60, substeps=16, values=values))


def beside(nodes: torch.Tensor) -> Camera:
    """A camera that sees the rope lifted."""
    middle = nodes.mean(0) + torch.tensor([0.0, 0.0, 0.09])
    return Camera.look_at(middle + torch.tensor([0.1, -0.75, 0.4]), middle, width=480, height=360, field_of_view=math.radians(34))


def strip(scene: Scene, states: State, view: Camera) -> torch.Tensor:
    """Pictures (360, K width, 3) of K states, side by side."""
    seen = render_states(scene, states, view.to(torch.float32), background=(1.0, 1.0, 1.0)).image.clamp(0, 1)
    return torch.cat([small(image, 360) for image in seen], 1)


def save_strips(folder: Path, rows: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in rows.items():
        Image.fromarray((255 * row).round().byte().numpy()).save(folder / f"strip_{name}.png")


def table_normal(vertices: torch.Tensor, eyes: torch.Tensor) -> torch.Tensor:
    """Up: across the plane that the rope lies in, towards the cameras."""
    axis = torch.linalg.svd(vertices - vertices.mean(0)).Vh[-1]
    return axis * torch.sign(((eyes - vertices.mean(0)) @ axis).mean())


def frame_of(up: torch.Tensor) -> torch.Tensor:
    """A rotation (3, 3) that takes `up` to z."""
    x = torch.nn.functional.normalize(torch.tensor([1.0, 0.0, 0.0]) - up[0] * up, dim=0)
    return torch.stack((x, torch.linalg.cross(up, x), up))


def lift(options: Options, nodes: torch.Tensor) -> torch.Tensor:
    """Velocities (H, 3) of the first vertex [m/s]: at rest, then smoothly up and towards the middle."""
    still, steps = round(options.settle * 60), round(options.seconds * 60)
    toward = torch.nn.functional.normalize((nodes.mean(0) - nodes[0]) * torch.tensor([1.0, 1.0, 0.0]), dim=0)
    way = options.aside * toward + torch.tensor([0.0, 0.0, options.height])
    time = torch.linspace(0, 1, steps + 1)
    share = 10 * time**3 - 15 * time**4 + 6 * time**5
    return torch.cat((torch.zeros(still, 3), (share[1:] - share[:-1]).unsqueeze(-1) * way * 60))


def small(image: torch.Tensor, height: int) -> torch.Tensor:
    width = round(image.shape[1] * height / image.shape[0])
    return torch.nn.functional.interpolate(image.permute(2, 0, 1)[None], (height, width), mode="area")[0].permute(1, 2, 0)


if __name__ == "__main__":
    main(tyro.cli(Options))
