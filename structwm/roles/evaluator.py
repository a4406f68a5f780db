"""The evaluator: how well any model predicts windows of episodes, and how well it chooses among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.scene import Scene
from structwm.training.open_loop import OpenLoop, errors_of_rollout, evaluating, joined, open_loop_errors, predict
from structwm.training.windows import Batch
from structwm.transition import TransitionModel

from .coverage import TOGETHER, Coverage, Regions, between_members, inside_regions, shown_levels
from .evaluation import Comparison, Evaluation, Quantity
from .ranking import Interval, Ranking, draw_candidates, rank

Outcome = Callable[[Any, Any], Tensor]
"""From last states and start states, each of batch_size (N,), to features (N, D) whose Euclidean distance is the cost of a candidate."""
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class CoordinateChange:
    """The default outcome: how far each coordinate changed, in standard deviations of that change over the recorded windows.

    Windows that start in different states compare by what they did. Angles count as points of a circle, so that turns by pi and by -pi are alike.
    """

    scene: Scene
    scale: Tensor  # (D,) in the coordinates' units; 0 where a coordinate never changes or does not count

    @classmethod
    def of(cls, scene: Scene, last: Any, start: Any, only: Sequence[str] = ()) -> CoordinateChange:
        """Scaled by recorded states of batch_size (N,); of all coordinates, or of those named."""
        counts = torch.tensor([not only or name in only for name in scene.coordinate_names(last)])
        change = scene.coordinate_difference(last, start)
        return cls(scene, change.std(0, correction=0) * counts.to(change))

    def __call__(self, last: Any, start: Any) -> Tensor:
        change, moves = self.scene.coordinate_difference(last, start), self.scale > 0
        turns = torch.tensor([name in self.scene.periodic for name in self.scene.coordinate_names(last)], device=change.device)
        plain, angles = moves & ~turns, moves & turns
        wide = torch.cat([change[:, angles].sin(), change[:, angles].cos()], -1)
        return torch.cat([change[:, plain] / self.scale[plain], wide / self.scale[angles].repeat(2)], -1)


def evaluate(
    model: TransitionModel[Any],
    windows: Any,
    *,
    name: str | None = None,
    coordinates: Sequence[str] = (),
    goals: int = 200,
    candidates: int = 32,
    outcome: Outcome | None = None,
    cost_unit: str | None = None,
    groups: Sequence[Hashable] | None = None,
    regions: Regions | Sequence[Regions] = (),
    levels: Sequence[float] = LEVELS,
    batch: int = 1024,
    seed: int = 0,
) -> Evaluation:
    """Judge a model on recorded windows.

    Args:
        model: any model; its mean predictions are judged, of members their mean, without gradients.
        windows: a `Batch`, `EpisodeWindows`, or anything sliced alike; N windows of H steps that the model was not fitted to. Those whose start was not fully
            observed, and those that show nothing later, are left out and counted.
        name: in the table; by default the model's class.
        coordinates: names of those that count; all by default. Leave out what an action sets directly, such as a pusher's place: it makes figures look good.
        goals: how many windows' recorded outcomes are goals in turn.
        candidates: windows among which the one is sought that gets nearest to the goal; the goal's own is never among them.
        outcome: what of a window's end counts. The true cost of a candidate is the distance of its recorded outcome from the goal, the predicted cost that of
            the predicted outcome. Default: `CoordinateChange`.
        cost_unit: unit of those distances; "sd", standard deviations, by default.
        groups: a label for each window, such as the object; candidates are of the goal's group, and regions that were fitted with groups take them for theirs.
        regions: predicted regions whose coverage is measured, such as `ConformalRegions` of one or several levels.
        levels: nominal levels of the central intervals of members whose coverage is measured; left out are those that so few members cannot show.
        batch: windows rolled out at once.
        seed: of goals and candidates; equal for all models that are compared.

    Raises:
        ValueError: if there are no windows, none of which enough was observed, not one label for each, or no such coordinate.
    """
    count = len(windows)
    if count == 0:
        raise ValueError("evaluate needs at least one window, got none.")
    if groups is not None and len(groups) != count:
        raise ValueError(f"evaluate needs a group for each of the {count} windows, got {len(groups)}.")
    known = model.scene.coordinate_names(windows[:1].states)
    strange = [coordinate for coordinate in coordinates if coordinate not in known]
    if strange:
        raise ValueError(f"{name or type(model).__name__} has no coordinate {strange[0]!r}; it has {', '.join(known)}.")
    shown = shown_levels(model.spec.members, levels) if model.spec.members > 1 else ()
    parts: list[_Seen] = []
    kept: list[int] = []
    with torch.no_grad(), evaluating(model):
        for first in range(0, count, batch):
            part = windows[first : first + batch]
            useful = (part.observed()[:, 0] & part.seen()[:, 1:].any(1)).nonzero()[:, 0]
            if len(useful):
                parts.append(_look(model, part[useful], len(kept), shown))
                kept += (first + useful).tolist()
    if not parts:
        raise ValueError(f"evaluate needs windows whose start was fully observed and something after it, got {count} others; look for NaN and steps not valid.")
    seen, labels = _Seen.joined(parts), None if groups is None else [groups[index] for index in kept]
    quantities, broken = _quantities(seen, coordinates or known)
    return Evaluation(
        name=name or type(model).__name__,
        windows=len(kept),
        horizon=seen.free.errors.shape[1],
        dt=model.spec.dt,
        quantities=quantities,
        relative=_relative([quantity for quantity in quantities if quantity.name in known]),
        broken=broken,
        ranking=_ranking(model.scene, seen, outcome, coordinates, labels, goals, candidates, seed),
        coverage=tuple(_coverage(seen, coordinates or known, shown, regions if isinstance(regions, Sequence) else [regions], labels)),
        cost_unit=cost_unit or ("sd" if outcome is None else ""),
        left_out=count - len(kept),
    )


def compare(models: Mapping[str, TransitionModel[Any]], windows: Any, **options: Any) -> Comparison:
    """Judge several models on the same windows, goals and candidates.

    Args:
        models: by the name they have in the table.
        windows: as for `evaluate`; or by model name, where models read episodes differently.
        options: of `evaluate`.

    Raises:
        ValueError: if there are no models.
    """
    if not models:
        raise ValueError("compare needs at least one model, got none.")
    own = windows if isinstance(windows, Mapping) else dict.fromkeys(models, windows)
    return Comparison({name: evaluate(model, own[name], name=name, **options) for name, model in models.items()})


@dataclass(frozen=True)
class _Seen:
    """What a model predicted of some windows."""

    free: OpenLoop  # rollouts
    single: OpenLoop  # one step from each observed state
    window: Tensor  # (M,) the window of each single step
    start: Any  # states (N,)
    recorded: Any  # states (N,) at the last observed step
    predicted: Any  # states (N,) there
    usable: Tensor  # bool (N,), something was fully observed after the start
    inside: Tensor | None  # bool (N, L, H, D) of members

    @classmethod
    def joined(cls, parts: Sequence[_Seen]) -> _Seen:
        together = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("window", "start", "recorded", "predicted", "usable")}
        inside = None if parts[0].inside is None else torch.cat([part.inside for part in parts if part.inside is not None])
        singles = [part.single for part in parts if len(part.single.errors)]
        return cls(joined([part.free for part in parts]), joined(singles or [parts[0].single]), inside=inside, **together)


def _look(model: TransitionModel[Any], batch: Batch, first: int, levels: Sequence[float]) -> _Seen:
    """Roll out from the windows' starts, and one step from each observed state."""
    weight = next(model.parameters(), None)
    batch = batch if weight is None else batch.to(weight.device)
    known = batch.observed()
    at, step = (known[:, :-1] & batch.seen()[:, 1:]).nonzero(as_tuple=True)
    pairs = torch.stack([batch.states[at, step], batch.states[at, step + 1]], 1)
    steps = Batch(pairs, batch.actions[at, step].unsqueeze(1), batch.valid.new_ones(len(at), 2))
    trajectory = predict(model, batch)
    free = errors_of_rollout(trajectory, batch)
    single = open_loop_errors(model, steps, batch=len(batch)) if len(steps) else free[:0]
    states, inside = trajectory.states, None
    if model.spec.members > 1:
        deviations = model.scene.coordinate_difference(states, batch.states.unsqueeze(1))[:, :, 1:]
        periodic = torch.tensor([name in model.scene.periodic for name in free.names], device=deviations.device)
        inside = between_members(deviations, levels, periodic=periodic) if levels else None
        states = model.scene.average(states, 1)
    last = (known * torch.arange(known.shape[1], device=known.device)).argmax(1)
    row = torch.arange(len(batch), device=known.device)
    return _Seen(free, single, first + at, batch.start, batch.states[row, last], states[row, last], last > 0, inside)


