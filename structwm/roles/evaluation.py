"""What an evaluation finds: prediction errors by quantity, ranking and coverage, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structwm.training.open_loop import clustered_standard_error

from .coverage import Coverage
from .ranking import LEVEL, Interval, Ranking, Z

if TYPE_CHECKING:
    from rich.table import Table

Array = NDArray[Any]
VERSION = 1
DRAWS = 200  # bootstrap draws of a drift


@dataclass(frozen=True)
class Quantity:
    """Absolute errors of one coordinate, or of the points [m], beside those of holding still. NaN where nothing was observed, inf where a prediction broke."""

    name: str
    unit: str
    one_step: Array  # (M,) of predictions of one step from observed states
    one_step_still: Array  # (M,)
    window: Array  # (M,) the window each is from
    errors: Array  # (N, H) of free-running rollouts
    still: Array  # (N, H)

    @cached_property
    def one_step_mean(self) -> Interval:
        """Mean one-step error."""
        mean = _mean(self.one_step)
        return Interval(mean, mean - Z * self.standard_error, mean + Z * self.standard_error)

    @cached_property
    def standard_error(self) -> float:
        """Of the mean one-step error; steps of one window count as depending on each other."""
        known = ~np.isnan(self.one_step)
        values, window = self.one_step[known], self.window[known]
        if not len(values) or not np.isfinite(values).all():
            return float("nan")
        return clustered_standard_error(values, window)

    @cached_property
    def last(self) -> Interval:
        """Mean error after the whole horizon."""
        return Interval.of_mean(self.errors[:, -1])

    def curve(self, which: str = "errors") -> dict[str, Array]:
        """By step of the horizon, each (H,): mean, median, and the quartiles `low` and `high`; of the model's `errors` or of holding `still`."""
        values = getattr(self, which)
        rows = [_quartiles(column) for column in values.T]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    @cached_property
    def drift(self) -> Interval:
        """Slope of the mean error over the steps of the horizon, per step, by the median of the slopes between all steps (Theil, 1950; Sen, 1968)."""
        return _slope(self.errors)

    @cached_property
    def still_drift(self) -> Interval:
        """The same of holding still."""
        return _slope(self.still)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        one = {"mean": self.one_step_mean.value, "standard_error": self.standard_error, "median": _median(self.one_step)}
        one |= {"still_mean": _mean(self.one_step_still), "still_median": _median(self.one_step_still), "count": int((~np.isnan(self.one_step)).sum())}
        curves = self.curve() | {f"still_{name}": values for name, values in self.curve("still").items() if name in ("mean", "median")}
        drift = {"drift_per_step": self.drift.to_json(), "still_drift_per_step": self.still_drift.to_json()}
        return strict({"name": self.name, "unit": self.unit, "one_step": one, "open_loop": {name: list(v) for name, v in curves.items()}} | drift)


@dataclass(frozen=True)
class Row:
    """One figure of an evaluation, with what a trivial model scores."""

    section: str
    label: str
    unit: str
    value: Interval
    beside: str  # in words


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on N windows of H steps."""

    name: str
    windows: int  # N
    horizon: int  # H
    dt: float | None  # of a step [s]
    quantities: tuple[Quantity, ...]  # coordinates, then points where the scene shows them
    relative: Interval  # error of rollouts over that of holding still, averaged over coordinates and steps: 1 is as bad as holding still
    broken: float  # share of the predictions of something observed that are not finite
    ranking: Ranking | None  # None where the windows are too few
    coverage: tuple[Coverage, ...] = ()
    cost_unit: str = "sd"  # of the ranking's costs
    left_out: int = 0  # further windows, whose start was not fully observed or nothing after it

    @property
    def scope(self) -> str:
        """What was judged, in words."""
        step = "" if self.dt is None else f" of {self.dt:g} s"
        left_out = f" ({self.left_out} unobserved ones left out)" if self.left_out else ""
        return f"{self.windows} windows of {self.horizon} steps{step}{left_out}"

    def rows(self) -> list[Row]:
        """Every figure of the table."""
        end = f"after {self.horizon} steps"
        found = []
        for section, value in (("one step", "one_step_mean"), (end, "last"), ("drift per step", "drift")):
            for q in self.quantities:
                still = {"one_step_mean": _mean(q.one_step_still), "last": _mean(q.still[:, -1]), "drift": q.still_drift.value}[value]
                found.append(Row(section, q.name, q.unit, getattr(q, value), f"{number(still)} hold still"))
        found.append(Row("rollouts", "relative error", "", self.relative, "1 hold still"))
        if self.broken > 0:
            found.append(Row("rollouts", "predictions not finite", "", Interval(self.broken), "0"))
        if self.ranking is not None:
            found += _ranking_rows(self.ranking, self.cost_unit)
        for coverage in self.coverage:
            pairs = zip(coverage.levels, coverage.overall, strict=True)
            found += [Row(coverage.title, f"inside {100 * level:g} % intervals", "", share, f"{level:g} nominal") for level, share in pairs]
        return found

    def table(self) -> Table:
        """Every figure with its 90 % interval, beside a trivial model's."""
        from rich.table import Table

        table = Table("", "mean error or figure", "model", "90 % interval", "beside", title=f"{self.name}: {self.scope}")
        before = ""
        for row in self.rows():
            if before and row.section != before:
                table.add_section()
            span = f"{number(row.value.low)} to {number(row.value.high)}" if np.isfinite(row.value.low) else ""
            table.add_row("" if row.section == before else row.section, _label(row), number(row.value.value), span, row.beside)
            before = row.section
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null where a figure is undefined or not finite."""
        content = {"format": "structwm-evaluation", "version": VERSION, "model": self.name, "windows": self.windows, "horizon": self.horizon, "dt": self.dt}
        content |= {"interval_level": LEVEL, "relative_error": self.relative.to_json(), "broken": self.broken, "left_out": self.left_out}
        content |= {"quantities": [q.to_json() for q in self.quantities], "ranking": self.ranking and self.ranking.to_json() | {"cost_unit": self.cost_unit}}
        plain: dict[str, Any] = strict(content | {"coverage": [coverage.to_json() for coverage in self.coverage]})
        return plain


@dataclass(frozen=True)
class Comparison:
    """Evaluations of several models on the same windows, goals and candidates."""

    evaluations: Mapping[str, Evaluation]

    def table(self) -> Table:
        """A column per model; the best mean of each row is bold."""
        from rich.table import Table

        first = next(iter(self.evaluations.values()))
        table = Table("", "mean error or figure", *self.evaluations, "beside", title=first.scope)
        found = {name: {(row.section, row.label): row for row in evaluation.rows()} for name, evaluation in self.evaluations.items()}
        keys = list(dict.fromkeys(key for rows in found.values() for key in rows))
        sections = list(dict.fromkeys(section for section, _ in keys))
        keys.sort(key=lambda key: sections.index(key[0]))
        before = ""
        for key in keys:
            rows = [rows.get(key) for rows in found.values()]
            row = next(row for row in rows if row is not None)
            if before and key[0] != before:
                table.add_section()
            table.add_row("" if key[0] == before else key[0], _label(row), *_marked(rows), row.beside)
            before = key[0]
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the evaluations by name."""
        return {name: evaluation.to_json() for name, evaluation in self.evaluations.items()}


