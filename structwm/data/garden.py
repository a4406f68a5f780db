"""A garden with a table: the points of a real reconstruction, with three of its cameras.

Scene: Barron et al., Mip-NeRF 360, CVPR 2022. File: assets/test_garden.npz of github nerfstudio-project/gsplat, where it serves to test rasterizers. The
reconstruction has no scale, so lengths are in its own unit. It has no photos, and its points are no splats.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable

if TYPE_CHECKING:
    from torch import Tensor

    from structwm.geometry.camera import Camera

FILE = "test_garden.npz"
_SHAPES = {"means3d": (-1, 3), "colors": (-1, 3), "viewmats": (-1, 4, 4), "Ks": (-1, 3, 3), "height": (), "width": ()}  # -1 is any length


@dataclass(frozen=True)
class Garden:
    """Colored points and the cameras that saw them."""

    positions: Tensor  # (138766, 3) float32, in the scene's unit
    colors: Tensor  # (138766, 3) float32, red, green, blue in [0, 1]
    camera: Camera  # batch size (3,), 648 x 420 px


def load_garden(folder: str | Path | None = None) -> Garden:
    """Read the set.

    Args:
        folder: where test_garden.npz is; fetched if not given.

    Raises:
        DataUnavailable: if the file is missing; it says which command to run.
        BadData: if the file cannot be right.
    """
    import torch

    from structwm.geometry.camera import Camera

    file = (fetch("gsplat_garden") if folder is None else Path(folder)) / FILE
    if not file.is_file():
        raise DataUnavailable(f"expected {FILE} of gsplat_garden in {file.parent}, found none; run `structwm fetch gsplat_garden` or give its folder.")
    found: dict[str, Any] = {}
    try:
        with np.load(file) as content:
            for name in _SHAPES:
                found[name] = content[name]
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _bad(
            file, ", ".join(name for name in _SHAPES if name not in found), f"a complete numpy file with {', '.join(_SHAPES)}", type(error).__name__
        ) from error
    for name, shape in _SHAPES.items():
        values = found[name]
        fits = values.ndim == len(shape) and all(want in (-1, have) for want, have in zip(shape, values.shape, strict=True))
        if not fits or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise _bad(file, name, f"finite numbers {shape}, where -1 is any length", f"{values.dtype} {values.shape}")
    if found["means3d"].shape != found["colors"].shape or found["colors"].dtype != np.uint8:
        raise _bad(file, "colors", f"bytes {found['means3d'].shape} as means3d", f"{found['colors'].dtype} {found['colors'].shape}")
    try:
        pose = np.linalg.inv(found["viewmats"].astype(np.float64))
        camera = Camera(torch.from_numpy(found["Ks"]).float(), torch.from_numpy(pose).float(), int(found["width"]), int(found["height"]))
        views = camera.batch_size
    except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        raise _bad(file, "viewmats, Ks", "pinhole cameras", str(error).rstrip(".")) from error
    if len(views) != 1:
        raise _bad(file, "viewmats, Ks", "as many poses as intrinsics", f"{len(found['viewmats'])} and {len(found['Ks'])}")
    colors = torch.from_numpy(found["colors"]).float() / 255
    return Garden(torch.from_numpy(found["means3d"]).float(), colors, camera)


def _bad(file: Path, field: str, expected: str, got: str) -> BadData:
    advice = "fetch it again with `structwm fetch gsplat_garden`"
    return BadData.at(file=file, record="every record", field=field, expected=expected, got=got, advice=advice)
