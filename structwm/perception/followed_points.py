"""The same material points of objects followed through RGB-D frames, with what is visible and how well each object fits.

Rigid objects move by iterated closest points from the last pose and from the pose that constant velocity predicts; deformable ones by coherent point drift
(`registration`), which knows places along a surface without texture only to about the distance between the points. An object explains only what a camera
shows: points behind other things, turned away or out of view are no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud
from structwm.geometry.camera import Camera
from structwm.geometry.rotations import (
    matrix_to_quaternion,
    motion_matrix,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    rotation_vector_to_quaternion,
    to_body,
    to_world,
)
from structwm.interfaces import Belief, Estimator, Observation
from structwm.spec import Action
from structwm.state import State, state_of

from .cloud_thinning import above_plane, farthest_points, thin_by_voxels
from .depth_clouds import rgbd_cloud, select_points, stacked_views
from .frame_fit import FollowedObject, FrameFit, new_points, seen_points
from .free_space import DepthEvidence
from .registration import register_points

EVEN = 0.7  # side of the voxels to which the cloud of a deformable object is thinned [of the distance between its points]


class FollowedPoints(State):
    """Where the material points of K objects are."""

    positions: Tensor  # (*B, N, 3) [m], the objects' points one after the other
    visibility: Tensor  # (*B, N) 1 where a camera sees the point, else 0
    object_poses: Tensor  # (*B, K, 7) world_from_object: position [m], quaternion wxyz; of a deformable object its rigid part
    velocities: Tensor  # (*B, K, 6) of the object's origin [m/s], and angular, in the world [rad/s]
    fitness: Tensor  # (*B, K) share of the points that should be visible and lie on what was measured; NaN where none should be


@dataclass(frozen=True, eq=False)
class FollowedTracks:
    """T frames of the same N points."""

    times: Tensor  # (T,) [s]
    positions: Tensor  # (T, N, 3) [m]
    visibility: Tensor  # bool (T, N)
    object_poses: Tensor  # (T, K, 7) world_from_object
    fitness: Tensor  # (T, K)
    ids: Tensor  # int64 (N,) the object of each point
    lost: Tensor  # bool (T, K), where the object was in view and not found, so that it was left where it was


class PointFollower(Estimator[FollowedPoints]):
    """Follows objects from frame to frame; the belief is one particle that holds all that changes.

    An object whose fitness is below `least` is left at its last pose without velocity, with no point visible: see `lost`. One that is wholly hidden stays where
    it was, and its fitness is NaN.

    Args:
        objects: their material points, each in the frame of its object.
        poses: (K, 7) world_from_object, where they are at the first frame.
        noise: standard deviation of the measured points [m].
        step: how far an object may be from where it is expected [m].
        table: (4,) plane n and d with n . x + d = 0 under the objects [m], whose points are left out; None where the depth shows the objects alone.
        least: fitness below which an object counts as lost.
        seed: of random choices among many measured points.

    Raises:
        ValueError: in one sentence, if poses do not fit the objects, or numbers cannot be.
    """

    def __init__(
        self,
        objects: Sequence[FollowedObject],
        poses: Tensor,
        *,
        noise: float,
        step: float = 0.03,
        table: Tensor | None = None,
        least: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not objects or tuple(poses.shape) != (len(objects), 7) or not bool(poses.isfinite().all()):
            raise ValueError(f"PointFollower: expected at least one object and a finite pose (K, 7) for each, got {len(objects)} and {tuple(poses.shape)}.")
        if not (noise > 0 and step > 0 and 0 <= least <= 1):
            raise ValueError(f"PointFollower: expected noise and step above 0 m and least in [0, 1], got {noise}, {step} and {least}.")
        self.objects, self.poses, self.noise, self.step, self.table, self.least, self.seed = tuple(objects), poses.float(), noise, step, table, least, seed
        self.ids = torch.cat([torch.full((len(thing.points),), number) for number, thing in enumerate(self.objects)])

    @classmethod
    def from_cloud(
        cls,
        cloud: PointCloud,
        labels: Tensor,
        *,
        noise: float,
        count: int = 300,
        deformable: Sequence[int] = (),
        step: float = 0.03,
        table: Tensor | None = None,
        least: float = 0.5,
    ) -> PointFollower:
        """Follow the points of a cloud that is split into objects (`split_objects`), at most `count` of each, spread evenly.

        Only the surface seen in this cloud is followed. Objects are numbered as in `labels`; those in `deformable` may change their shape.

        Raises:
            ValueError: if there is no object, or one has fewer than four points.
        """
        objects, poses = [], []
        for number in range(int(labels.max()) + 1 if len(labels) else 0):
            own = select_points(cloud, labels == number)
            if len(own) < 4:
                raise ValueError(f"PointFollower: expected at least four points of object {number}, got {len(own)}; leave it out of the labels.")
            own = select_points(own, farthest_points(own.positions, min(count, len(own))))
            middle = own.positions.mean(0)
            objects.append(FollowedObject(own.positions - middle, own.normals, own.colors, number in set(deformable)))
            poses.append(torch.cat((middle, middle.new_tensor([1.0, 0.0, 0.0, 0.0]))))
        if not objects:
            raise ValueError("PointFollower: expected a cloud split into at least one object, got labels without any; is the cloud empty?")
        return cls(objects, torch.stack(poses), noise=noise, step=step, table=table, least=least)

    def start(self, time: float = 0.0) -> Belief[FollowedPoints]:
        """The belief before any frame: the poses that were given, at rest, nothing visible."""
        positions = torch.cat([to_world(pose, thing.points.float()) for pose, thing in zip(self.poses, self.objects, strict=True)])
        count = len(self.poses)
        return _belief((positions, torch.zeros(len(positions)), self.poses, torch.zeros(count, 6), torch.full((count,), torch.nan)), time)

    def lost(self, belief: Belief[FollowedPoints]) -> Tensor:
        """Which objects were in view and not found, bool (K,)."""
        return belief.states.fitness[0, 0] < self.least

    def update(self, observation: Observation, belief: Belief[FollowedPoints] | None, action: Action | None) -> Belief[FollowedPoints]:
        """Where the points are in a frame with depth, and colours where the objects have some; the action is not looked at.

        Raises:
            ValueError: in one sentence, as `stacked_views`, or if the belief is of other objects.
        """
        depth, camera, images, _ = stacked_views(observation)
        before = self.start(observation.time) if belief is None else belief
        last = before.states[0, 0]
        if last.positions.shape != (len(self.ids), 3) or last.object_poses.shape != self.poses.shape:
            raise ValueError(f"PointFollower: expected a belief of {len(self.ids)} points of {len(self.poses)} objects, got {tuple(last.positions.shape)}.")
        depth, camera = depth.float(), camera.to(torch.float32)
        dt = max(0.0, observation.time - before.time)
        cloud = self._cloud(depth, camera, images, last, dt)
        evidence = DepthEvidence(depth, camera)
        parts = self._assigned(cloud, last, dt)
        found = [self._follow(number, part, evidence, last, dt) for number, part in enumerate(parts)]
        positions, visibility, poses, velocities, fitness = zip(*found, strict=True)
        values = torch.cat(positions), torch.cat(visibility), torch.stack(poses), torch.stack(velocities), torch.stack(fitness)
        return _belief(values, observation.time)

    def follow(self, observations: Iterable[Observation]) -> FollowedTracks:
        """All frames one after the other.

        Raises:
            ValueError: if there is no frame, and as `update`.
        """
        belief: Belief[FollowedPoints] | None = None
        beliefs = []
        for observation in observations:
            belief = self.update(observation, belief, None)
            beliefs.append(belief)
        if not beliefs:
            raise ValueError("PointFollower: expected at least one frame, got none.")
        states = [value.states[0, 0] for value in beliefs]
        return FollowedTracks(
            torch.tensor([value.time for value in beliefs], dtype=torch.float64),
            torch.stack([state.positions for state in states]),
            torch.stack([state.visibility for state in states]) > 0.5,
            torch.stack([state.object_poses for state in states]),
            torch.stack([state.fitness for state in states]),
            self.ids,
            torch.stack([self.lost(value) for value in beliefs]),
        )

    def with_new_surface(self, observation: Observation, belief: Belief[FollowedPoints], *, spacing: float) -> tuple[PointFollower, Belief[FollowedPoints]]:
        """A follower that has also the surface of rigid objects which came into view since, and its belief: points of this frame, at least `spacing` [m] apart.

        The points that were followed keep their order, the new ones of each object come after its own. Objects that are lost or hidden get none.

        Raises:
            ValueError: as `update`, or if the spacing is not above 0.
        """
        if not spacing > 0:
            raise ValueError(f"with_new_surface: expected a spacing above 0 m, got {spacing}.")
        depth, camera, images, _ = stacked_views(observation)
        state = belief.states[0, 0]
        parts = self._assigned(self._cloud(depth.float(), camera.to(torch.float32), images, state, 0.0, normals=True), state, 0.0)
        objects, positions, visibility = [], [], []
        for number, (thing, part) in enumerate(zip(self.objects, parts, strict=True)):
            own, pose = self.ids == number, state.object_poses[number]
            fine = not thing.deformable and bool(state.fitness[number] >= self.least)
            fresh = new_points(part, state.positions[own], spacing) if fine else torch.zeros(0, dtype=torch.int64)
            positions += [state.positions[own], part.positions[fresh]]
            visibility += [state.visibility[own], torch.ones(len(fresh))]
            objects.append(thing.grown(select_points(part, fresh), pose) if len(fresh) else thing)
        follower = PointFollower(objects, self.poses, noise=self.noise, step=self.step, table=self.table, least=self.least, seed=self.seed)
        return follower, _belief((torch.cat(positions), torch.cat(visibility), state.object_poses, state.velocities, state.fitness), belief.time)

    def _cloud(self, depth: Tensor, camera: Camera, images: Tensor | None, last: FollowedPoints, dt: float, *, normals: bool = False) -> PointCloud:
        """What was measured about where objects are expected, without the table."""
        moved = torch.cat((last.positions, last.positions + dt * last.velocities[self.ids, :3]))
        box = torch.stack((moved.amin(0) - self.step, moved.amax(0) + self.step))
        cloud = rgbd_cloud(depth, camera, images=images, box=box, noise=self.noise, normals=normals)
        return cloud if self.table is None else above_plane(cloud, self.table, 3 * self.noise)

    def _expected(self, number: int, last: FollowedPoints, dt: float) -> Tensor:
        """The pose (7,) that constant velocity predicts."""
        pose, velocity = last.object_poses[number], last.velocities[number]
        turn = quaternion_to_matrix(rotation_vector_to_quaternion(dt * velocity[3:]))
        return torch.cat((pose[:3] + dt * velocity[:3], matrix_to_quaternion(turn @ quaternion_to_matrix(pose[3:]))))

    def _assigned(self, cloud: PointCloud, last: FollowedPoints, dt: float) -> list[PointCloud]:
        """The measured points of each object: those nearest to where it is expected, and of a colour that it has."""
        distances = []
        for number, thing in enumerate(self.objects):
            places = last.positions[self.ids == number]
            body = to_body(last.object_poses[number], places) if thing.deformable else thing.points.float()
            distances.append(thing.distance(cloud, to_world(self._expected(number, last, dt), body)))
        if not len(cloud):
            return [cloud] * len(self.objects)
        near, nearest = torch.stack(distances).min(0)
        return [select_points(cloud, (nearest == number) & (near < self.step)) for number in range(len(self.objects))]

    def _follow(self, number: int, cloud: PointCloud, evidence: DepthEvidence, last: FollowedPoints, dt: float) -> tuple[Tensor, ...]:
        """Positions, visibility, pose, velocity and fitness of one object."""
        thing, before, own = self.objects[number], last.object_poses[number], self.ids == number
        fit = FrameFit(thing, cloud, evidence, self.noise, self.step, self.seed)
        still = torch.zeros(6)
        if thing.deformable:
            positions, pose = self._drift(fit, last.positions[own], before)
        else:
            tried = [fit.pose(start) for start in ([before, self._expected(number, last, dt)] if dt > 0 and bool(last.velocities[number].any()) else [before])]
            pose = max(tried, key=fit.value)
            positions = to_world(pose, thing.points.float())
        visible, fitness = fit.judge(positions, pose)
        if bool(fitness < self.least) or bool(fitness.isnan()):
            return last.positions[own], torch.zeros(int(own.sum())), before, still, fitness
        velocity = still
        if dt > 0:
            turn = quaternion_to_matrix(pose[3:]) @ quaternion_to_matrix(before[3:]).mT
            velocity = torch.cat((pose[:3] - before[:3], quaternion_to_rotation_vector(matrix_to_quaternion(turn)))) / dt
        return positions, visible.float(), pose, velocity, fitness

    def _drift(self, fit: FrameFit, places: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (N, 3) of a deformable object's points from where they were, and its pose."""
        shown = seen_points(fit.evidence, places, None, self.step)
        if int(shown.sum()) < 10 or len(fit.cloud) < 10:
            return places, pose
        here = replace(fit, thing=FollowedObject(places, None, None))
        moved = here.pose(places.new_tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
        motion = motion_matrix(quaternion_to_matrix(moved[3:]), moved[:3])
        even = thin_by_voxels(fit.cloud, EVEN * here.thing.reach)  # the drift matches densities, and what is nearer to a camera is denser
        found = register_points(places[shown], even.positions, start=motion, seed=self.seed, iterations=30)
        turn = matrix_to_quaternion(motion[:3, :3] @ quaternion_to_matrix(pose[3:]))
        return found.move(places), torch.cat((motion[:3, :3] @ pose[:3] + motion[:3, 3], turn))


def _belief(values: tuple[Tensor, ...], time: float) -> Belief[FollowedPoints]:
    """One particle of the fields of `FollowedPoints`, in their order."""
    names = ("positions", "visibility", "object_poses", "velocities", "fitness")
    state = state_of(FollowedPoints, {name: value.unsqueeze(0) for name, value in zip(names, values, strict=True)}, (1,))
    return Belief.certain(state, time=time)
