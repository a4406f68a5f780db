"""What sensors say of a trajectory, beside its coordinates: poses, points, images. A measurement compares itself with a predicted trajectory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from structwm.geometry import knn, quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector
from structwm.geometry.camera import Camera
from structwm.scene import Scene
from structwm.transition import Trajectory


class Measurement(ABC):
    """Measurements of N trajectories at their instants 1 to H; what was not measured is NaN. A dataclass, of which the first field holds them (N, H+1, ...)."""

    @property
    @abstractmethod
    def scales(self) -> Mapping[str, float]:
        """By the name of each kind of number it gives: the size of an error that matters, in its unit."""

    @abstractmethod
    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Predicted minus measured, by name: (N, H, C), or (N, E, H, C) for a trajectory with members; NaN where nothing was measured."""

    @property
    def measured(self) -> Tensor:
        """What was measured (N, H+1, ...): the first field."""
        found: Tensor = getattr(self, fields(self)[0].name)  # type: ignore[arg-type]
        return found

    def _with(self, measured: Tensor) -> Self:
        return replace(self, **{fields(self)[0].name: measured})  # type: ignore[arg-type, type-var]

    def __getitem__(self, index: Any) -> Self:
        """Some of the trajectories."""
        return self._with(self.measured[index])

    def windows(self, starts: Sequence[int], length: int) -> Self:
        """Pieces of `length` steps of the trajectories, those from the first start before those from the second."""
        return self._with(torch.cat([self.measured[:, start : start + length + 1] for start in starts]))

    def since(self, frame: int) -> Self:
        """The same trajectories, of which nothing before an instant is compared: what `Recording.until` leaves, and still predicted from the start.

        Args:
            frame: the first instant that counts, from 0 to H.

        Raises:
            ValueError: if there is no such instant, or nothing was measured from it on.
        """
        if not 0 <= frame <= self.size()[1]:
            raise ValueError(f"{type(self).__name__}.since needs an instant from 0 to {self.size()[1]}, got {frame}.")
        measured = self.measured.clone()
        measured[:, :frame] = math.nan
        return self._with(measured)

    def size(self) -> tuple[int, int]:
        """N and H."""
        return self.measured.shape[0], self.measured.shape[1] - 1

    def needs(self) -> frozenset[str]:
        """The views it reads."""
        return frozenset()

    def check(self, scene: Scene) -> None:
        """Refuse a scene that does not offer what it reads.

        Raises:
            ValueError: names the view, or the body.
        """
        missing = sorted(self.needs() - scene.views)
        if missing:
            raise ValueError(f"{type(self).__name__} needs the view {missing[0]!r}, which the model does not offer; it has {', '.join(sorted(scene.views))}.")

    @property
    def weight(self) -> int:
        """How many times as much memory an instant takes as one of coordinates."""
        return 1

    def magnitude(self, residual: Tensor) -> Tensor:
        """One error an instant, (...): the length of the residual (..., C)."""
        return residual.square().sum(-1).sqrt()


def chosen_points(points: Tensor, numbers: Sequence[int] | None, corners: Tensor | None, weights: Tensor | None) -> Tensor:
    """Some of points (..., M, 3) by their numbers, or weighted means of several, as on the triangles of a surface: (..., P, 3), corners int64 (P, K), weights
    (P, K).

    Raises:
        ValueError: if one is no point.
    """
    most = max(numbers, default=-1) if numbers is not None else int(corners.max()) if corners is not None else -1
    if most >= points.shape[-2]:
        raise ValueError(f"A measurement names point {most} of a model that has {points.shape[-2]}.")
    if corners is None or weights is None:
        return points if numbers is None else points[..., list(numbers), :]
    weights = weights.to(points)
    corners = corners.to(points.device)
    return torch.stack([weights[:, k, None] * points[..., corners[:, k], :] for k in range(corners.shape[1])]).sum(0)


def _beside(measured: Tensor, members: bool) -> Tensor:
    """Measured (N, ...) beside predictions (N, E, ...)."""
    return measured.unsqueeze(1) if members else measured


