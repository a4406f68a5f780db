"""What changes from step to step: states, and the plain containers in which views of a state are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import get_annotations
from typing import Any, TypeVar

import torch
from tensordict import TensorClass, TensorDict, TensorDictBase
from torch import Tensor

VIEW_NAMES = frozenset({"coordinates", "points", "poses", "twists", "tracks", "splats", "atoms", "embedding", "signed_distance"})
"""The views a scene may offer of a state; no field of a state bears one of these names."""


class State(TensorClass):
    """Base class of every state: a typed batch of tensors that holds what changes from step to step, and nothing else.

    Subclass it with annotated tensor fields whose leading axes are the batch axes `*B` (`batch_size`)::

        class PendulumState(State):
            angle: Tensor  # (*B, 1) [rad]
            rate: Tensor  # (*B, 1) [rad/s]

    A state is a `tensordict.TensorClass`: it indexes, stacks, reshapes, moves between devices and casts like a tensor over its batch axes. Fields must not
    bear a view's name (`VIEW_NAMES`), so that `state.positions` (a field) and `scene.points(state)` (a view) are never confused.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        clashes = sorted(VIEW_NAMES & set(get_annotations(cls)))
        if clashes:
            raise TypeError(
                f"{cls.__name__} has a field named after a view: {', '.join(clashes)}; rename it, for example positions, keypoints, probabilities or latent."
            )


S = TypeVar("S", bound=State)


def state_of(kind: type[S], fields: Mapping[str, Tensor], batch_size: Sequence[int]) -> S:
    """A state of class `kind` from its fields by name."""
    found: S = kind.from_tensordict(TensorDict(dict(fields), batch_size=batch_size))  # takes half as long as the constructor
    return found


def fields_of(state: State) -> dict[str, Tensor]:
    """The tensors of a state by field name, without copying. Fields that are None are left out."""
    return {name: value for name, value in state.items() if value is not None}


class View(TensorClass):
    """Base of the containers below. A cast to another floating type (`to`, `double`, `float`, `half`) leaves masks and indices as they are."""

    def to(self, *target: Any, **options: Any) -> Any:
        """As `Tensor.to`."""
        _, dtype, *_ = torch._C._nn._parse_to(*target, **options) if not any(isinstance(value, TensorDictBase) for value in target) else (None, None)
        if dtype is None:
            return super().to(*target, **options)
        place = [value for value in target if isinstance(value, Tensor)]
        devices = [value for value in (*target, options.get("device")) if isinstance(value, str | int | torch.device) and not isinstance(value, bool)]
        moved = super().to(place[0].device if place else devices[0]) if place or devices else self
        return moved.apply(lambda value: value.to(dtype) if value.is_floating_point() else value)

    def double(self, *, cast_filter: Any = None) -> Any:
        """As `Tensor.double`."""
        return self.to(torch.float64) if cast_filter is None else super().double(cast_filter=cast_filter)

    def float(self, *, cast_filter: Any = None) -> Any:
        """As `Tensor.float`."""
        return self.to(torch.float32) if cast_filter is None else super().float(cast_filter=cast_filter)

    def half(self, *, cast_filter: Any = None) -> Any:
        """As `Tensor.half`."""
        return self.to(torch.float16) if cast_filter is None else super().half(cast_filter=cast_filter)


class Points(View):
    """Points of one instant in the world frame."""

    positions: Tensor  # (*B, N, 3) [m]
    mask: Tensor | None = None  # (*B, N) bool, False where padding
    ids: Tensor | None = None  # (*B, N) int64, which object a point belongs to


class Tracks(View):
    """Tracked keypoints of one instant, in a camera's raster [px] or in the world frame [m]."""

    keypoints: Tensor  # (*B, N, 2) [px] or (*B, N, 3) [m]
    visibility: Tensor  # (*B, N) in [0, 1]
    mask: Tensor | None = None  # (*B, N) bool, False where padding


class Splats(View):
    """Gaussian splats of one instant in the world frame.

    What a splat shows from the side of the unit direction d, from the camera to its mean, is `colors` plus the sum of `harmonics` times the real spherical
    harmonics of degrees 1 to 3 at d, no less than 0. Worlds with different numbers of splats are padded to one N and masked.
    """

    means: Tensor  # (*B, N, 3) [m]
    rotations: Tensor  # (*B, N, 4) quaternions wxyz, of any length but zero
    scales: Tensor  # (*B, N, 3) [m], standard deviations along the rotated axes
    opacities: Tensor  # (*B, N) in [0, 1]
    colors: Tensor  # (*B, N, 3) red, green, blue in [0, 1], the mean over all directions
    harmonics: Tensor | None = None  # (*B, N, 3, 3), (*B, N, 8, 3) or (*B, N, 15, 3): coefficients of degrees 1 to 1, 2 or 3
    features: Tensor | None = None  # (*B, N, C) anything else to be drawn
    mask: Tensor | None = None  # (*B, N) bool, False where padding
    deformations: Tensor | None = None  # (*B, N, 3, 3) deformation gradients F, the identity where None: the covariance is F R diag(scales)^2 R^T F^T
