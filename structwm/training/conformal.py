"""Regions around predictions that hold a stated share of what will be observed, whatever the distribution of the errors (conformal prediction).

From N errors of predictions of data that the model did not see, the region of level 1 - alpha is bounded by the ceil((N + 1)(1 - alpha))-th smallest error
score: a new error that is exchangeable with them lies inside with probability at least 1 - alpha (Vovk et al., "Algorithmic Learning in a Random World", 2005;
Lei et al., JASA 2018). Every step of the horizon has a threshold of its own (Stankeviciute et al., NeurIPS 2021). Scores are errors over a scale that a model
gives for each prediction, so that regions are small where the model is sure.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle

Kind = Literal["box", "ellipsoid", "each"]
LEAST = 1e-12  # scores and scales below are taken to be this


@dataclass(frozen=True)
class CoverageRate:
    """Which share of observations lay inside, each (H,), or (H, D) for regions of the kind `each`; with a Wilson interval of 90 %."""

    rate: Tensor
    low: Tensor
    high: Tensor
    count: Tensor  # of the observations judged

    @classmethod
    def of(cls, inside: Tensor, judged: Tensor, *, z: float = 1.645) -> CoverageRate:
        """From bool tensors (N, ...): what lay inside, of those judged."""
        n = judged.sum(0).double()
        rate = (inside & judged).sum(0) / n
        middle, reach = (rate + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)).sqrt()
        return cls(rate, middle - reach, middle + reach, judged.sum(0))


@dataclass(frozen=True)
class ConformalRegions:
    """Regions of one level for the errors of predictions over H steps of D coordinates.

    A normalised error is `transform[h] @ (error / spread)`. Its score is the largest component for a `box` and the length for an `ellipsoid`: both hold all
    coordinates at once with the level. With `each`, every coordinate has the level by itself.
    """

    kind: Kind
    level: float
    transform: Tensor  # (H, D, D), diagonal but for ellipsoids
    thresholds: Tensor  # (H, 1), or (H, D) for `each`: of the scores
    scaled: bool = False  # whether errors are divided by a spread
    periodic: tuple[int, ...] = ()  # coordinates that are angles [rad], whose errors are taken modulo 2 pi
    factors: Mapping[str, float] = field(default_factory=dict)  # size of the scores of each group of predictions, relative to all

    @classmethod
    def fit(
        cls,
        errors: Tensor,
        spread: Tensor | None = None,
        *,
        level: float = 0.9,
        kind: Kind = "box",
        periodic: Sequence[int] = (),
        simultaneous: bool = False,
        groups: Sequence[Hashable] | None = None,
        shrinkage: float = 20.0,
        shaping: float = 0.0,
        seed: int = 0,
    ) -> ConformalRegions:
        """From errors (N, H, D) of predictions of data that the model did not see: NaN where nothing was observed, infinite where a prediction broke.

        What broke lies outside of all finite regions; where too much did, regions are infinite.

        Args:
            errors: predicted minus observed; an instant counts for a box or an ellipsoid if all its coordinates were observed.
            spread: scale of each error (N, H, D), in its unit, such as the standard deviation over members or a `SpreadScale`.
            level: probability that a region holds what is observed.
            kind: `box`, `ellipsoid` or `each`.
            periodic: indices of coordinates that are angles [rad].
            simultaneous: with the level, the regions of all H steps hold together what is observed.
            groups: a label for each of the N, such as the object: scores are also divided by the group's own size, drawn towards that of all by `shrinkage`.
            shrinkage: how many errors of average size every group is given besides its own.
            shaping: fraction of the N, drawn at random, that sets how large coordinates and groups are relative to one another and is then left out. With 0
                all errors serve for both: no exact guarantee any more, as the shape has seen the errors; the coverage lost is of the order of its parameters,
                one a group among them, over N.
            seed: of that draw.

        Raises:
            ValueError: if the shapes, the level or the fraction are impossible, or a step has fewer than level / (1 - level) errors.
        """
        _check(errors, spread, level, kind, groups, shaping)
        normal = cls(kind, level, torch.eye(errors.shape[-1]).expand(*errors.shape[1:], -1).to(errors), errors[0], spread is not None, tuple(periodic))
        ratios = normal._ratios(errors, spread)
        order = torch.randperm(len(errors), generator=torch.Generator().manual_seed(seed))
        few = max(round(shaping * len(errors)), 1) if shaping > 0 else 0
        shape, rest = (order[:few], order[few:]) if few else (order, order)
        transform = torch.stack([_transform(step, kind, level) for step in ratios[shape].unbind(1)])
        scores = cls(kind, level, transform, errors[0])._scores(ratios)
        factors = {} if groups is None else _group_sizes(scores[shape], [groups[i] for i in shape.tolist()], shrinkage)
        scores = scores / cls(kind, level, transform, errors[0], factors=factors)._factor(groups, scores)
        scores = scores[rest]
        thresholds = torch.stack([torch.stack([_quantile(column, level, h) for column in scores[:, h].unbind(-1)]) for h in range(scores.shape[1])])
        if simultaneous:
            size = torch.where(thresholds.isinf() & ~scores.isnan(), LEAST, scores / thresholds.clamp_min(LEAST))  # an infinite region holds all
            thresholds = thresholds.clamp_min(LEAST) * _quantile(size.nan_to_num(-1.0, posinf=math.inf).amax(1).amax(-1), level, None).clamp_min(LEAST)
        return cls(kind, level, transform, thresholds, spread is not None, tuple(periodic), factors)

    def contains(self, errors: Tensor, spread: Tensor | None = None, groups: Sequence[Hashable] | None = None) -> Tensor:
        """Whether errors (N, H, D) lie inside, bool (N, H), or (N, H, D) for `each`. False where nothing was observed."""
        scores = self._scores(self._ratios(errors, spread)) / self._factor(groups, errors)
        inside = scores <= self.thresholds
        return inside if self.kind == "each" else inside.squeeze(-1)

    def coverage(self, errors: Tensor, spread: Tensor | None = None, groups: Sequence[Hashable] | None = None) -> CoverageRate:
        """How often errors (N, H, D) lie inside, of those observed."""
        judged = ~errors.isnan() if self.kind == "each" else ~errors.isnan().any(-1)
        return CoverageRate.of(self.contains(errors, spread, groups), judged)

    def half_widths(self, spread: Tensor | None = None, groups: Sequence[Hashable] | None = None) -> Tensor:
        """How far regions reach from the prediction along each coordinate, (N, H, D) in its unit; (1, H, D) without spread and groups."""
        self._expect(spread)
        reach = (torch.linalg.inv(self.transform).square().sum(-1).sqrt() * self.thresholds)[None]
        return reach * self._factor(groups, reach) * (1.0 if spread is None else spread.clamp_min(LEAST))

    def volume(self, spread: Tensor | None = None, groups: Sequence[Hashable] | None = None) -> Tensor:
        """Volume of the regions (N, H), in the product of the coordinates' units."""
        widths = self.half_widths(spread, groups)
        if self.kind != "ellipsoid":
            return (2 * widths).prod(-1)
        size = widths.shape[-1]
        ball = math.pi ** (size / 2) / math.gamma(size / 2 + 1)
        correlated = 1.0 / (torch.linalg.det(self.transform) * torch.linalg.inv(self.transform).square().sum(-1).sqrt().prod(-1))
        return ball * widths.prod(-1) * correlated

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for `from_json`."""
        return {
            "kind": self.kind,
            "level": self.level,
            "transform": self.transform.tolist(),
            "thresholds": [[value if math.isfinite(value) else "inf" for value in step] for step in self.thresholds.tolist()],
            "scaled": self.scaled,
            "periodic": list(self.periodic),
            "factors": dict(self.factors),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ConformalRegions:
        """The inverse of `to_json`."""
        thresholds = torch.tensor([[float(each) for each in step] for step in value["thresholds"]], dtype=torch.float64)
        transform = torch.tensor(value["transform"], dtype=torch.float64)
        return cls(
            value["kind"], value["level"], transform, thresholds, scaled=value["scaled"], periodic=tuple(value["periodic"]), factors=dict(value["factors"])
        )

    def _expect(self, spread: Tensor | None) -> None:
        if (spread is not None) != self.scaled:
            raise ValueError(f"These regions were fitted {'with' if self.scaled else 'without'} a spread; {'give one' if self.scaled else 'leave it out'}.")

    def _ratios(self, errors: Tensor, spread: Tensor | None) -> Tensor:
        """Errors over their spread, angles wrapped, (N, H, D); NaN only where nothing was observed."""
        self._expect(spread)
        angle = torch.tensor([d in self.periodic for d in range(errors.shape[-1])], device=errors.device)
        wrapped = torch.where(angle & errors.isfinite(), wrap_angle(errors), errors)
        ratios = wrapped if spread is None else wrapped / spread.clamp_min(LEAST)
        return ratios.masked_fill(ratios.isnan() & ~errors.isnan(), math.inf)  # of a prediction whose spread broke, too

    def _scores(self, ratios: Tensor) -> Tensor:
        """(N, H, 1), or (N, H, D) for `each`; NaN where a coordinate was not observed."""
        transform = self.transform.to(ratios)
        if self.kind == "ellipsoid":
            length = torch.einsum("hij,nhj->nhi", transform, torch.where(ratios.isinf(), 0.0, ratios)).norm(dim=-1, keepdim=True)
            return length.masked_fill(ratios.isinf().any(-1, keepdim=True) & ~length.isnan(), math.inf)
        each = (ratios * transform.diagonal(dim1=-2, dim2=-1)).abs()
        return each if self.kind == "each" else each.amax(-1, keepdim=True)  # amax hands NaN on

    def _factor(self, groups: Sequence[Hashable] | None, like: Tensor) -> Tensor | float:
        """(N, 1, 1), one for labels that were never seen."""
        return 1.0 if groups is None else torch.tensor([self.factors.get(str(label), 1.0) for label in groups]).to(like)[:, None, None]


def _check(errors: Tensor, spread: Tensor | None, level: float, kind: str, groups: Sequence[Hashable] | None, shaping: float) -> None:
    if errors.ndim != 3 or (spread is not None and spread.shape != errors.shape):
        got = "none" if spread is None else str(tuple(spread.shape))
        raise ValueError(f"ConformalRegions needs errors (N, H, D) and a spread of that shape or none, got {tuple(errors.shape)} and {got}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"ConformalRegions needs a level between 0 and 1, got {level}.")
    if not 0.0 <= shaping < 1.0:
        raise ValueError(f"ConformalRegions needs a fraction shaping of at least 0 and below 1, got {shaping}.")
    if kind not in ("box", "ellipsoid", "each"):
        raise ValueError(f"ConformalRegions knows the kinds box, ellipsoid and each, got {kind!r}.")
    if groups is not None and len(groups) != len(errors):
        raise ValueError(f"ConformalRegions needs a group for each of the {len(errors)} predictions, got {len(groups)}.")
    seen = ~errors.isnan()
    for step, count in enumerate((seen if kind == "each" else seen.all(-1, keepdim=True)).sum(0).amin(-1).tolist()):
        _need(level, count, f"at step {step + 1}")


def conformal_quantile(scores: Tensor, level: float, *, where: str = "in all") -> Tensor:
    """The ceil((n + 1) level)-th smallest of n scores of either sign: a new score that is exchangeable with them is no larger with that level.

    Args:
        scores: (N,), NaN left out; infinity is last.
        level: between 0 and 1.
        where: the end of the sentence that refuses too few.

    Raises:
        ValueError: if there are fewer than level / (1 - level).
    """
    known = scores[~scores.isnan()].sort().values
    _need(level, len(known), where)
    return known[math.ceil((len(known) + 1) * level - 1e-9) - 1]


def _quantile(values: Tensor, level: float, step: int | None) -> Tensor:
    """The conformal quantile of values (N,): NaN and what was not observed, given as -1, are left out."""
    return conformal_quantile(values[values >= 0], level, where="over the horizon" if step is None else f"at step {step + 1}")


def _need(level: float, count: int, where: str) -> None:
    least = math.ceil(level / (1 - level) - 1e-9)
    if count < least:
        raise ValueError(f"Regions of level {level:g} need at least {least} errors, got {count} {where}.")


def _transform(ratios: Tensor, kind: Kind, level: float) -> Tensor:
    """(D, D) from errors over their spreads (N, D): what makes coordinates comparable."""
    if kind != "ellipsoid":
        finite = [column[column.isfinite()].abs() for column in ratios.unbind(-1)]
        sizes = [column.quantile(level) if len(column) else ratios.new_ones(()) for column in finite]
        return torch.stack(sizes).clamp_min(LEAST).reciprocal().diag()
    known = ratios[ratios.isfinite().all(-1)]
    count, size = known.shape
    if count <= size:
        raise ValueError(f"An ellipsoid of {size} coordinates needs more than {size} errors, got {count}.")
    covariance, share = known.T @ known / count, size / (count + size)
    for _ in range(10):  # of a Student-t distribution with 4 degrees of freedom, drawn towards its diagonal where errors are few
        covariance = (1 - share) * covariance + share * covariance.diagonal().diag() + LEAST**2 * torch.eye(size).to(known)
        distance = (known * torch.linalg.solve(covariance, known.T).T).sum(-1)
        covariance = (known.T * ((4 + size) / (4 + distance))) @ known / count
    covariance = (1 - share) * covariance + share * covariance.diagonal().diag() + LEAST**2 * torch.eye(size).to(known)
    lower = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(lower, torch.eye(size).to(known), upper=False)


def _group_sizes(scores: Tensor, groups: Sequence[Hashable], shrinkage: float) -> dict[str, float]:
    """Geometric mean of each group's finite scores over that of all, drawn towards one."""
    logs = (0.05 * scores[scores.isfinite()].square().mean() + scores.square()).clamp_min(LEAST**2).log() / 2
    logs = torch.where(logs.isfinite(), logs - logs[logs.isfinite()].mean(), math.nan).nanmean((1, 2))
    sizes = {}
    for label in dict.fromkeys(groups):
        own = logs[torch.tensor([other == label for other in groups])]
        own = own[own.isfinite()]
        sizes[str(label)] = float((own.sum() / max(len(own) + shrinkage, LEAST)).exp())
    return sizes
