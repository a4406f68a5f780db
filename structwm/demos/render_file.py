"""`structwm render FILE`: a picture of the splats in a file."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from structwm.data import read_splats
from structwm.geometry.camera import Camera
from structwm.render import render
from structwm.state import Splats

Axis = Literal["x", "y", "z", "-x", "-y", "-z"]


@dataclass(frozen=True)
class RenderConfig:
    """A picture of the splats in a file, looked at from outside; several pictures turn around them."""

    file: Annotated[Path, tyro.conf.Positional]  # .ply, .splat or .compressed.ply
    output: Path | None = None  # picture to write, by default in this folder the file's name with .png, or .gif for several
    width: int = 960  # [px]
    height: int = 720  # [px]
    azimuth: float = 30.0  # from where, around `up` [deg]
    elevation: float = 20.0  # from how far above [deg]
    distance: float = 1.0  # relative to one that shows nine tenths of the splats
    up: Axis = "z"  # direction that is up in the file
    field_of_view: float = 50.0  # vertical [deg]
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)  # red, green, blue in [0, 1]
    frames: int = 1  # pictures on a turn around `up`
    backend: Literal["warp", "gsplat", "reference"] = "warp"
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")

    def __post_init__(self) -> None:
        numbers = (self.azimuth, self.elevation, self.distance, self.field_of_view)
        sound = all(map(math.isfinite, numbers)) and all(0 <= value <= 1 for value in self.background)
        if not sound or min(self.width, self.height, self.frames) < 1 or self.distance <= 0 or not 0 < self.field_of_view < 180 or abs(self.elevation) >= 90:
            raise ValueError(
                "structwm render: expected at least one pixel and frame, finite angles, a distance above 0, a background in [0, 1], a field of view between 0 "
                f"and 180 degrees and an elevation between -90 and 90, got {self.width} x {self.height} px, {self.frames} frames, {numbers} and "
                f"{self.background}."
            )


def main(config: RenderConfig) -> Path:
    """Read, draw, write; gives the picture's path."""
    from PIL import Image

    splats = read_splats(config.file)
    if not len(splats.means):
        raise ValueError(f"{config.file} holds no splats; there is nothing to draw.")
    output = config.output or Path(config.file.name).with_suffix(".png" if config.frames == 1 else ".gif")
    if output.suffix.lower() not in (Image.registered_extensions() if config.frames == 1 else (".gif", ".png", ".webp")):
        raise ValueError(f"structwm render: expected a picture's name such as picture.{'png' if config.frames == 1 else 'gif'}, got {output.name}.")
    if not output.parent.is_dir():
        raise ValueError(f"structwm render: expected a folder that exists for the picture, got {output.parent}.")
    try:
        splats = splats.to(config.device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"structwm render: expected a device that is here, such as cpu, got {config.device!r} ({why}).") from None
    begin = time.perf_counter()
    pictures = []
    for camera in cameras_around(splats, config):
        seen = render(splats, camera.to(splats.means), background=config.background, backend=config.backend)
        pictures.append(Image.fromarray((255 * seen.image.clamp(0, 1)).round().byte().cpu().numpy()))
    seconds = time.perf_counter() - begin
    if len(pictures) == 1:
        pictures[0].save(output)
    else:
        pictures[0].save(output, save_all=True, append_images=pictures[1:], duration=max(20, 4000 // len(pictures)), loop=0)
    sys.stdout.write(
        f"{output}: {len(splats.means)} splats, {len(pictures)} x {config.width} x {config.height} px in {1e3 * seconds:.0f} ms on {splats.means.device}\n"
    )
    return output


def cameras_around(splats: Splats, config: RenderConfig) -> list[Camera]:
    """Cameras on a circle around the middle of the splats, far enough to see the nearest nine tenths of them."""
    means = splats.means.double().cpu()
    middle = means.median(0).values
    spread = (means - middle).norm(dim=-1)
    radius = float(spread.quantile(0.9) if len(spread) < 2**24 else spread[:: len(spread) // 2**20].quantile(0.9)) or float(splats.scales.max()) or 1.0
    sign, axis = (-1.0 if config.up.startswith("-") else 1.0), "xyz".index(config.up[-1])
    up = torch.zeros(3, dtype=torch.float64)
    up[axis] = sign
    first = torch.eye(3, dtype=torch.float64)[(axis + 1) % 3]
    second = torch.linalg.cross(up, first)
    half = math.radians(config.field_of_view) / 2
    narrow = math.atan(math.tan(half) * min(1.0, config.width / config.height))
    distance = config.distance * radius / math.sin(narrow)
    cameras = []
    for frame in range(config.frames):
        azimuth, elevation = math.radians(config.azimuth) + 2 * math.pi * frame / config.frames, math.radians(config.elevation)
        away = math.cos(elevation) * (math.cos(azimuth) * first + math.sin(azimuth) * second) + math.sin(elevation) * up
        cameras.append(Camera.look_at(middle + distance * away, middle, width=config.width, height=config.height, field_of_view=2 * half, up=up))
    return cameras
