"""A T-shaped block that is pushed and slides to rest, in PyBullet: 32 images with masks, poses and cameras, the block's meshes, and the block as surfels.

Data: Li, Zhao, Yu, Du, Zou, Hu and Xu, PIN-WM, arXiv 2504.16693, 2025 (github XuAdventurer/PIN-WM, dataset/sim_push_t1). The world is z up with the ground at
z = 0. The block's frame lies in its centre of mass: a bar 0.10 x 0.04 m and a stem 0.04 x 0.10 m in a T, 0.05 m high. What is not written beside the files:

- The json's `c2w` is in the axes of OpenGL (y up, looking along -z); here it is turned into those of `Camera`. Then 99.6 % or more of the
  surfels' centres fall inside the mask of each image, and the meshes' extent is within 2 px of the silhouettes'; with OpenCV's axes none does at the start.
- The surfels are saved in the world of the first image; here they are in the block's frame. They are flat: the third scale is set to `THICKNESS`.
- Alpha of the images is the mask, 0 or 255; beneath alpha 0 the picture of the floor stands whole. The pusher is on none of the images.
- There are 33 records of images for 32 poses: the last is of time -1/24 s, before the first, and its image is not in the set. It is left out.
- The block slides on its own after frame 3, from 0.29 m/s with 0.29 m/s^2, as with a friction of 0.03; it stands still from frame 28 on. Its height grows from
  0.0250 m to 0.0274 m, as contact margins push it up.
- The mass is in the URDF; the inertia there (1 kg m^2 about each axis) is a placeholder. Friction is not stated.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable
from structwm.data.obj import read_obj
from structwm.data.ply import read_ply, table_of
from structwm.data.splat_ply import decode_ply

if TYPE_CHECKING:
    from torch import Tensor

    from structwm.geometry.camera import Camera
    from structwm.geometry.mesh import Mesh
    from structwm.state import Splats

Array = NDArray[Any]

SIDE = 800  # of an image [px]
FRAME_RATE = 24.0  # [1/s]
PHYSICS_RATE = 240.0  # steps a second, ten a frame [1/s]
PUSHER_GAIN = 5.0  # [1/s]
PUSHER_HEIGHT = 0.05  # of the pusher's centre, where upstream's script puts it [m]
THICKNESS = 1e-5  # third scale of a surfel [m]
_RECORDS = "dataset/sim_push_t1/dynamic_train0.json"
_ASSETS = "envs/asset/cube_t"
_SURFELS = "point_cloud_2dgs.ply"
_KEYS = ("ee_init_position", "ee_goal_position", "image_datas", "pose_datas")
_IMAGE = re.compile(r"dynamic_data_train/train0/r_0_(?P<frame>-?\d+)\.png")
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class PushTImages:
    """n = 32 frames of one push. Tensors are float32 unless said."""

    times: Tensor  # (n,) float64 [s]
    images: Tensor  # (n, size, size, 3) red, green, blue in [0, 1]
    masks: Tensor  # (n, size, size) which share of the pixel the block covers, 0 or 1 in the images' own size
    camera: Camera  # batch size (n,), size x size px
    poses: Tensor  # (n, 7) float64 world_from_block: x, y, z [m], unit quaternion wxyz
    pusher_start: Tensor  # (2,) float64 x, y of the pusher at the first frame [m]
    pusher_goal: Tensor  # (2,) float64 where it is driven to [m]
    mesh: Mesh  # the block, two boxes that touch; block frame
    pieces: tuple[Mesh, ...]  # the convex pieces that the URDF collides with, 0.4 mm larger; block frame
    surfels: Splats  # 5,398; block frame
    mass: float  # of the block [kg]

    @property
    def pusher_positions(self) -> Tensor:
        """(n, 2) float64 x, y of the pusher [m], computed, not recorded: at each frame it gets the velocity `PUSHER_GAIN` (goal - position), held to the next.

        That is how upstream's script replays the push, with a pusher of 1,000 kg that keeps its height and does not turn. Its shape is not in the set; on this
        path its centre is 23 to 28 mm from the block's sides in frames 1 to 4, while they touch, so that a round one has a radius of about 23 mm at most. None
        was found that moves the block as it was moved: in PyBullet, balls and cylinders of 15 to 28 mm leave frames 13 to 31 off by 20 mm or more on average,
        a box of about 4 to 5 cm a side, level with the axes, by 1 mm.
        """
        import torch

        left = (1 - PUSHER_GAIN / FRAME_RATE) ** torch.arange(len(self.times), dtype=torch.float64)
        return self.pusher_goal + left[:, None] * (self.pusher_start - self.pusher_goal)


def load_push_t(path: str | Path | None = None, *, size: int = SIDE, background: float | None = 1.0) -> PushTImages:
    """Read the set.

    Args:
        path: the set's folder; fetched if not given.
        size: of images, masks and camera [px], a divisor of 800; smaller ones average pixels. 800 takes 330 MB, 200 takes 20 MB.
        background: grey in [0, 1] behind the block, white as upstream trains; None shows the floor.

    Raises:
        ValueError: if the size is no divisor of 800, or the background is outside [0, 1].
        DataUnavailable: if a file is missing; it says which command to run.
        BadData: if a file cannot be right; it names file, record and field.
        ImportError: if Pillow is missing, which reads the images.
    """
    import torch

    from structwm.geometry.camera import Camera

    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or SIDE % size:
        raise ValueError(f"expected a size that divides {SIDE} px, for example 400 or 200, got {size!r}.")
    if background is not None and not 0 <= background <= 1:
        raise ValueError(f"expected a background in [0, 1] or None, got {background!r}.")
    folder = fetch("pinwm_push_t") if path is None else Path(path)
    record = _read_records(_present(folder, _RECORDS))
    try:
        intrinsics, world_from_camera = (torch.from_numpy(record[name]).float() for name in ("intrinsic", "c2w"))
        camera = Camera(intrinsics, world_from_camera, SIDE, SIDE).scaled(size / SIDE)
    except ValueError as error:
        raise _bad(folder / _RECORDS, "image_datas", "c2w, intrinsic", "pinhole cameras", str(error).rstrip(".")) from error
    block: dict[str, Any] = {
        "mesh": read_obj(_present(folder, f"{_ASSETS}/cube_t.obj"))[0],
        "pieces": read_obj(_present(folder, f"{_ASSETS}/obj_vhacd_original.obj")),
        "surfels": _read_surfels(_present(folder, _SURFELS), record["poses"][0]),
        "mass": _read_mass(_present(folder, f"{_ASSETS}/cube_t_mesh.urdf")),
    }
    images = np.empty((len(record["files"]), size, size, 4), np.float32)
    for frame, name in enumerate(record["files"]):
        images[frame] = _picture(_present(folder, f"{Path(_RECORDS).parent}/{name}"), size, background)
    return PushTImages(
        times=torch.from_numpy(record["times"]),
        images=torch.from_numpy(images[..., :3].copy()),
        masks=torch.from_numpy(images[..., 3].copy()),
        camera=camera,
        poses=torch.from_numpy(record["poses"]),
        pusher_start=torch.from_numpy(record["ee_init_position"]),
        pusher_goal=torch.from_numpy(record["ee_goal_position"]),
        **block,
    )


def _read_records(file: Path) -> dict[str, Any]:
    """Arrays of the json by name, in the order of time, and the images' files."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(file, "every record", "the whole file", "a complete JSON file", type(error).__name__) from error
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in _KEYS):
        raise _bad(file, "every record", "keys", f"lists {', '.join(_KEYS)}", ", ".join(content) if isinstance(content, dict) else type(content).__name__)
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for number, entry in enumerate(content["image_datas"]):
        name = str(entry.get("file_path")) if isinstance(entry, dict) else repr(entry)[:80]
        if not (match := _IMAGE.fullmatch(name)):
            raise _bad(file, f"image {number}", "file_path", "dynamic_data_train/train0/r_0_FRAME.png", repr(name))
        if (frame := int(match["frame"])) >= 0:
            found[frame] = (name.replace("/r_", "/m_"), entry)
    count = len(content["pose_datas"])
    if not count or sorted(found) != list(range(count)):
        raise _bad(file, "every record", "image_datas", f"an image for each of {count or 'one or more'} poses", f"{len(found)} frames from 0 on")
    entries = [found[frame][1] for frame in range(count)]
    arrays: dict[str, Any] = {"files": [found[frame][0] for frame in range(count)]}
    for name, shape in (("c2w", (3, 4)), ("intrinsic", (3, 3)), ("time", ())):
        arrays[name] = np.stack([_numbers(file, f"image {frame}", name, entry.get(name), shape) for frame, entry in enumerate(entries)])
    for name in _KEYS[:2]:
        arrays[name] = _numbers(file, "every record", name, content[name], (2,))
    poses = np.stack([_numbers(file, f"pose {frame}", "pose_datas", pose, (7,)) for frame, pose in enumerate(content["pose_datas"])])
    times, length = arrays.pop("time"), np.linalg.norm(poses[:, 3:], axis=1)
    if (np.abs(times - np.arange(count) / FRAME_RATE) > 1e-6).any():
        raise _bad(file, "image_datas", "time", f"frames {FRAME_RATE:.0f} a second from 0 s on", f"{times[:3].tolist()} and so on")
    if (np.abs(length - 1) > _NORM_TOLERANCE).any():
        frame = int(np.argmax(np.abs(length - 1)))
        raise _bad(file, f"pose {frame}", "pose_datas", f"a quaternion of a length within {_NORM_TOLERANCE} of 1", f"{length[frame]:.6g}")
    matrices = np.tile(np.eye(4), (count, 1, 1))
    matrices[:, :3] = arrays["c2w"] * (1, -1, -1, 1)  # the columns y and z: from OpenGL's axes to OpenCV's
    quaternions = poses[:, [6, 3, 4, 5]] / length[:, None]
    return arrays | {"c2w": matrices, "times": times, "poses": np.concatenate([poses[:, :3], quaternions], axis=1)}