@dataclass(frozen=True)
class PoseMeasurement(Measurement):
    """Poses of bodies: position error [m] and rotation vector [rad] of what turns the measured pose into the predicted, world frame."""

    poses: Tensor  # (N, H+1, K, 7) position [m], quaternion wxyz; the entry at 0 is not used
    bodies: tuple[str, ...]  # K names of the scene's bodies
    position_scale: float = 0.005  # [m]
    rotation_scale: float = 0.05  # [rad]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bodies", tuple(self.bodies))
        twice = sorted({body for body in self.bodies if self.bodies.count(body) > 1})
        if twice:
            raise ValueError(f"PoseMeasurement needs each body once, got {twice[0]!r} twice.")
        if self.poses.ndim != 4 or self.poses.shape[-2:] != (len(self.bodies), 7):
            raise ValueError(f"PoseMeasurement needs poses (N, H+1, {len(self.bodies)}, 7), got {tuple(self.poses.shape)}.")
        if not bool(self.poses[:, 1:].isfinite().any()):
            raise ValueError("PoseMeasurement holds no finite pose after the start.")
        length = self.poses[..., 3:].norm(dim=-1)
        off = (length.nan_to_num(1.0) - 1).abs().max()
        if float(off) > 0.01:
            raise ValueError(f"PoseMeasurement needs unit quaternions wxyz, got a length {float(off):.3g} off 1; are poses given as position, then quaternion?")

    @property
    def scales(self) -> Mapping[str, float]:
        kinds = (("position", self.position_scale), ("rotation", self.rotation_scale))
        return {f"{body}.{kind}": scale for body in self.bodies for kind, scale in kinds}

    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        self.check(trajectory.scene)
        members = len(trajectory.batch_shape) > 1
        names = trajectory.scene.body_names
        predicted = trajectory.poses()[..., 1:, :, :]
        found = {}
        for k, body in enumerate(self.bodies):
            pose = predicted[..., names.index(body), :]
            measured = _beside(self.poses[:, 1:, k], members).to(pose)
            known = measured.isfinite().all(-1, keepdim=True)
            measured = torch.where(known, measured, measured.new_tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))  # NaN would spoil gradients
            turn = quaternion_multiply(pose[..., 3:], quaternion_conjugate(measured[..., 3:].expand_as(pose[..., 3:])))
            found[f"{body}.position"] = torch.where(known, pose[..., :3] - measured[..., :3], math.nan)
            found[f"{body}.rotation"] = torch.where(known, quaternion_to_rotation_vector(turn), math.nan)
        return found

    def check(self, scene: Scene) -> None:
        super().check(scene)
        unknown = [body for body in self.bodies if body not in scene.body_names]
        if unknown:
            raise ValueError(f"The recording measured poses of {unknown[0]!r}, which is no body of this model; it has {', '.join(scene.body_names)}.")

    def needs(self) -> frozenset[str]:
        return frozenset({"poses"})


