"""What never changes, and how to read a state: scenes and their views."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .state import VIEW_NAMES, Points, Splats, Tracks, fields_of

Decoder = Callable[..., Any]


class ViewMissing(AttributeError):
    """A view was asked of a scene that does not offer it. The message names the scene, the view and the views on offer."""


class Scene:
    """The constant part of a world and the reader of its states.

    A scene knows names (bodies, points, atoms, coordinates with their units), geometry and appearance, and turns a state into *views*: the only things that
    objectives, planners and reports read. Subclasses override the views they offer; a view can also be given as a decoder (a function or a network from the
    state to the view, for models whose state is latent). What is neither overridden nor decoded raises `ViewMissing`. Only `coordinates` has a default.

    Frames and units: right-handed world frame, z up, metres, quaternions `wxyz`. `*B` is any number of leading batch axes of the state.

    Args:
        coordinate_names: names of the generalised coordinates and velocities, in the order of `coordinates(state)`; derived from the fields when omitted.
        coordinate_units: the unit of each coordinate, for example `"m"` or `"rad/s"`.
        periodic: names of the coordinates that are angles [rad], whose differences are taken modulo 2 pi.
        body_names: names of the K bodies of `poses` and `twists`.
        point_names: names of the N points of `points` or `tracks`, where they have names.
        atom_names: names of the M ground atoms of `atoms`.
        decoders: view name to a function of the state that returns the view.
    """

    by_points = False  # whether predictions are judged by their points; else by the coordinates, each in units of how much it changes

    def __init__(
        self,
        *,
        coordinate_names: Sequence[str] = (),
        coordinate_units: Sequence[str] = (),
        periodic: Sequence[str] = (),
        body_names: Sequence[str] = (),
        point_names: Sequence[str] = (),
        atom_names: Sequence[str] = (),
        decoders: Mapping[str, Decoder] | None = None,
    ) -> None:
        self.body_names = tuple(body_names)
        self.point_names = tuple(point_names)
        self.atom_names = tuple(atom_names)
        self._coordinate_names = tuple(coordinate_names)
        self._coordinate_units = tuple(coordinate_units)
        self.periodic = frozenset(periodic)
        self.decoders = dict(decoders or {})
        unknown = sorted(set(self.decoders) - VIEW_NAMES)
        if unknown:
            raise ValueError(f"Scene got a decoder for {', '.join(unknown)}, which is no view; the views are {', '.join(sorted(VIEW_NAMES))}.")
        if self._coordinate_units and len(self._coordinate_units) != len(self._coordinate_names):
            raise ValueError(
                f"Scene got {len(self._coordinate_names)} coordinate_names and {len(self._coordinate_units)} coordinate_units; give one unit per name."
            )

    def config(self) -> dict[str, Any]:
        """The arguments it was made with, from which a saved model makes it again; a subclass with arguments of its own overrides it."""
        return {
            "coordinate_names": self._coordinate_names,
            "coordinate_units": self._coordinate_units,
            "periodic": tuple(sorted(self.periodic)),
            "body_names": self.body_names,
            "point_names": self.point_names,
            "atom_names": self.atom_names,
            "decoders": self.decoders,
        }

    @property
    def views(self) -> frozenset[str]:
        """The views this scene offers: those overridden by its class, those decoded, and `coordinates`."""
        return _overridden(type(self)).union(self.decoders)  # type: ignore[arg-type]

    def _decode(self, view: str, *arguments: Any) -> Any:
        if view in self.decoders:
            return self.decoders[view](*arguments)
        raise ViewMissing(f"{type(self).__name__} offers no view {view!r}; it offers {', '.join(sorted(self.views))}.")

    def coordinates(self, state: Any) -> Tensor:
        """Named generalised coordinates and velocities, (*B, D). The default concatenates the floating-point fields in their order."""
        if "coordinates" in self.decoders:
            return self.decoders["coordinates"](state)
        batch = state.batch_size
        return torch.cat([value.reshape(*batch, -1) for value in fields_of(state).values() if value.is_floating_point()], dim=-1)

    def coordinate_names(self, state: Any) -> tuple[str, ...]:
        """Names of the D coordinates: those given, else `field` for fields of one number and `field[i]` for longer ones."""
        if self._coordinate_names:
            return self._coordinate_names
        names: list[str] = []
        for field, value in fields_of(state).items():
            if value.is_floating_point():
                size = value.shape[state.batch_dims :].numel()
                names += [field] if size == 1 else [f"{field}[{i}]" for i in range(size)]
        return tuple(names)

    def coordinate_units(self, state: Any) -> tuple[str, ...]:
        """The unit of each of the D coordinates, `""` where it was not given."""
        return self._coordinate_units or ("",) * len(self.coordinate_names(state))

    def coordinate_difference(self, states: Any, reference: Any) -> Tensor:
        """Coordinates of `states` minus those of `reference`, (*B, D); those named in `periodic` within (-pi, pi]."""
        difference = self.coordinates(states) - self.coordinates(reference)
        if not self.periodic:
            return difference
        wraps = torch.tensor([name in self.periodic for name in self.coordinate_names(reference)], device=difference.device)
        return torch.where(wraps, difference - 2 * math.pi * (difference / (2 * math.pi)).round(), difference)

    def points(self, state: Any) -> Points:
        """Points in the world frame, positions (*B, N, 3) [m]."""
        return self._decode("points", state)

    def poses(self, state: Any) -> Tensor:
        """`world_from_body` of each body, (*B, K, 7): position [m], then unit quaternion wxyz."""
        return self._decode("poses", state)

    def twists(self, state: Any) -> Tensor:
        """Twist of each body in the world frame, (*B, K, 6): linear velocity of its origin [m/s], then angular velocity [rad/s]."""
        return self._decode("twists", state)

    def tracks(self, state: Any) -> Tracks:
        """Keypoints (*B, N, 2) [px] or (*B, N, 3) [m] with their visibility."""
        return self._decode("tracks", state)

    def splats(self, state: Any) -> Splats:
        """Gaussian splats in the world frame."""
        return self._decode("splats", state)

    def atoms(self, state: Any) -> Tensor:
        """Probability that each ground atom holds, (*B, M) in [0, 1]."""
        return self._decode("atoms", state)

    def embedding(self, state: Any) -> Tensor:
        """A latent vector, (*B, D)."""
        return self._decode("embedding", state)

    def signed_distance(self, state: Any, points: Tensor) -> Tensor:
        """Signed distance from world points (*B, Q, 3) [m] to the nearest surface, (*B, Q) [m], negative inside."""
        return self._decode("signed_distance", state, points)

    def average(self, states: Any, dim: int) -> Any:
        """The mean state over one batch axis `dim`, which is dropped.

        The default takes the arithmetic mean of the floating-point fields and the first entry of the others; scenes whose fields hold angles or
        quaternions override it.
        """
        axis = dim % states.batch_dims
        first = states[(slice(None),) * axis + (0,)]
        mean = {name: value.mean(dim=axis) for name, value in fields_of(states).items() if value.is_floating_point()}
        return first.replace(**mean) if mean else first


@cache
def _overridden(kind: type[Scene]) -> frozenset[str]:
    """The views that a class of scenes offers without a decoder."""
    return frozenset({"coordinates"} | {name for name in VIEW_NAMES if getattr(kind, name) is not getattr(Scene, name)})