def _quantities(seen: _Seen, names: Sequence[str]) -> tuple[tuple[Quantity, ...], float]:
    """Coordinates and points, and the share of predictions that are not finite."""
    named = enumerate(zip(seen.free.names, seen.free.units, strict=True))
    parts: list[tuple[str, str, Any, Any]] = [(name, unit, _column(seen.single, d), _column(seen.free, d)) for d, (name, unit) in named if name in names]
    if seen.free.point_errors is not None:
        parts.append(("points", "m", (seen.single.point_errors, seen.single.point_changes), (seen.free.point_errors, seen.free.point_changes)))
    found, broken, judged = [], 0, 0
    window = seen.window.cpu().numpy()
    for name, unit, single, free in parts:
        (one, one_still), (errors, still) = _absolute(*single), _absolute(*free)
        broken, judged = broken + int(np.isinf(errors).sum()), judged + int((~np.isnan(errors)).sum())
        found.append(Quantity(name, unit, one[:, 0], one_still[:, 0], window, errors, still))
    return tuple(found), broken / max(judged, 1)


def _column(part: OpenLoop, d: int) -> tuple[Tensor, Tensor]:
    return part.errors[..., d], part.changes[..., d]


def _absolute(errors: Any, changes: Any) -> tuple[np.ndarray, np.ndarray]:
    return errors.abs().double().cpu().numpy(), changes.abs().double().cpu().numpy()


