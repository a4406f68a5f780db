"""Images from known places: colour, depth and masks of V cameras, in memory and as a folder of pictures beside a `cameras.json`.

`cameras.json` holds

    {"axes": "opencv", "pixel_center": 0.5, "depth_scale": 0.001,
     "views": [{"color": "color_0.png", "depth": "depth_0.png", "mask": "mask_0.png",
                "intrinsics": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], "world_from_camera": [[...], [...], [...], [0, 0, 0, 1]]}, ...]}

- `axes` of the cameras: `opencv` (x right, y down, z forward) or `opengl` (x right, y up, z backward).
- `pixel_center`: where the centre of the upper left pixel lies, 0.5 by default; calibrations of OpenCV mean 0.
- `depth_scale`: metres of one unit of the depth files, 0.001 by default for PNG of 16 bits and 1 for .npy and .npz. Depth is along the optical axis; 0 and NaN
  mean that nothing was measured.
- `color`, `depth` and `mask` name files beside it; each kind is there for all views or for none. Masks are white on the object.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.atomic import write_bytes, write_json
from structwm.data.errors import BadData

if TYPE_CHECKING:
    from torch import Tensor

    from structwm.geometry.camera import Camera

FILE = "cameras.json"
ADVICE = "correct the file; structwm.data.posed_images says how it is written"
_AXES = {"opencv": (1.0, 1.0, 1.0), "opengl": (1.0, -1.0, -1.0)}
_KINDS = ("color", "depth", "mask")


@dataclass(frozen=True, eq=False)
class PosedImages:
    """What V cameras saw of one instant.

    Raises:
        ValueError: in one sentence, if shapes or numbers do not fit, or there is neither depth nor masks nor colour.
    """

    camera: Camera  # batch size (V,)
    colors: Tensor | None = None  # (V, height, width, 3) red, green, blue in [0, 1]
    depth: Tensor | None = None  # (V, height, width) along the optical axis [m]; not above 0, or not finite, where nothing was measured
    masks: Tensor | None = None  # (V, height, width) bool, True on the object

    def __post_init__(self) -> None:
        import torch

        camera = self.camera
        if len(camera.batch_size) != 1 or not len(camera):
            raise ValueError(f"posed images: expected V cameras, got batch axes {tuple(camera.batch_size)}.")
        size = (len(camera), camera.height, camera.width)
        for name, shape in (("colors", (*size, 3)), ("depth", size), ("masks", size)):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"posed images, {name}: expected {shape} as the cameras say, got {tuple(value.shape)}.")
        if self.masks is not None and self.masks.dtype != torch.bool:
            raise ValueError(f"posed images: expected bool masks, got {self.masks.dtype}; compare them with a threshold first.")
        if self.depth is not None and not self.depth.is_floating_point():
            raise ValueError(f"posed images: expected depth in metres, got {self.depth.dtype}; multiply it with the camera's depth scale.")
        if self.colors is not None and not (self.colors.is_floating_point() and bool(((self.colors >= 0) & (self.colors <= 1)).all())):
            raise ValueError("posed images: expected floating point colors in [0, 1]; divide images of bytes by 255.")
        if self.colors is None and self.depth is None and self.masks is None:
            raise ValueError("posed images: expected colors, depth or masks, got none of them.")

    def __len__(self) -> int:
        return len(self.camera)


def read_posed_images(folder: str | Path) -> PosedImages:
    """Read a folder with `cameras.json`.

    Raises:
        BadData: in one sentence that names the file, the view and the field, if something is missing or cannot be right.
    """
    import torch

    from structwm.geometry.camera import Camera

    folder = Path(folder)
    file = folder / FILE
    said = _read_json(file)
    views = said.get("views")
    if not isinstance(views, list) or not views or not all(isinstance(view, dict) for view in views):
        raise _bad(file, "the whole file", "views", "a list of at least one view", repr(views)[:60])
    axes = said.get("axes", "opencv")
    if axes not in _AXES:
        raise _bad(file, "the whole file", "axes", f"one of {', '.join(_AXES)}", repr(axes))
    shift = 0.5 - _number(said, "pixel_center", 0.5, file)
    intrinsics = np.stack([_matrix(view, "intrinsics", 3, file, k) for k, view in enumerate(views)])
    intrinsics[:, :2, 2] += shift
    poses = np.stack([_matrix(view, "world_from_camera", 4, file, k) for k, view in enumerate(views)])
    poses[:, :3, :3] *= np.array(_AXES[axes])
    scale = _number(said, "depth_scale", math.nan, file)
    stacks: dict[str, NDArray[Any]] = {}
    for kind in _KINDS:
        named = [view.get(kind) for view in views]
        if any(name is not None for name in named):
            stacks[kind] = _stack([_read_view(folder, file, kind, name, k, scale) for k, name in enumerate(named)], kind, file)
    if not stacks:
        raise _bad(file, 0, "color", "names of color, depth or mask files", "none")
    sizes = {kind: stack.shape[1:3] for kind, stack in stacks.items()}
    if len(set(sizes.values())) > 1:
        raise _bad(file, "every view", "size", "pictures of one size", ", ".join(f"{kind} {w} x {h} px" for kind, (h, w) in sizes.items()))
    height, width = next(iter(sizes.values()))
    try:
        camera = Camera(torch.from_numpy(intrinsics).float(), torch.from_numpy(poses).float(), width, height)
    except ValueError as error:
        raise _bad(file, "some view", "intrinsics, world_from_camera", "pinhole cameras", str(error).rstrip(".")) from error
    return PosedImages(
        camera,
        colors=torch.from_numpy(stacks["color"]) if "color" in stacks else None,
        depth=torch.from_numpy(stacks["depth"]) if "depth" in stacks else None,
        masks=torch.from_numpy(stacks["mask"]) if "mask" in stacks else None,
    )


def write_posed_images(images: PosedImages, folder: str | Path) -> Path:
    """Write a folder that `read_posed_images` reads: PNG of 8 bits for colour and masks, .npz of float32 for depth. Gives the path of its `cameras.json`."""
    from io import BytesIO

    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = len(images)
    k, poses = images.camera.intrinsics.expand(count, 3, 3), images.camera.world_from_camera.expand(count, 4, 4)
    views: list[dict[str, Any]] = []
    for view in range(count):
        entry: dict[str, Any] = {}
        for kind, value in (("color", images.colors), ("mask", images.masks), ("depth", images.depth)):
            if value is None:
                continue
            stream, entry[kind] = BytesIO(), f"{kind}_{view}.{'npz' if kind == 'depth' else 'png'}"
            if kind == "depth":
                np.savez_compressed(stream, depth=value[view].cpu().numpy().astype(np.float32))
            else:
                Image.fromarray((255 * value[view].float()).round().byte().cpu().numpy()).save(stream, format="png")
            write_bytes(folder / entry[kind], [stream.getvalue()])
        views.append(entry | {"intrinsics": k[view].tolist(), "world_from_camera": poses[view].tolist()})
    write_json(folder / FILE, {"axes": "opencv", "pixel_center": 0.5, "views": views})
    return folder / FILE


def _bad(file: Path, record: int | str, field: str, expected: str, got: str) -> BadData:
    return BadData.at(file=file, record=f"view {record}" if isinstance(record, int) else record, field=field, expected=expected, got=got, advice=ADVICE)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _bad(file, "the whole file", "path", "a file that can be read", type(error).__name__) from error
    except ValueError as error:
        raise _bad(file, "the whole file", "JSON", "valid JSON", str(error)) from error
    if not isinstance(said, dict):
        raise _bad(file, "the whole file", "JSON", "an object", type(said).__name__)
    return said


def _number(said: dict[str, Any], name: str, default: float, file: Path) -> float:
    value = said.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or (name == "depth_scale" and value <= 0):
        raise _bad(file, "the whole file", name, "a number" + (" above 0" if name == "depth_scale" else ""), repr(value))
    return float(value)


def _matrix(view: dict[str, Any], name: str, side: int, file: Path, k: int) -> NDArray[np.float64]:
    try:
        matrix = np.array(view.get(name), dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (side, side) or not np.isfinite(matrix).all():
        raise _bad(file, k, name, f"{side} rows of {side} finite numbers", repr(view.get(name))[:60])
    return matrix


def _read_view(folder: Path, file: Path, kind: str, name: Any, k: int, scale: float) -> NDArray[Any]:
    """One picture: (height, width, 3) in [0, 1], (height, width) [m], or bool (height, width)."""
    if not isinstance(name, str):
        raise _bad(file, k, kind, f"the name of a {kind} file, as other views have", repr(name))
    path = folder / name
    try:
        values = _load(path, kind)
    except (OSError, ValueError, KeyError, EOFError, SyntaxError) as error:
        raise _bad(path, k, kind, "a picture that can be read", f"{type(error).__name__} ({error})") from error
    if kind == "color":
        return (values.astype(np.float32) / 255)[..., :3]
    if values.ndim != 2:
        raise _bad(path, k, kind, "one number a pixel", f"{values.shape}")
    if kind == "mask":
        return np.asarray(values > (127 if values.dtype == np.uint8 else 0))
    metres = scale if not math.isnan(scale) else (0.001 if values.dtype.kind in "ui" else 1.0)
    return values.astype(np.float32) * np.float32(metres)


def _load(path: Path, kind: str) -> NDArray[Any]:
    from PIL import Image

    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    if path.suffix == ".npz":
        with np.load(path) as content:
            return np.asarray(content[content.files[0]])
    with Image.open(path) as picture:
        if kind == "depth":
            return np.asarray(picture)
        return np.asarray(picture.convert("RGB" if kind == "color" else "L"))


def _stack(values: list[NDArray[Any]], kind: str, file: Path) -> NDArray[Any]:
    for k, value in enumerate(values):
        if value.shape != values[0].shape:
            raise _bad(file, k, kind, f"the size of the first view, {values[0].shape[1]} x {values[0].shape[0]} px", f"{value.shape[1]} x {value.shape[0]} px")
    return np.stack(values)
