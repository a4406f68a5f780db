"""Pinhole cameras: batches of intrinsics and poses, and what they do to points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.rotations import check_rotations, invert_motion, motion_matrix


@dataclass(frozen=True, eq=False)
class Camera:
    """Pinhole cameras of one image size, batched over any leading axes `*V`.

    Camera axes are x to the right, y down, z forward (OpenCV). A point (x, y, z) of the camera frame is seen at `(fx x / z + cx, fy y / z + cy)` [px], where
    the centre of the upper left pixel is (0.5, 0.5). The pose may carry gradients.

    Raises:
        ValueError: in one sentence, if shapes, sizes or numbers are not those of pinhole cameras.
    """

    intrinsics: Tensor  # (*V, 3, 3) [px]: fx 0 cx, 0 fy cy, 0 0 1
    world_from_camera: Tensor  # (*V, 4, 4) rigid [m]
    width: int  # [px]
    height: int  # [px]
    distortion: Sequence[float] | Tensor | None = None  # only to refuse coefficients that are not zero

    def __post_init__(self) -> None:
        for name, side in (("intrinsics", 3), ("world_from_camera", 4)):
            value = torch.as_tensor(getattr(self, name))
            if not value.is_floating_point():
                value = value.to(torch.get_default_dtype())
            if value.shape[-2:] != (side, side):
                raise ValueError(f"camera {name}: expected (*V, {side}, {side}), got {tuple(value.shape)}.")
            object.__setattr__(self, name, value)
        if self.intrinsics.dtype != self.world_from_camera.dtype or self.intrinsics.device != self.world_from_camera.device:
            raise ValueError(
                f"camera: expected intrinsics and pose of one type on one device, got {self.intrinsics.dtype} on {self.intrinsics.device} and "
                f"{self.world_from_camera.dtype} on {self.world_from_camera.device}."
            )
        try:
            torch.broadcast_shapes(self.intrinsics.shape[:-2], self.world_from_camera.shape[:-2])
        except RuntimeError:
            raise ValueError(
                f"camera: expected batch axes that go together, got {tuple(self.intrinsics.shape)} and {tuple(self.world_from_camera.shape)}."
            ) from None
        if isinstance(self.width, float) or isinstance(self.height, float):
            raise ValueError(f"camera size: expected whole pixels, got {self.width} x {self.height}.")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera size: expected at least 1 x 1 px, got {self.width} x {self.height}.")
        if not torch.compiler.is_compiling():
            self._check_numbers()

    def _check_numbers(self) -> None:
        k, pose = self.intrinsics.detach(), self.world_from_camera.detach()
        if not bool(k.isfinite().all() and pose.isfinite().all()):
            raise ValueError("camera: expected finite intrinsics and pose, got NaN or infinity.")
        if self.distortion is not None and bool((torch.as_tensor(self.distortion) != 0).any()):
            raise ValueError("camera distortion: expected a pinhole camera without distortion, got coefficients that are not zero; undistort the images first.")
        rest = torch.stack((k[..., 0, 1], k[..., 1, 0], k[..., 2, 0], k[..., 2, 1], k[..., 2, 2] - 1), -1)
        if bool((k[..., 0, 0] <= 0).any() or (k[..., 1, 1] <= 0).any() or (rest.abs() > 1e-6).any()):
            raise ValueError("camera intrinsics: expected rows (fx, 0, cx), (0, fy, cy), (0, 0, 1) with fx and fy above 0, without skew.")
        check_rotations("camera world_from_camera", pose[..., :3, :3])
        if bool((pose[..., 3, :] != pose.new_tensor([0.0, 0.0, 0.0, 1.0])).any()):
            raise ValueError("camera world_from_camera: expected 0, 0, 0, 1 in the last row; transpose a matrix that is meant for row vectors.")

    @property
    def batch_size(self) -> torch.Size:
        """The leading axes `*V`."""
        return torch.broadcast_shapes(self.intrinsics.shape[:-2], self.world_from_camera.shape[:-2])

    def __getitem__(self, index: Any) -> Camera:
        """Some of the cameras, indexed over `*V`."""
        batch = self.batch_size
        if not batch:
            raise IndexError("this camera is one and has no batch axes to index.")
        intrinsics, pose = self.intrinsics.expand(*batch, 3, 3), self.world_from_camera.expand(*batch, 4, 4)
        return Camera(intrinsics[index], pose[index], self.width, self.height)

    def __len__(self) -> int:
        """Cameras along the first batch axis."""
        if not self.batch_size:
            raise TypeError("this camera is one and has no batch axes to count.")
        return self.batch_size[0]

    @property
    def camera_from_world(self) -> Tensor:
        """(*V, 4, 4), the inverse of the pose."""
        return invert_motion(self.world_from_camera).expand(*self.batch_size, 4, 4)

    @property
    def pinholes(self) -> Tensor:
        """(*V, 4) focal lengths and principal points fx, fy, cx, cy [px]; the inverse of `pinhole_matrix`."""
        k = self.intrinsics.expand(*self.batch_size, 3, 3)
        return torch.stack((k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]), -1)

    @property
    def positions(self) -> Tensor:
        """(*V, 3) optical centres in the world [m]."""
        return self.world_from_camera[..., :3, 3].expand(*self.batch_size, 3)

    def to(self, *target: Any) -> Camera:
        """The same cameras on another device or in another type, as `Tensor.to`."""
        return Camera(self.intrinsics.to(*target), self.world_from_camera.to(*target), self.width, self.height)

    def moved(self, world_from_new_world: Tensor) -> Camera:
        """Cameras that see the world as it would look after a rigid motion of the cameras: `world_from_new_world` (*V, 4, 4) times the pose."""
        return Camera(self.intrinsics, world_from_new_world @ self.world_from_camera, self.width, self.height)

    def scaled(self, factor: float) -> Camera:
        """The same view in images `factor` times as large, rounded to whole pixels."""
        width, height = max(1, round(self.width * factor)), max(1, round(self.height * factor))
        ratio = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return Camera(self.intrinsics * ratio.unsqueeze(-1), self.world_from_camera, width, height)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points (*V, N, 3) [m] to pixels (*V, N, 2) and depths along the optical axis (*V, N) [m]; behind the camera the pixels mean nothing."""
        pose = self.camera_from_world
        inside = points @ pose[..., :3, :3].mT + pose[..., None, :3, 3]
        flat = inside @ self.intrinsics.mT
        return flat[..., :2] / flat[..., 2:], inside[..., 2]

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins (*V, 3) and unit directions (*V, height, width, 3) in the world of the rays through the pixels' centres."""
        k = self.intrinsics
        x = torch.arange(self.width, device=k.device, dtype=k.dtype) + 0.5
        y = torch.arange(self.height, device=k.device, dtype=k.dtype) + 0.5
        across = ((x - k[..., 0, 2, None]) / k[..., 0, 0, None]).unsqueeze(-2).expand(*k.shape[:-2], self.height, self.width)
        down = ((y - k[..., 1, 2, None]) / k[..., 1, 1, None]).unsqueeze(-1).expand(*k.shape[:-2], self.height, self.width)
        inside = torch.nn.functional.normalize(torch.stack((across, down, torch.ones_like(down)), -1), dim=-1)
        return self.positions, inside @ self.world_from_camera[..., None, :3, :3].mT

    @classmethod
    def look_at(
        cls,
        eye: Sequence[float] | Tensor,
        target: Sequence[float] | Tensor,
        *,
        width: int,
        height: int,
        field_of_view: float = math.radians(50.0),
        up: Sequence[float] | Tensor = (0.0, 0.0, 1.0),
    ) -> Camera:
        """Cameras at `eye` (*V, 3) that look at `target` (*V, 3).

        Args:
            eye: optical centres [m].
            target: what is seen in the middle of the image [m].
            width: [px].
            height: [px].
            field_of_view: the vertical one [rad].
            up: direction that is up in the image.

        Raises:
            ValueError: if `eye` is `target`, or the view is along `up`.
        """
        given = [value for value in (eye, target, up) if isinstance(value, Tensor) and value.is_floating_point()]
        like = given[0] if given else torch.empty(())
        eye, target, up = (torch.as_tensor(value).to(like) for value in (eye, target, up))
        if not 0 < field_of_view < math.pi:
            raise ValueError(f"camera look_at: expected a field of view between 0 and pi [rad], got {field_of_view}.")
        forward = target - eye
        right = torch.linalg.cross(*torch.broadcast_tensors(forward, up))
        if not torch.compiler.is_compiling() and bool((right.norm(dim=-1) <= 1e-9 * forward.norm(dim=-1)).any()):
            raise ValueError("camera look_at: expected a target away from the eye and a view that is not along `up`.")
        z, x = forward / forward.norm(dim=-1, keepdim=True), right / right.norm(dim=-1, keepdim=True)
        x, z, place = torch.broadcast_tensors(x, z, eye)
        pose = motion_matrix(torch.stack((x, torch.linalg.cross(z, x), z), -1), place)
        focal = 0.5 * height / math.tan(0.5 * field_of_view)
        intrinsics = pose.new_tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return cls(intrinsics, pose, width, height)


def pinhole_matrix(pinholes: Tensor) -> Tensor:
    """Intrinsics (*V, 3, 3) of focal lengths and principal points (*V, 4) fx, fy, cx, cy [px]."""
    fx, fy, cx, cy = pinholes.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack((fx, zero, cx, zero, fy, cy, zero, zero, one), -1).unflatten(-1, (3, 3))
