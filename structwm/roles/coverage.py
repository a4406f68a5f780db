"""Whether stated uncertainty is true: the share of observations inside intervals of a stated level."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ranking import Interval

Array = NDArray[Any]
TOGETHER = "all coordinates"


class Regions(Protocol):
    """Regions around predictions: `level` is the share of observations they should hold.

    Those that have `factors`, as `ConformalRegions` fitted with groups do, are also told the group of each of the N by `contains(..., groups=)`.
    """

    @property
    def level(self) -> float: ...
    def contains(self, errors: Tensor, spread: Tensor | None = None) -> Tensor:
        """Whether errors (N, H, D) lie inside, bool (N, H), or (N, H, D) where each coordinate has a region of its own."""
        ...


@dataclass(frozen=True)
class Coverage:
    """Share of observations inside, for L nominal levels. The units of the intervals of `overall` are windows, not steps, which depend on each other."""

    source: str  # "members": central intervals of an ensemble; "regions": what was given
    names: tuple[str, ...]  # of the D columns: coordinates, or `TOGETHER` where they are judged together
    levels: tuple[float, ...]  # nominal, (L,); of members, those that so many can show
    share: Array  # (L, H, D) observed; NaN where nothing was observed
    overall: tuple[Interval, ...]  # (L,) mean over windows, steps and columns

    @property
    def title(self) -> str:
        """What is covered by what, in words."""
        return f"coverage of {self.source}" + (", all at once" if self.names == (TOGETHER,) else "")

    @classmethod
    def of(cls, source: str, names: Sequence[str], levels: Sequence[float], inside: Tensor, judged: Tensor) -> Coverage:
        """From what lay inside, bool (N, L, H, D), and what was judged, bool (N, H, D)."""
        known = judged.unsqueeze(1)
        count = known.sum(0).double()
        share = (inside & known).sum(0).double() / count
        windows = (inside & known).sum((2, 3)).double() / known.sum((2, 3)).double()
        return cls(source, tuple(names), tuple(levels), share.numpy(), tuple(Interval.of_mean(column.numpy()) for column in windows.unbind(1)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        by_step = [[[value if np.isfinite(value) else None for value in step] for step in level] for level in self.share.tolist()]
        overall = [interval.to_json() for interval in self.overall]
        return {"source": self.source, "names": list(self.names), "levels": list(self.levels), "share": by_step, "overall": overall}


def shown_levels(members: int, levels: Sequence[float]) -> tuple[float, ...]:
    """The levels that E members can show: an observation like them lies between the least and the greatest with probability (E - 1) / (E + 1)."""
    return tuple(level for level in levels if level <= (members - 1) / (members + 1) + 1e-9)


def between_members(deviations: Tensor, levels: Sequence[float], *, periodic: Tensor) -> Tensor:
    """Whether observations lie in the central intervals of E members, bool (N, L, H, D).

    Quantile p of the members is their order statistic number (E + 1) p, interpolated: an observation that is exchangeable with them lies inside with
    probability `level` (the "Weibull" rule of Hyndman and Fan, American Statistician 1996).

    Args:
        deviations: of the members from the observations, (N, E, H, D).
        levels: (L,) nominal.
        periodic: which of the coordinates are angles [rad], bool (D,); their intervals lie around the circular mean of the members.
    """
    ordered = torch.where(periodic, _on_a_line(deviations), deviations).sort(1).values
    count = ordered.shape[1]

    def quantile(p: float) -> Tensor:
        place = min(max((count + 1) * p - 1, 0.0), count - 1.0)
        low = min(int(place), count - 2)
        return ordered[:, low] + (place - low) * (ordered[:, low + 1] - ordered[:, low])

    return torch.stack([(quantile((1 - level) / 2) <= 0) & (quantile((1 + level) / 2) >= 0) for level in levels], 1)


def _on_a_line(angles: Tensor) -> Tensor:
    """Angles (N, E, H, D) [rad] plus whole turns, so that all E lie within pi of their circular mean, which lies within pi of zero."""
    mean = torch.atan2(angles.sin().nanmean(1, keepdim=True), angles.cos().nanmean(1, keepdim=True))
    return angles - 2 * math.pi * ((angles - mean) / (2 * math.pi)).round()


def inside_regions(regions: Regions, errors: Tensor, spread: Tensor | None, groups: Sequence[Hashable] | None = None) -> Tensor:
    """What regions hold, bool (N, H, 1) or (N, H, D); a spread is given to those that were fitted with one, and groups likewise."""
    scaled = getattr(regions, "scaled", spread is not None)
    grouped: dict[str, Any] = {"groups": groups} if groups is not None and getattr(regions, "factors", None) else {}
    inside = regions.contains(errors, spread if scaled else None, **grouped)
    return inside.unsqueeze(-1) if inside.ndim == 2 else inside