def _numbers(file: Path, record: str, field: str, given: Any, shape: tuple[int, ...]) -> Array:
    try:
        values = np.array(given)
        fits = values.shape == shape and values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
    except ValueError:  # rows of different lengths
        fits = False
    if not fits:
        raise _bad(file, record, field, f"finite numbers {shape}" if shape else "a finite number", repr(given)[:80])
    return values.astype(np.float64)


def _picture(file: Path, size: int, background: float | None) -> Array:
    """Red, green, blue and mask (size, size, 4), float32."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError("expected Pillow for reading images, but it is not installed; run `pip install pillow`.") from error
    try:
        with Image.open(file) as picture:
            if picture.size != (SIDE, SIDE) or picture.mode != "RGBA":
                got = f"{picture.mode}, {picture.size[0]} x {picture.size[1]} px"
                raise _bad(file, "every record", "size", f"RGBA, {SIDE} x {SIDE} px", got)
            values = np.asarray(picture).astype(np.float32) / 255
    except BadData:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise _bad(file, "every record", "pixels", "a complete PNG file", type(error).__name__) from error
    if background is not None:
        values[..., :3] = values[..., :3] * values[..., 3:] + np.float32(background) * (1 - values[..., 3:])
    step = SIDE // size
    averaged: Array = values.reshape(size, step, size, step, 4).mean(axis=(1, 3))
    return averaged


def _read_surfels(file: Path, first_pose: Array) -> Splats:
    """2-D Gaussians as splats in the block's frame, from the world of the first pose."""
    import torch

    from structwm.geometry.rotations import quaternion_to_matrix
    from structwm.geometry.splat_motion import place_splats
    from structwm.state import Splats

    table = table_of(read_ply(file), "vertex", file)
    if "scale_2" in (table.dtype.names or ()):
        raise _bad(file, "the header", "scale_2", "2-D Gaussians, which have two scales", "three scales")
    thick = np.empty(len(table), [*table.dtype.descr, ("scale_2", "<f4")])
    for name in table.dtype.names or ():
        thick[name] = table[name]
    thick["scale_2"] = math.log(THICKNESS)
    surfels = Splats(**{name: torch.from_numpy(values) for name, values in decode_ply(thick, file).items()}, batch_size=[])  # type: ignore[arg-type]
    block_from_world = quaternion_to_matrix(torch.from_numpy(first_pose[3:])).T
    place = -block_from_world @ torch.from_numpy(first_pose[:3])
    return place_splats(surfels, block_from_world.float(), place.float())


def _read_mass(file: Path) -> float:
    try:
        entry = ElementTree.fromstring(file.read_bytes()).find("./link/inertial/mass")
        mass = float(entry.get("value", "nan")) if entry is not None else math.nan
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise _bad(file, "the link", "mass", "a complete URDF file", type(error).__name__) from error
    if not 0 < mass < math.inf:
        raise _bad(file, "the link", "mass", "a finite mass above 0 kg", f"{mass}")
    return mass


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise DataUnavailable(f"expected {name} of pinwm_push_t in {folder}, found none; run `structwm fetch pinwm_push_t` or give its folder.")
    return folder / name


def _bad(file: Path, record: str, field: str, expected: str, got: str) -> BadData:
    advice = "fetch it again with `structwm fetch pinwm_push_t`"
    return BadData.at(file=file, record=record, field=field, expected=expected, got=got, advice=advice)