@dataclass(frozen=True)
class TrackMeasurement(Measurement):
    """Points followed one by one, compared with the scene's points of the same places in the list, or with means of several of these [m]."""

    positions: Tensor  # (N, H+1, P, 3) world frame [m], NaN where one was not seen; the entry at 0 is not used
    points: tuple[int, ...] | None = None  # which P of the scene's points; None: all
    scale: float = 0.005  # [m]
    corners: Tensor | None = None  # int64 (P, K) instead of `points`: the scene's points of which each is a weighted mean, as on a triangle
    weights: Tensor | None = None  # (P, K) of the corners

    def __post_init__(self) -> None:
        if self.points is not None:
            object.__setattr__(self, "points", tuple(int(k) for k in self.points))
        if (self.corners is None) != (self.weights is None) or (self.corners is not None and self.points is not None):
            raise ValueError("TrackMeasurement takes points, or corners with their weights.")
        if self.corners is not None and (self.corners.ndim != 2 or self.weights is None or self.weights.shape != self.corners.shape):
            raise ValueError(f"TrackMeasurement needs corners and weights (P, K), got {tuple(self.corners.shape)}.")
        given = self.points if self.corners is None else self.corners
        if self.positions.ndim != 4 or self.positions.shape[-1] != 3 or (given is not None and len(given) != self.positions.shape[2]):
            count = "P" if given is None else len(given)
            raise ValueError(f"TrackMeasurement needs positions (N, H+1, {count}, 3), got {tuple(self.positions.shape)}.")
        if not bool(self.positions[:, 1:].isfinite().any()):
            raise ValueError("TrackMeasurement holds no finite position after the start.")
        if not self.scale > 0:
            raise ValueError(f"TrackMeasurement needs a scale above zero, got {self.scale}.")

    @property
    def scales(self) -> Mapping[str, float]:
        return {"tracks": self.scale}

    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        self.check(trajectory.scene)
        members = len(trajectory.batch_shape) > 1
        predicted = trajectory.points().positions[..., 1:, :, :]
        predicted = chosen_points(predicted, self.points, self.corners, self.weights)
        measured = _beside(self.positions[:, 1:], members).to(predicted)
        if measured.shape[-2] != predicted.shape[-2]:
            raise ValueError(f"TrackMeasurement measured {measured.shape[-2]} points of a model that has {predicted.shape[-2]}; say which in points=.")
        known = measured.isfinite().all(-1, keepdim=True)
        return {"tracks": torch.where(known, predicted - torch.where(known, measured, 0.0), math.nan).flatten(-2)}

    def magnitude(self, residual: Tensor) -> Tensor:
        """Mean distance of the points that were seen."""
        return residual.unflatten(-1, (-1, 3)).square().sum(-1).sqrt().nanmean(-1)

    def needs(self) -> frozenset[str]:
        return frozenset({"points"})

    @property
    def weight(self) -> int:
        return max(1, self.positions.shape[2] // 4)


@dataclass(frozen=True)
class PointMeasurement(Measurement):
    """Point clouds without correspondence, compared with the points view: each point with the nearest of the other cloud, as for the chamfer distance.

    Distances themselves are least at the truth and know no side, so that nothing could be said of how sure a fit is. Taken are, of each body, the mean way from
    measured points p to predicted ones q and the mean moment about the body's middle c, in metres as well: sum (q - p) / P and sum (q - c) x (q - p) / (P r),
    where r is the body's mean radius (Besl and McKay, 1992). P counts the points of all bodies, so that a body of which few are seen counts little.
    """

    points: Tensor  # (N, H+1, P, 3) world frame [m], NaN where there is none
    scale: float = 0.005  # [m]
    direction: Literal["both", "a_to_b", "b_to_a"] = "b_to_a"  # a: predicted, b: measured; a partial view says nothing of what it does not see

    def __post_init__(self) -> None:
        if self.points.ndim != 4 or self.points.shape[-1] != 3:
            raise ValueError(f"PointMeasurement needs points (N, H+1, P, 3), got {tuple(self.points.shape)}.")
        if not bool(self.points[:, 1:].isfinite().all(-1).any()):
            raise ValueError("PointMeasurement holds no finite point after the start.")
        if self.direction not in ("both", "a_to_b", "b_to_a"):
            raise ValueError(f"PointMeasurement.direction is both, a_to_b or b_to_a, got {self.direction!r}.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"PointMeasurement.scale must be above zero [m], got {self.scale}.")

    @property
    def scales(self) -> Mapping[str, float]:
        return {"points": self.scale}

    @property
    def weight(self) -> int:
        return max(1, self.points.shape[2])

    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        self.check(trajectory.scene)
        members = len(trajectory.batch_shape) > 1
        view = trajectory.points()
        predicted = view.positions[..., 1:, :, :]  # (..., H, M, 3)
        measured = _beside(self.points[:, 1:], members).to(predicted).expand(*predicted.shape[:-2], -1, -1)
        there = measured.isfinite().all(-1)
        seen, sane = there.any(-1), predicted.isfinite().flatten(-2).all(-1)
        measured = torch.where(there.unsqueeze(-1), measured, 0.0)
        there = torch.where(seen.unsqueeze(-1), there, True)  # an instant without points is computed and thrown away
        predicted = torch.where(sane[..., None, None], predicted, 0.0)
        shown = torch.ones_like(predicted[..., 0], dtype=torch.bool) if view.mask is None else view.mask[..., 1:, :].expand(predicted.shape[:-1])
        ids = torch.zeros_like(predicted[..., 0], dtype=torch.long) if view.ids is None else view.ids[..., 1:, :].expand(predicted.shape[:-1]).long()
        bodies = functional.one_hot(ids, int(ids.max()) + 1).to(predicted) * shown.unsqueeze(-1)  # (..., H, M, K)
        count = bodies.sum(-2).clamp_min(1.0).unsqueeze(-1)
        middle = bodies.mT @ predicted / count
        arm = predicted - bodies @ middle
        radius = ((bodies.mT @ arm.norm(dim=-1, keepdim=True)) / count).clamp_min(1e-6)  # (..., H, K, 1)
        found = []
        if self.direction != "a_to_b":
            nearest = knn(measured.detach(), predicted.detach(), 1, query_mask=there, point_mask=shown).indices.clamp_min(0)
            way = _rows(predicted, nearest) - measured
            found.append(_moments(way, _rows(arm, nearest), _rows(bodies, nearest) * there.unsqueeze(-1), radius))
        if self.direction != "b_to_a":
            nearest = knn(predicted.detach(), measured.detach(), 1, query_mask=shown, point_mask=there).indices.clamp_min(0)
            found.append(_moments(predicted - _rows(measured, nearest), arm, bodies, radius))
        residual = torch.stack(found).mean(0).flatten(-2)
        return {"points": torch.where((seen & sane).unsqueeze(-1), residual, math.nan)}

    def needs(self) -> frozenset[str]:
        return frozenset({"points"})


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (..., P, C) of values (..., M, C) by their numbers (..., P, 1)."""
    return values.gather(-2, index.expand(*index.shape[:-1], values.shape[-1]))


def _moments(way: Tensor, arm: Tensor, owner: Tensor, radius: Tensor) -> Tensor:
    """Means over points of ways (..., P, 3) and of their moments at arms (..., P, 3), by the body that owns a point (..., P, K): (..., K, 6)."""
    share = (owner / owner.sum((-2, -1), keepdim=True).clamp_min(1.0)).mT
    return torch.cat((share @ way, share @ torch.linalg.cross(arm, way) / radius), -1)


@dataclass(frozen=True)
class ImageMeasurement(Measurement):
    """Masks or pictures of V cameras that stand still: the splats view is rendered, and compared in tiles of pixels.

    Rows of one tile are averaged before they are compared, so that an edge between two pixels has a slope, and so that the numbers are few.
    """

    images: Tensor  # masks (N, H+1, V, h, w) in [0, 1], or pictures (N, H+1, V, h, w, 3); NaN where there is none
    camera: Camera  # batch size (V,), h x w pixels
    tile: int = 4  # pixels a side
    scale: float = 0.1  # of a tile's mean
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)  # behind the splats of pictures
    backend: Any = "warp"  # of `structwm.render.render`
    antialiased: bool = True  # splats are drawn as wide as they are; without it, as splats are fitted by default, a mask grows by a pixel on each side

    def __post_init__(self) -> None:
        expected = (self.camera.height, self.camera.width)
        shape = tuple(self.images.shape)
        if len(shape) not in (5, 6) or shape[3:5] != expected or shape[2:3] != tuple(self.camera.batch_size) or shape[5:] not in ((), (3,)):
            raise ValueError(
                f"ImageMeasurement needs masks (N, H+1, V, {expected[0]}, {expected[1]}) or pictures (..., 3) of {tuple(self.camera.batch_size)} cameras, "
                f"got {shape}."
            )
        if expected[0] % self.tile or expected[1] % self.tile:
            raise ValueError(f"ImageMeasurement needs a tile that divides {expected[1]} x {expected[0]} pixels, got {self.tile}.")
        if not bool(self.images[:, 1:].isfinite().any()):
            raise ValueError("ImageMeasurement holds no image after the start.")

    @property
    def name(self) -> str:
        """`masks` or `pictures`."""
        return "masks" if self.images.ndim == 5 else "pictures"

    @property
    def scales(self) -> Mapping[str, float]:
        return {self.name: self.scale}

    @property
    def weight(self) -> int:
        seen = self.images[:, 1:].flatten(2).isfinite().all(-1)
        return max(1, round(float(seen.double().mean()) * self.camera.batch_size[0] * 400))  # a world's splats, and its pixels

    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        from structwm.render import render

        members = len(trajectory.batch_shape) > 1
        measured = self.images[:, 1:]
        instants = measured.flatten(2).isfinite().all(-1).any(0).nonzero().flatten()  # seen of any trajectory
        states = trajectory.states[..., instants + 1]
        splats = trajectory.scene.splats(states).float().reshape(-1)
        drawn = render(splats, self.camera[None], background=self.background, backend=self.backend, antialiased=self.antialiased)
        picture = (drawn.alpha if self.name == "masks" else drawn.image).unflatten(0, tuple(states.batch_size))
        difference = picture - _beside(measured[:, instants], members).to(picture)
        tiles = _tiles(difference, self.tile, colored=self.name == "pictures").flatten(len(states.batch_size))
        full = tiles.new_full((*trajectory.batch_shape, measured.shape[1], tiles.shape[-1]), math.nan)
        full[..., instants, :] = tiles
        return {self.name: full}

    def magnitude(self, residual: Tensor) -> Tensor:
        """Root mean square over tiles."""
        return residual.square().mean(-1).sqrt()

    def needs(self) -> frozenset[str]:
        return frozenset({"splats"})


def _tiles(image: Tensor, tile: int, *, colored: bool) -> Tensor:
    """Means over tiles (..., C) of images (..., h, w) or (..., h, w, 3), NaN where a pixel is."""
    start = image.ndim - (3 if colored else 2)
    h, w = image.shape[start : start + 2]
    split = image.reshape(*image.shape[:start], h // tile, tile, w // tile, tile, *image.shape[start + 2 :])
    return split.mean((start + 1, start + 3)).flatten(start)


def check_measurements(measurements: Sequence[Measurement], count: int, horizon: int, *, taken: frozenset[str] = frozenset()) -> None:
    """Refuse measurements of another size, or two that use one name, or one that is taken by a coordinate.

    Raises:
        ValueError: names both sizes.
    """
    names: set[str] = set()
    for measurement in measurements:
        if measurement.size() != (count, horizon):
            raise ValueError(f"{type(measurement).__name__} is of {measurement.size()} trajectories and steps; the recording has {(count, horizon)}.")
        twice = names & set(measurement.scales)
        if twice:
            raise ValueError(f"Two measurements are called {sorted(twice)[0]!r}; join them into one.")
        if taken & set(measurement.scales):
            raise ValueError(f"A measurement and an observed coordinate are both called {sorted(taken & set(measurement.scales))[0]!r}; leave one out.")
        names |= set(measurement.scales)