def _relative(quantities: Sequence[Quantity]) -> Interval:
    """Mean error over mean change, averaged over the coordinates that change, with an interval over windows."""
    ratios = [q.errors / np.nanmean(q.still) for q in quantities if np.nansum(q.still) > 0]
    if not ratios:
        return Interval(float("nan"))
    stacked = np.stack(ratios, -1).reshape(len(ratios[0]), -1)
    known = ~np.isnan(stacked)
    return Interval.of_mean(np.where(known.any(1), np.where(known, stacked, 0.0).sum(1), np.nan), over=known.sum(1))


def _ranking(
    scene: Scene, seen: _Seen, outcome: Outcome | None, only: Sequence[str], groups: Sequence[Hashable] | None, goals: int, candidates: int, seed: int
) -> Ranking | None:
    """Over windows whose end was observed; None where there are fewer than three of a group."""
    usable = seen.usable.nonzero()[:, 0]
    labels = [None if groups is None else groups[int(index)] for index in usable]
    if max(Counter(labels).values(), default=0) < 3:
        return None
    start, recorded, predicted = (states[usable] for states in (seen.start, seen.recorded, seen.predicted))
    outcome = outcome or CoordinateChange.of(scene, recorded, start, only)
    with torch.no_grad():
        theirs, ours = (outcome(states, start).double().cpu().numpy() for states in (recorded, predicted))
    goal, table = draw_candidates(labels, goals=goals, candidates=candidates, seed=seed)
    there = table >= 0
    with np.errstate(invalid="ignore", over="ignore"):
        costs = [np.where(there, np.linalg.norm(features[table] - theirs[goal][:, None], axis=-1), np.nan) for features in (ours, theirs)]
    return rank(*costs, seed=seed)


def _coverage(seen: _Seen, shown: Sequence[str], levels: Sequence[float], regions: Sequence[Regions], groups: Sequence[Hashable] | None) -> Iterator[Coverage]:
    """Of members, then of regions with equal columns."""
    judged = seen.free.changes.isfinite().cpu()
    if seen.inside is not None:
        at = [d for d, name in enumerate(seen.free.names) if name in shown]
        yield Coverage.of("members", [seen.free.names[d] for d in at], levels, seen.inside.cpu()[..., at], judged[..., at])
    errors, spread = seen.free.errors.cpu(), None if seen.free.spread is None else seen.free.spread.cpu()
    found = sorted(((region.level, inside_regions(region, errors, spread, groups)) for region in regions), key=lambda pair: pair[0])
    for width in sorted({inside.shape[-1] for _, inside in found}):
        chosen = [(level, inside) for level, inside in found if inside.shape[-1] == width]
        each = width == judged.shape[-1]
        names = seen.free.names if each else (TOGETHER,)
        inside = torch.stack([inside for _, inside in chosen], 1)
        yield Coverage.of("regions", names, [level for level, _ in chosen], inside, judged if each else judged.all(-1, keepdim=True))