def _ranking_rows(ranking: Ranking, unit: str) -> list[Row]:
    section = f"choosing of {ranking.candidates}"
    return [
        Row(section, "Kendall's tau", "", ranking.tau, "0 random"),
        Row(section, "regret", unit, ranking.regret, f"{number(ranking.random_regret.value)} random"),
        Row(section, "regret over random", "", ranking.relative_regret, "1 random"),
        Row(section, "cost of the best", unit, ranking.oracle_cost, "oracle"),
        Row(section, "best one chosen", "", ranking.hit_rate, f"{number(ranking.random_hit_rate)} random"),
    ]


def _marked(rows: list[Row | None]) -> list[str]:
    """The values of a row, the best one bold; a coverage, or what is the same for all, has no best."""
    values = [float("nan") if row is None else row.value.value for row in rows]
    row = next(row for row in rows if row is not None)
    judged = not row.section.startswith("coverage") and row.label != "cost of the best" and len(values) > 1 and np.isfinite(values).any()
    best = (np.nanmax(values) if row.label in ("Kendall's tau", "best one chosen") else np.nanmin(values)) if judged else None
    texts = ["" if r is None else number(value) for r, value in zip(rows, values, strict=True)]
    return [f"[bold]{text}[/bold]" if judged and value == best else text for text, value in zip(texts, values, strict=True)]


def _label(row: Row) -> str:
    return f"{row.label} \\[{row.unit}]" if row.unit else row.label.replace("[", "\\[")


def number(value: float) -> str:
    """Three figures, or a word where it is undefined."""
    return "undefined" if np.isnan(value) else f"{value:.3g}"


def strict(value: Any) -> Any:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {name: strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _known(values: Array) -> Array:
    known: Array = values[~np.isnan(values)]
    return known


def _mean(values: Array) -> float:
    known = _known(values)
    return float(known.mean()) if len(known) else float("nan")


def _median(values: Array) -> float:
    known = _known(values)
    return float(np.median(known)) if len(known) else float("nan")


def _quartiles(values: Array) -> dict[str, float]:
    known = _known(values)
    if not len(known):
        return dict.fromkeys(("mean", "median", "low", "high"), float("nan"))
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75], method="closest_observation")
    return {"mean": float(known.mean()), "median": float(middle), "low": float(low), "high": float(high)}


def _slope(errors: Array) -> Interval:
    """The Theil-Sen slope of the mean of errors (N, H) over H, with a bootstrap over windows; undefined for one step or errors that are not finite."""
    known = ~np.isnan(errors)
    errors, known = errors[:, known.any(0)], known[:, known.any(0)]
    if errors.shape[1] < 2 or np.isinf(errors).any():
        return Interval(float("nan"))
    filled, steps = np.where(known, errors, 0.0), np.flatnonzero(known.any(0))
    early, late = np.triu_indices(errors.shape[1], 1)
    weights = np.random.default_rng(0).multinomial(len(errors), np.full(len(errors), 1 / len(errors)), size=DRAWS)
    curves = np.concatenate([np.ones((1, len(errors))), weights]) @ np.concatenate([filled, known], 1)
    with np.errstate(invalid="ignore"):
        means = curves[:, : errors.shape[1]] / curves[:, errors.shape[1] :]
    slopes = np.nanmedian((means[:, late] - means[:, early]) / (steps[late] - steps[early]), axis=1)
    return Interval(float(slopes[0]), *(float(x) for x in np.quantile(slopes[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))
