"""One object fitted to what one frame shows of it, from where it is expected."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud
from structwm.geometry.mesh_sampling import thin_points
from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import matrix_to_quaternion, quaternion_rotate, quaternion_to_matrix, to_world

from .bounds import some
from .free_space import DepthEvidence
from .object_split import DARK, shading_free
from .rigid_fit import ACROSS, normal_equations, robust_weights, solve_motion

MOST = 1500  # measured points of an object that are used
ITERATIONS = 15
ALIKE = 0.08  # difference of normalised colours within which a measured point may be the object's


@dataclass(frozen=True, eq=False)
class FollowedObject:
    """Material points of an object in its own frame.

    Raises:
        ValueError: in one sentence, on fewer than four points, numbers that are not finite, or shapes that do not fit.
    """

    points: Tensor  # (N, 3) [m]
    normals: Tensor | None = None  # (N, 3) outwards; without them points that are turned away are only told by depth
    colors: Tensor | None = None  # (N, 3) in [0, 1]; what is of no colour of the object is not taken for it
    deformable: bool = False
    reach: float = field(init=False)  # how far a place on the surface is from the nearest point, about [m]

    def __post_init__(self) -> None:
        for name in ("points", "normals", "colors"):
            value = getattr(self, name)
            if value is not None and (value.shape != self.points.shape or value.ndim != 2 or value.shape[1] != 3 or not bool(value.isfinite().all())):
                raise ValueError(f"followed object {name}: expected finite (N, 3), as many as points, got {tuple(value.shape)} or NaN.")
        if len(self.points.unique(dim=0)) < 4:
            raise ValueError(f"followed object points: expected at least four distinct ones, got {len(self.points)}.")
        distinct = self.points.unique(dim=0).float().contiguous()
        near = knn(distinct, distinct, 3, exclude_self=True).distances
        object.__setattr__(self, "reach", float(near[:, -1].mean()))

    def distance(self, cloud: PointCloud, places: Tensor) -> Tensor:
        """Distances (Q,) of a cloud from the object's points at places (N, 3) [m]; infinite for points of a colour that the object does not have."""
        if not len(cloud):
            return cloud.positions.new_zeros(0)
        far = knn(cloud.positions.float().contiguous(), places.contiguous(), 1).distances[:, 0]
        if self.colors is None or cloud.colors is None:
            return far
        own = some(self.colors[self.colors.sum(-1) > DARK], 100)
        if not len(own):
            return far
        unlike = torch.cdist(shading_free(cloud.colors.float()), shading_free(own.float())).amin(-1) > ALIKE
        return torch.where(unlike & (cloud.colors.sum(-1) > DARK), torch.inf, far)

    def grown(self, cloud: PointCloud, pose: Tensor) -> FollowedObject:
        """The object with the points of a cloud [m], seen while it is at a pose (7,), after its own."""
        turn = quaternion_to_matrix(pose[3:]).to(self.points)
        normals = None if self.normals is None or cloud.normals is None else torch.cat((self.normals, cloud.normals.to(turn) @ turn))
        colors = None if self.colors is None or cloud.colors is None else torch.cat((self.colors, cloud.colors.to(turn)))
        return FollowedObject(torch.cat((self.points, (cloud.positions.to(turn) - pose[:3].to(turn)) @ turn)), normals, colors, self.deformable)


def new_points(cloud: PointCloud, places: Tensor, spacing: float) -> Tensor:
    """Indices of points of a cloud at least `spacing` [m] from places (N, 3) and from each other."""
    if not len(cloud):
        return torch.zeros(0, dtype=torch.int64)
    far = (knn(cloud.positions.contiguous(), places.to(cloud.positions).contiguous(), 1).distances[:, 0] >= spacing).nonzero()[:, 0]
    return far[thin_points(cloud.positions[far], spacing)] if len(far) else far


def seen_points(evidence: DepthEvidence, places: Tensor, normals: Tensor | None, margin: float) -> Tensor:
    """Which points (N, 3) [m] with normals (N, 3) a camera should see, bool (N,): in view, turned to it, and not behind what it measured by over `margin`."""
    gaps, known = evidence.gaps(places, farthest=True)
    shown = known & (gaps > -margin)
    if normals is not None:
        toward = evidence.camera.positions.to(places).unsqueeze(1) - places
        shown = shown & ((toward * normals).sum(-1) > 0.1 * toward.norm(dim=-1))
    return shown.any(0)


