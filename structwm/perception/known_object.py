"""Where a known object is in a cloud that shows a part of it: all poses that explain the cloud, with their weights.

Many rotations are tried at once, refined by one-sided iterated closest points (`rigid_fit`), and those that come to the same pose are merged. What is left is
weighed by the likelihood of the observed points under a stated noise, and of the free space that cameras saw. An object that looks alike in several poses has
several modes: a cube 24, a box of three different sides 4, one of sides 2:1:1 eight, and a plain cylinder a continuum, which is given as poses about one
tolerance apart with `undetermined` saying that they belong together.

The log likelihood of a pose depends a little on where on its surface the object's points happen to lie, which differs from one symmetric pose to the next. Its
variance v is measured with halves of the points. Differences from the best below 3 sqrt(2 v), three standard deviations of a difference, are no evidence: such
poses weigh the same, and only what goes beyond counts against a pose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from structwm.interfaces import Belief
from structwm.state import State

from .bounds import some
from .free_space import DepthEvidence
from .rigid_fit import Surface, fit_rigid, normal_equations, residuals

COARSE = 120  # observed points of the first round
SEEN = 400  # observed points of the second round and of the likelihood
NEAR = 4  # surface elements of which the nearest to an observed point is among, edges included
POLISHED = 3000  # observed points, at most, that the poses which are left are fitted to
KEPT = 64  # poses that go on to the second round, at most
NEARLY = 20.0  # log likelihood below the best of poses that may be as likely, but for where the object's points happen to lie
SPLITS = 4  # of the object's points into halves
DOUBT = 3.0  # standard deviations of a difference of log likelihoods, due to the places of the object's points, that are not believed
DROPPED = 9.0  # log weight below the best with which a mode is left out


class ObjectPose(State):
    """The pose of one rigid object."""

    pose: Tensor  # (*B, 7) world_from_object: position [m], quaternion wxyz


@dataclass(frozen=True, eq=False)
class ObjectRegistration:
    """Where an object is, the most likely pose first."""

    world_from_object: Tensor  # (7,) the most likely pose: position [m], quaternion wxyz
    confidence: float  # weight of that pose among all that explain the cloud
    fitness: float  # share of the observed points that lie on the object, within three standard deviations of the noise
    rms: float  # of their distances from its surface [m]
    contradicted: float  # share of the object's points that a camera saw through; 0 without depth images
    belief: Belief[ObjectPose]  # states (1, K)
    undetermined: Tensor  # int64 (K,) directions of motion that the surfaces seen leave open, edges not counted: 1 for a cylinder, 3 for a ball

    @property
    def ambiguous(self) -> bool:
        """Whether another pose has at least a tenth of the weight of the best."""
        weights = self.belief.weights[0]
        return len(weights) > 1 and bool(weights[1] > 0.1 * weights[0])


def register_object(
    points: Tensor,
    cloud: Tensor,
    *,
    noise: float,
    normals: Tensor | None = None,
    cloud_normals: Tensor | None = None,
    depth: Tensor | None = None,
    camera: Camera | None = None,
    up: Tensor | None = None,
    guesses: Tensor | None = None,
    outliers: float = 0.05,
    starts: int = 384,
    angle: float = math.radians(10.0),
    distance: float | None = None,
    features: bool = False,
    seed: int = 0,
) -> ObjectRegistration:
    """The pose of a known object in a cloud of a part of it, and the other poses that would explain the cloud as well.

    Args:
        points: (N, 3) of the object's whole surface, in its frame [m]; a thousand or more tell modes better apart.
        cloud: observed points (Q, 3) [m], cropped to about the object.
        noise: standard deviation of an observed point's distance from the true surface [m].
        normals: (N, 3) outward normals of the object's points; estimated if not given, and then not compared with those of the cloud.
        cloud_normals: (Q, 3) of the observed points, towards the cameras.
        depth: (V, height, width) [m] of the whole scene, so that free space seen through the object counts against a pose; NaN unknown, infinity empty.
        camera: of V views; also without depth it says from where the cloud was seen.
        up: (3,) direction in the world that the object's z axis points to, for objects that stand: only turns about it are tried.
        guesses: (G, 7) poses that are tried besides.
        outliers: expected share of observed points that are not the object's.
        starts: rotations that are tried.
        angle: poses that differ by less than this [rad] and `distance` are one.
        distance: of the object's middle [m]; a tenth of its radius if not given.
        features: try also what FPFH features and RANSAC of Open3D propose (Rusu et al., ICRA 2009).
        seed: of the points that stand for large clouds.

    Raises:
        ValueError: in one sentence, on fewer than four distinct points, numbers that are not finite, or shapes that do not fit.
        ImportError: if features are asked for and Open3D is missing.
    """
    _check(points, cloud, normals, cloud_normals, noise, outliers, starts)
    surface = Surface.of(points.double(), normals)
    seen = cloud.detach().double()
    facing = None if cloud_normals is None else torch.nn.functional.normalize(cloud_normals.detach().double(), dim=-1)
    middle = seen.mean(0)
    evidence = None if depth is None or camera is None else DepthEvidence(depth.double(), camera.to(torch.float64))
    search = _Search(surface, seen - middle, facing, noise, outliers, up is not None, seed)
    turns = super_fibonacci(starts).double() if up is None else _yaws(starts, up.double())
    views = None if camera is None else torch.nn.functional.normalize(camera.positions.double().reshape(-1, 3) - middle, dim=-1)
    shifts = -_visible_middle(surface, turns, views)
    extra = [] if guesses is None else [(quaternion_to_matrix(guesses[:, 3:].double()), guesses[:, :3].double())]
    if features:
        from .feature_match import feature_pose

        extra.append(feature_pose(surface.points + surface.middle, surface.normals, seen, facing, spacing=max(surface.reach, 2 * noise), seed=seed))
    extra = [(turn, shift + (turn @ surface.middle) - middle) for turn, shift in extra]
    merge = angle, 0.1 * surface.size if distance is None else distance
    turns, shifts = search.run(turns, shifts, extra, merge, evidence, middle)
    scores, contradicted = search.score(turns, shifts, evidence, middle)
    order = distinct_poses(turns, shifts, scores, *merge, KEPT)
    unsure = search.sampling_variance(turns[order], shifts[order], scores[order], evidence, middle)
    scores = -(scores[order[0]] - scores - DOUBT * math.sqrt(2 * unsure)).clamp_min(0)
    order = order[scores[order] > scores[order[0]] - DROPPED]
    (turns, shifts), scores, contradicted = search.polish(turns[order], shifts[order]), scores[order], contradicted[order]
    fitness, rms = search.fitness(turns[:1], shifts[:1])
    positions = shifts + middle - (turns @ surface.middle)
    poses = torch.cat((positions, matrix_to_quaternion(turns)), -1).to(cloud)
    belief = Belief(ObjectPose(pose=poses.unsqueeze(0), batch_size=(1, len(poses))), scores.unsqueeze(0).to(cloud))
    undetermined = search.undetermined(turns, shifts, *merge)
    return ObjectRegistration(poses[0], float(belief.weights[0, 0]), fitness, rms, float(contradicted[0]), belief, undetermined)


def _check(points: Tensor, cloud: Tensor, normals: Tensor | None, cloud_normals: Tensor | None, noise: float, outliers: float, starts: int) -> None:
    for name, value in (("points", points), ("cloud", cloud)):
        if value.ndim != 2 or value.shape[-1] != 3 or not bool(value.isfinite().all()):
            raise ValueError(f"register_object {name}: expected finite points (N, 3), got {tuple(value.shape)} or NaN; remove what was not measured.")
        if (count := len(value.unique(dim=0))) < 4:
            raise ValueError(f"register_object {name}: expected at least four distinct points, got {count}; is the object in view, and the crop right?")
    for name, given, owner in (("normals", normals, points), ("cloud_normals", cloud_normals, cloud)):
        if given is not None and (given.shape != owner.shape or not bool(given.isfinite().all())):
            raise ValueError(f"register_object {name}: expected finite {tuple(owner.shape)}, got {tuple(given.shape)} or NaN.")
    if not (noise > 0 and 0 < outliers < 1 and starts >= 1):
        raise ValueError(f"register_object: expected noise above 0 m, outliers in (0, 1) and at least one start, got {noise}, {outliers} and {starts}.")


def super_fibonacci(count: int) -> Tensor:
    """Rotations (count, 3, 3) spread evenly over all (Alexa, Super-Fibonacci spirals, CVPR 2022)."""
    place = torch.arange(count, dtype=torch.float64) + 0.5
    radius, other = (place / count).sqrt(), (1 - place / count).sqrt()
    alpha, beta = 2 * math.pi * place / math.sqrt(2), 2 * math.pi * place / 1.533751168755204288118041
    quaternion = torch.stack((radius * alpha.sin(), radius * alpha.cos(), other * beta.sin(), other * beta.cos()), -1)
    return quaternion_to_matrix(quaternion)


def _yaws(count: int, up: Tensor) -> Tensor:
    """Rotations (count, 3, 3) that lay z on `up`."""
    z = torch.nn.functional.normalize(up, dim=-1)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, torch.eye(3).to(z)[int(z.abs().argmin())]), dim=-1)
    base = torch.stack((x, torch.linalg.cross(z, x), z), -1)
    turn = 2 * math.pi * torch.arange(count, dtype=z.dtype) / count
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    about = torch.stack((turn.cos(), -turn.sin(), zero, turn.sin(), turn.cos(), zero, zero, zero, one), -1).unflatten(-1, (3, 3))
    return base @ about


def _visible_middle(surface: Surface, turns: Tensor, views: Tensor | None) -> Tensor:
    """Mean (S, 3) of the surface elements that face a camera in directions (V, 3), at rotations (S, 3, 3), from the middle of the object [m]."""
    if views is None:
        return turns @ surface.points.mean(0)
    normals = surface.normals @ turns.mT
    shown = (normals @ views.mT).amax(-1).clamp_min(0) + 1e-3
    return (shown.unsqueeze(-1) * (surface.points @ turns.mT)).sum(1) / shown.sum(1, keepdim=True)


def distinct_poses(turns: Tensor, shifts: Tensor, scores: Tensor, angle: float, distance: float, most: int) -> Tensor:
    """Indices of at most `most` poses, the best first, none of which is within `angle` [rad] and `distance` [m] of a better one."""
    chosen: list[int] = []
    for place in scores.argsort(descending=True, stable=True).tolist():
        if chosen:
            cosine = ((turns[chosen] * turns[place]).sum((-1, -2)) - 1) / 2
            if bool(((cosine > math.cos(angle)) & ((shifts[chosen] - shifts[place]).norm(dim=-1) < distance)).any()):
                continue
        chosen.append(place)
        if len(chosen) == most:
            break
    return torch.tensor(chosen, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class _Search:
    """Two rounds of refinement, and what speaks for a pose; clouds are around their middle."""

    surface: Surface
    cloud: Tensor  # (Q, 3) [m]
    normals: Tensor | None  # (Q, 3)
    noise: float
    outliers: float
    upright: bool
    seed: int

    def _some(self, count: int) -> tuple[Tensor, Tensor | None]:
        return some(self.cloud, count, self.seed), None if self.normals is None else some(self.normals, count, self.seed)

    def run(
        self, turns: Tensor, shifts: Tensor, extra: list[tuple[Tensor, Tensor]], merge: tuple[float, float], evidence: DepthEvidence | None, middle: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refined poses, those of different basins."""
        cloud, normals = self._some(COARSE)
        last = max(3 * self.noise, 0.02 * self.surface.size)
        turns, shifts = fit_rigid(
            self.surface, turns, shifts, cloud, widths=(self.surface.size, last), iterations=15, cloud_normals=normals, upright=self.upright
        )
        coarse = replace(self, noise=max(self.noise, last / 3))
        scores = coarse._likelihood(turns, shifts, cloud, normals, coarse.noise) + coarse.free_space(turns, shifts, evidence, middle, COARSE)[0]
        best = distinct_poses(turns, shifts, scores, *merge, KEPT)
        turns = torch.cat((turns[best], *(turn for turn, _ in extra)))
        shifts = torch.cat((shifts[best], *(shift for _, shift in extra)))
        cloud, normals = self._some(SEEN)
        widths = last, 3 * self.noise
        return fit_rigid(self.surface, turns, shifts, cloud, widths=widths, iterations=15, cloud_normals=normals, upright=self.upright, candidates=NEAR)

    def polish(self, turns: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Poses that fit more of the observed points, from poses that fit some of them."""
        if len(self.cloud) <= SEEN:
            return turns, shifts
        cloud, normals = self._some(POLISHED)
        widths = 3 * self.noise, 3 * self.noise
        return fit_rigid(self.surface, turns, shifts, cloud, widths=widths, iterations=5, cloud_normals=normals, upright=self.upright, candidates=NEAR)

    def _likelihood(self, turns: Tensor, shifts: Tensor, cloud: Tensor, normals: Tensor | None, noise: float) -> Tensor:
        """Log likelihood (S,) of observed points: normal about the surface, or strangers anywhere within the object's size."""
        found = residuals(self.surface, turns, shifts, cloud, normals, candidates=NEAR)
        return self._mixture(torch.where(found.facing, found.distance, torch.inf), noise).sum(-1)

    def _mixture(self, distance: Tensor, noise: float) -> Tensor:
        near = math.log((1 - self.outliers) / (math.sqrt(2 * math.pi) * noise)) - (distance / noise).square() / 2
        return torch.logaddexp(near, near.new_tensor(math.log(self.outliers / self.surface.size)))

    def score(self, turns: Tensor, shifts: Tensor, evidence: DepthEvidence | None, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Log likelihood (S,) of observed points and of free space, and the share (S,) of the object's points that were seen through."""
        free, contradicted = self.free_space(turns, shifts, evidence, middle, 2 * SEEN)
        return self._likelihood(turns, shifts, *self._some(SEEN), self.noise) + free, contradicted

    def free_space(self, turns: Tensor, shifts: Tensor, evidence: DepthEvidence | None, middle: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Log likelihood (S,) of free space for `count` of the object's points, and the share (S,) of them that were seen through; 0 without depth."""
        if evidence is None:
            return turns.new_zeros(len(turns)), turns.new_zeros(len(turns))
        points = some(self.surface.points, count, self.seed)
        placed = points @ turns.mT + (shifts + middle).unsqueeze(1)
        gaps, known = evidence.gaps(placed.reshape(-1, 3))
        through = torch.where(known, gaps, 0.0).amax(0).clamp_min(0).view(len(turns), -1)
        free = self._mixture(through, self.noise) - self._mixture(torch.zeros_like(through), self.noise)
        return free.sum(-1), (through > 3 * self.noise).double().mean(-1)

    def sampling_variance(self, turns: Tensor, shifts: Tensor, scores: Tensor, evidence: DepthEvidence | None, middle: Tensor) -> float:
        """Variance of the log likelihood of poses that is due to the places of the object's points, from halves of them.

        Only poses that are nearly as likely as the best count; 0 where it is alone. The difference of the halves has four times the variance of the whole.
        """
        close = scores > scores.max() - NEARLY
        if int(close.sum()) < 2:
            return 0.0
        found = []
        for split in range(SPLITS):
            one, two = (replace(self, surface=half).score(turns[close], shifts[close], evidence, middle)[0] for half in self.surface.halves(split))
            found.append(float((one - two).var()) / 4)
        return sum(found) / len(found)

    def fitness(self, turns: Tensor, shifts: Tensor) -> tuple[float, float]:
        """Share of the observed points on the object at a pose, and the root mean square of their distances [m]."""
        found = residuals(self.surface, turns, shifts, self.cloud, self.normals, candidates=NEAR)
        on = (found.distance < 3 * self.noise) & found.facing
        return float(on.double().mean()), float(found.distance[on].square().mean().sqrt()) if bool(on.any()) else math.inf

    def undetermined(self, turns: Tensor, shifts: Tensor, angle: float, distance: float) -> Tensor:
        """Directions (S,) in which the pose may change by a tolerance without a distance along a normal that the noise does not explain."""
        cloud, normals = self._some(SEEN)
        found = residuals(self.surface, turns, shifts, cloud, normals, candidates=NEAR)
        on = (found.distance < 3 * self.noise).to(cloud)
        matrix, _ = normal_equations(found.seen, found.away, found.normals, on, 0.0)
        scale = torch.tensor([angle] * 3 + [distance] * 3).to(matrix)
        # a motion of one tolerance must change distances by more than half of the noise, root mean square
        square = torch.linalg.eigvalsh(scale * matrix * scale.unsqueeze(-1)) / on.sum(-1).clamp_min(1)[..., None]
        return (square < (self.noise / 2) ** 2).sum(-1)
