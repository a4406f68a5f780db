"""What a network of springs is: particles, springs between them, controllers that hold or push them; and the views of its state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from structwm.geometry import knn, spring_edges

from .obstacles import check_obstacles
from .particle_scene import ParticleScene, ParticleState
from .rigid_world import Fixture


@dataclass(frozen=True, eq=False)
class SpringBody:
    """One or more deformable bodies as P particles joined by M springs, of which the last C particles are controllers: points that move as commanded.

    A controller holds particles by springs (attached), pushes what comes near (a pusher, a sphere), or both. Particles of a body may be driven themselves, too.

    Raises:
        ValueError: on a spring of no length or between particles that are not there, a driven group that is empty or shares a particle, a pusher that is not
            driven, numbers that are not finite, or an obstacle of a shape that springs do not touch.
    """

    positions: Tensor  # (P, 3) at rest, world frame [m]
    springs: Tensor  # int64 (M, 2)
    rest_lengths: Tensor | None = None  # (M,) [m]; as far apart as the particles are if not given
    ranks: Tensor | None = None  # (M,) of a spring, how many neighbours of its ends are nearer: what the parameter `neighbours` cuts off
    controllers: int = 0  # C, the last of the particles, which are no part of what is seen
    driven: tuple[tuple[int, ...], ...] = ()  # groups of particles that move together as commanded; -1 is the last particle
    pushers: tuple[tuple[int, float], ...] = ()  # driven particles that push others away, and their radius [m]
    shares: Tensor | None = None  # (P,) of the mass, above zero; even if not given
    obstacles: tuple[Fixture, ...] = ()  # planes, spheres, capsules and boxes that stand still
    self_contact: bool = False  # whether particles push each other away that are not neighbours
    stretch_limit: float = math.inf  # elongation of a spring over its rest length above which a prediction is no longer valid [-]

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or self.positions.shape[-1] != 3 or len(self.positions) < 2:
            raise ValueError(f"SpringBody needs positions (P, 3) of two particles at least, got {tuple(self.positions.shape)}.")
        if not bool(self.positions.isfinite().all()):
            raise ValueError("SpringBody.positions must be finite.")
        object.__setattr__(self, "positions", self.positions.detach().double())
        count = self.particles
        if self.springs.ndim != 2 or self.springs.shape[-1] != 2 or self.springs.is_floating_point():
            raise ValueError(f"SpringBody needs springs as whole numbers (M, 2), got {self.springs.dtype} {tuple(self.springs.shape)}.")
        object.__setattr__(self, "springs", self.springs.long())
        if len(self.springs):
            if int(self.springs.min()) < 0 or int(self.springs.max()) >= count:
                raise ValueError(f"SpringBody.springs name particles {int(self.springs.min())} to {int(self.springs.max())}, but there are {count}.")
            ends = (self.positions[self.springs[:, 0]] - self.positions[self.springs[:, 1]]).norm(dim=-1)
            lengths = (ends if self.rest_lengths is None else self.rest_lengths).detach().double()
            if lengths.shape != ends.shape:
                raise ValueError(f"SpringBody needs rest_lengths ({len(ends)},), got {tuple(lengths.shape)}.")
            short = ~((lengths > 0) & lengths.isfinite())
            if bool(short.any()):
                k = int(short.nonzero()[0])
                raise ValueError(f"Spring {k} between particles {int(self.springs[k, 0])} and {int(self.springs[k, 1])} has the length {float(lengths[k])} m.")
        else:
            lengths = self.positions.new_zeros(0)
        object.__setattr__(self, "rest_lengths", lengths)
        for name, size in (("ranks", len(self.springs)), ("shares", count)):
            given = getattr(self, name)
            if given is not None:
                if given.shape != (size,) or not bool((given >= 0).all()):
                    raise ValueError(f"SpringBody needs {name} ({size},) of zero or more, got {tuple(given.shape)}.")
                object.__setattr__(self, name, given.detach().double())
        if self.shares is not None and not bool((self.shares > 0).all()):
            raise ValueError("SpringBody needs shares of the mass above zero.")
        groups = tuple(tuple(k % count for k in self._known(group, "driven")) for group in self.driven)
        flat = [k for group in groups for k in group]
        if any(not group for group in groups) or len(set(flat)) < len(flat):
            raise ValueError(f"SpringBody.driven needs groups that are not empty and share no particle, got {self.driven}.")
        object.__setattr__(self, "driven", groups)
        pushers = tuple((self._known((k,), "pushers")[0] % count, float(radius)) for k, radius in self.pushers)
        for k, radius in pushers:
            if k not in flat or not 0 < radius < math.inf:
                raise ValueError(f"SpringBody.pushers needs driven particles and radii above zero, got particle {k} with {radius} m.")
        object.__setattr__(self, "pushers", pushers)
        if not 0 <= self.controllers <= count - 1 or not set(range(count - self.controllers, count)) <= set(flat):
            raise ValueError(f"SpringBody.controllers must be driven and leave a particle of the body, got {self.controllers} of {count}.")
        if not self.stretch_limit > 0:
            raise ValueError(f"SpringBody needs stretch_limit above zero, got {self.stretch_limit}.")
        check_obstacles(self.obstacles, "A network of springs")

    def _known(self, numbers: Sequence[int], label: str) -> tuple[int, ...]:
        for k in numbers:
            if not -self.particles <= k < self.particles:
                raise ValueError(f"SpringBody.{label} names particle {k}, but there are {self.particles}.")
        return tuple(numbers)

    @classmethod
    def from_points(cls, points: Tensor, *, radius: float, neighbours: int, **options: Any) -> Self:
        """A body of points (P, 3) [m], each joined with at most `neighbours` nearest within `radius` [m] (as in PhysTwin, Jiang et al., 2025, section 3.2).

        Raises:
            ValueError: if two points are in one place, or a point has no neighbour.
        """
        if points.ndim != 2 or points.shape[-1] != 3 or len(points) < 2 or not bool(points.isfinite().all()):
            raise ValueError(f"SpringBody.from_points needs finite points (P, 3), got {tuple(points.shape)}.")
        if neighbours < 1 or not radius > 0:
            raise ValueError(f"SpringBody.from_points needs a radius above zero and one neighbour at least, got {radius} and {neighbours}.")
        points = points.detach().double()
        springs = spring_edges(points, radius, neighbours, join=False)
        alone = torch.ones(len(points), dtype=torch.bool)
        alone[springs.flatten()] = False
        if bool(alone.any()):
            raise ValueError(f"Point {int(alone.nonzero()[0])} has no neighbour within {radius:g} m; take a larger radius or leave it out.")
        nearest = knn(points, points, min(neighbours, len(points) - 1), exclude_self=True).indices
        ranks = torch.stack([_place(nearest[a], b) for a, b in (springs.unbind(-1), springs.flip(-1).unbind(-1))]).amin(0).double()
        return cls(points, springs, ranks=ranks, **options)

    def with_controllers(
        self,
        positions: Tensor,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        attach: float | None = None,
        neighbours: int = 16,
        push: float | None = None,
    ) -> Self:
        """The body with controllers added at positions (C, 3) [m].

        Args:
            positions: where they are while the body is at rest.
            groups: which of them, by their place in `positions`, move together; each by itself if not given.
            attach: distance up to which each is joined by springs with particles of the body [m]; None: with none.
            neighbours: with how many at most.
            push: radius of the spheres with which they push [m]; None: they do not.

        Raises:
            ValueError: if a controller finds no particle to hold, or neither holds nor pushes.
        """
        if positions.ndim != 2 or positions.shape[-1] != 3 or not len(positions) or not bool(positions.isfinite().all()):
            raise ValueError(f"with_controllers needs finite positions (C, 3), got {tuple(positions.shape)}.")
        if attach is None and push is None:
            raise ValueError("with_controllers needs attach or push, or controllers would do nothing.")
        positions, count = positions.detach().double(), self.particles
        springs, lengths, ranks = self.springs, self.lengths, self._ranks()
        if attach is not None:
            free = self.free.nonzero().flatten()
            found = knn(positions, self.positions[free], min(neighbours, len(free)))
            near = found.valid & (found.distances <= attach)
            controller, held = near.nonzero()[:, 0], free[found.indices[near]]
            lonely = set(range(len(positions))) - set(controller.tolist())
            if lonely:
                raise ValueError(f"Controller {min(lonely)} finds no particle within {attach:g} m to hold.")
            springs = torch.cat((springs, torch.stack((held, controller + count), -1)))
            lengths, ranks = torch.cat((lengths, found.distances[near])), torch.cat((ranks, ranks.new_zeros(len(held))))
        together = [[k] for k in range(len(positions))] if groups is None else groups
        return replace(
            self,
            positions=torch.cat((self.positions, positions)),
            springs=springs,
            rest_lengths=lengths,
            ranks=ranks,
            controllers=self.controllers + len(positions),
            driven=(*self.driven, *(tuple(count + k for k in group) for group in together)),
            pushers=self.pushers if push is None else (*self.pushers, *((count + k, push) for k in range(len(positions)))),
            shares=None if self.shares is None else torch.cat((self.shares, self.shares.new_full((len(positions),), float(self.shares.mean())))),
        )

    def _ranks(self) -> Tensor:
        return self.positions.new_zeros(len(self.springs)) if self.ranks is None else self.ranks

    @property
    def lengths(self) -> Tensor:
        """(M,) of the springs at rest [m]."""
        assert self.rest_lengths is not None
        return self.rest_lengths

    @property
    def particles(self) -> int:
        """P."""
        return len(self.positions)

    @property
    def points(self) -> int:
        """How many particles are of the body: P - C."""
        return self.particles - self.controllers

    @property
    def free(self) -> Tensor:
        """(P,) bool: particles that are not driven."""
        free = torch.ones(self.particles, dtype=torch.bool)
        free[[k for group in self.driven for k in group]] = False
        return free

    @property
    def attached(self) -> Tensor:
        """(M,) bool: springs by which controllers hold the body."""
        return (self.springs >= self.points).any(-1)

    @property
    def stretchable(self) -> tuple[Tensor, Tensor]:
        """Springs between particles of the body, int64 (L, 2), and their rest lengths (L,) [m]."""
        own = ~self.attached
        return self.springs[own], self.lengths[own]

    @property
    def action_names(self) -> tuple[str, ...]:
        """Velocities of the driven groups [m/s]."""
        return tuple(f"group{k}.v{axis}" for k in range(len(self.driven)) for axis in "xyz")


def _place(lists: Tensor, wanted: Tensor) -> Tensor:
    """Where each wanted number (M,) stands in its list (M, K); K where it does not."""
    there = lists == wanted.unsqueeze(-1)
    return torch.where(there.any(-1), there.int().argmax(-1), lists.shape[-1])


class SpringScene(ParticleScene):
    """Reads the state of springs: the body's particles are points and tracks; coordinates are those of all particles."""

    def __init__(self, body: SpringBody) -> None:
        super().__init__(body.particles, seen=body.points)
        self.body = body

    def config(self) -> dict[str, Any]:
        return {"body": self.body}

    def strain(self, state: ParticleState) -> Tensor:
        """Elongation of each spring over its rest length, (*B, M) [-]."""
        a, b = self.body.springs.to(state.positions.device).unbind(-1)
        return (state.positions[..., a, :] - state.positions[..., b, :]).norm(dim=-1) / self.body.lengths.to(state.positions) - 1