@dataclass(frozen=True, eq=False)
class FrameFit:
    """Fits one object to its part of a cloud, with the whole depth images as evidence of what hides it."""

    thing: FollowedObject
    cloud: PointCloud
    evidence: DepthEvidence
    noise: float
    step: float  # how far the object may be off at the start [m]
    seed: int = 0

    def pose(self, start: Tensor) -> Tensor:
        """The pose (7,) near `start` that fits: visible points of the object near measured ones along its normals, and measured ones near its points."""
        if len(self.cloud) < 4:
            return start
        cloud = some(self.cloud.positions.float(), MOST, self.seed).contiguous()
        points, normals = self.thing.points.float().contiguous(), None if self.thing.normals is None else self.thing.normals.float()
        turn, shift = quaternion_to_matrix(start[3:]), start[:3]
        last = 3 * self.noise + 0.5 * self.thing.reach
        for count in range(ITERATIONS):
            done = min(1.0, count / (ITERATIONS - 5))
            width = math.exp((1 - done) * math.log(max(self.step, last)) + done * math.log(last))
            places = points @ turn.mT + shift
            shown = seen_points(self.evidence, places, None if normals is None else normals @ turn.mT, width)
            if int(shown.sum()) < 4:
                return start
            matrix, vector = self._equations(points, normals, shown, ((cloud - shift) @ turn).contiguous(), width, ACROSS ** min(1.0, 2 * done))
            turned, moved = solve_motion(matrix, vector, torch.eye(6))
            turn, shift = turn @ turned[0], shift + turn @ moved[0]
            if done == 1 and float(moved.norm()) < 1e-5:
                break
        return torch.cat((shift, matrix_to_quaternion(turn)))

    def _equations(self, points: Tensor, normals: Tensor | None, shown: Tensor, seen: Tensor, width: float, across: float) -> tuple[Tensor, Tensor]:
        """Normal equations (1, 6, 6) and (1, 6) of pairs of an object's points (N, 3) with measured ones (Q, 3), in the object's frame, from both sides."""
        own = points[shown].contiguous()
        there = knn(own, seen, 1)
        back = knn(seen, own, 1)
        at = torch.cat((own, own[back.indices[:, 0]]))
        away = at - torch.cat((seen[there.indices[:, 0]], seen))
        slack = torch.cat((torch.zeros(len(own)), torch.full((len(seen),), self.thing.reach)))
        if normals is None:
            flat, along = torch.zeros_like(away), torch.zeros(len(away))
            across = 1.0
        else:
            flat = torch.cat((normals[shown], normals[shown][back.indices[:, 0]]))
            along = (away * flat).sum(-1)
        beside = (away.square().sum(-1) - along.square()).clamp_min(0).sqrt()
        weights = robust_weights((along.square() + (beside - slack).clamp_min(0).square()).sqrt(), width)
        weights = weights * torch.cat((torch.full((len(own),), 1 / len(own)), torch.full((len(seen),), 1 / len(seen))))
        return normal_equations(at[None], away[None], flat[None], weights[None], across)

    def value(self, pose: Tensor) -> float:
        """Larger for better poses: the mean over points that should be visible of how near a measured one is."""
        places = to_world(pose, self.thing.points.float())
        shown = self._shown(places, pose)
        if not len(self.cloud) or not bool(shown.any()):
            return 0.0
        near = knn(places[shown].contiguous(), self.cloud.positions.float().contiguous(), 1).distances[:, 0]
        return float(robust_weights(near, 3 * self.noise + 0.5 * self.thing.reach).mean())

    def _shown(self, places: Tensor, pose: Tensor) -> Tensor:
        normals = None if self.thing.normals is None or self.thing.deformable else quaternion_rotate(pose[3:], self.thing.normals.float())
        return seen_points(self.evidence, places, normals, 3 * self.noise + 0.5 * self.thing.reach)

    def judge(self, places: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Which points at places (N, 3) are visible, bool (N,), and the fitness (): share of those that should be that lie at a measured point; NaN if none."""
        shown = self._shown(places, pose)
        if not bool(shown.any()):
            return shown, torch.tensor(torch.nan)
        if not len(self.cloud):
            return torch.zeros_like(shown), torch.tensor(0.0)
        near = knn(places.contiguous(), self.cloud.positions.float().contiguous(), 1).distances[:, 0]
        on = near < 3 * self.noise + 0.5 * self.thing.reach + self._pixel(places)
        return shown & on, (shown & on).sum() / shown.sum()

    def _pixel(self, places: Tensor) -> float:
        """Distance between measured points of neighbouring pixels at the object [m]."""
        camera = self.evidence.camera
        far = (camera.positions.float() - places.mean(0)).norm(dim=-1)
        return float((far / camera.pinholes[..., :2].amin(-1)).max())
