"""A rope on a table: real trained Gaussian splats, and the four calibrated photos and masks that they were trained on.

Recordings: Zhang, Zhang and Li, Dynamic 3D Gaussian Tracking for Graph-Based Neural Dynamics Modeling, CoRL 2024 (github robo-alex/gs-dynamics, assets/demo).
The world frame is that of the camera poses. The file of splats was centered and turned before it was saved, and its place was lost; `WORLD_FROM_FILE` was
recovered from the masks: with it 99.7 % or more of the centers fall inside the mask of each photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable
from structwm.data.splat_files import read_splats

if TYPE_CHECKING:
    from torch import Tensor

    from structwm.geometry.camera import Camera
    from structwm.state import Splats

VIEWS, WIDTH, HEIGHT = 4, 640, 480
WORLD_FROM_FILE = (((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)), (0.32515, 0.07697, -0.01670))  # rotation, translation [m]


@dataclass(frozen=True)
class RopePhotos:
    """One instant of a rope, in metres."""

    splats: Splats  # 8,957 in the world frame
    camera: Camera  # batch size (4,), 640 x 480 px; intrinsics as the splats were trained with, so the first pixel's center is (0.5, 0.5)
    images: Tensor  # (4, 480, 640, 3) float32, red, green, blue in [0, 1]
    masks: Tensor  # (4, 480, 640) bool, True on the rope


def load_rope_photos(folder: str | Path | None = None) -> RopePhotos:
    """Read the set.

    Args:
        folder: where the upstream files are; fetched if not given.

    Raises:
        DataUnavailable: if a file is missing; it says which command to run.
        BadData: if a file cannot be right.
        ImportError: if Pillow is missing, which reads the photos.
    """
    import torch

    from structwm.geometry.camera import Camera
    from structwm.geometry.splat_motion import place_splats

    folder = fetch("gs_dynamics_rope") if folder is None else Path(folder)
    turn, place, intrinsics = (_numbers(folder, name, shape) for name, shape in (("R", (3, 3)), ("t", (3,)), ("intr", (3, 3))))
    pose = np.tile(np.eye(4), (VIEWS, 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = turn, place
    try:
        camera = Camera(torch.from_numpy(intrinsics).float(), torch.from_numpy(pose).float(), WIDTH, HEIGHT)
    except ValueError as error:
        raise _bad(folder / "R_list.npy", "cameras", "four pinhole cameras", str(error).rstrip(".")) from error
    images = np.stack([_picture(folder, f"img_{view}.png", "RGB") for view in range(VIEWS)])
    masks = np.stack([_picture(folder, f"mask_{view}.png", "L") for view in range(VIEWS)])
    rotation, translation = (torch.tensor(part) for part in WORLD_FROM_FILE)
    return RopePhotos(
        splats=place_splats(read_splats(_present(folder / "gs_orig.splat")), rotation, translation),
        camera=camera,
        images=torch.from_numpy(images).float() / 255,
        masks=torch.from_numpy(masks > 127),
    )


def _present(file: Path) -> Path:
    if not file.is_file():
        raise DataUnavailable(
            f"expected {file.name} of gs_dynamics_rope in {file.parent}, found none; run `structwm fetch gs_dynamics_rope` or give its folder."
        )
    return file


def _bad(file: Path, field: str, expected: str, got: str) -> BadData:
    advice = "fetch it again with `structwm fetch gs_dynamics_rope`"
    return BadData.at(file=file, record="every record", field=field, expected=expected, got=got, advice=advice)


def _numbers(folder: Path, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """One array of the cameras, (VIEWS, *shape)."""
    file = _present(folder / f"{name}_list.npy")
    try:
        values = np.load(file)
    except (ValueError, OSError, EOFError) as error:
        raise _bad(file, name, "a complete numpy file", type(error).__name__) from error
    if values.shape != (VIEWS, *shape) or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise _bad(file, name, f"finite numbers {(VIEWS, *shape)}", f"{values.dtype} {values.shape}")
    return values.astype(np.float64)


def _picture(folder: Path, name: str, mode: str) -> NDArray[Any]:
    """Bytes (HEIGHT, WIDTH) or (HEIGHT, WIDTH, 3) of a picture."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError("expected Pillow for reading photos, but it is not installed; run `pip install pillow`.") from error
    file = _present(folder / name)
    try:
        with Image.open(file) as picture:
            if picture.size != (WIDTH, HEIGHT):
                raise _bad(file, "size", f"{WIDTH} x {HEIGHT} px", f"{picture.size[0]} x {picture.size[1]} px")
            return np.asarray(picture.convert(mode))
    except BadData:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise _bad(file, "pixels", "a complete PNG file", type(error).__name__) from error
