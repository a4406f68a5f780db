"""Screens action sequences before they run: rejected are those that collide, violate a constraint, are unlike what the model knows, or on which members differ.

The limits have guarantees of two kinds, both from episodes that no fit saw, and both with a finite number of them:

- The *false alarm rate* on safe recorded behaviour (`calibrated`): of windows like those of the calibration episodes, an expected share of at least 1 - rate is
  accepted by all checks together.
- A *margin* on predicted constraint values (`with_margins`): from what was predicted and what was observed of proposals, such that the violating ones are kept
  out at a stated rate. `structwm.roles.risk_control.Share` names of what the rate is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from structwm.interfaces import Belief, require_views
from structwm.noise import Noise, problem_seeds
from structwm.planning.problems import count_problems
from structwm.planning.risk import Risk, WorstCase
from structwm.spec import Action
from structwm.state import State
from structwm.training.windows import Batch, episodes_of
from structwm.transition import Trajectory, TransitionModel

from .candidates import legal, roll_candidates, spread
from .checks import Check, Invalid
from .novelty import recorded
from .risk_control import Share, alarm_threshold, margin, require_episodes, worst_of
from .verdict import Verdict, joined


class ActionFilter:
    """Accepts or rejects candidates for B problems at once, with reasons.

    Args:
        model: predicts what candidates do; any transition model.
        checks: what may not happen, beside `Invalid`, which is always checked.
        risk: how the values of the E members, or belief particles, become one.
        particles: E, how many are drawn of a belief where the model has no members (None: all that it has), or how many futures of a state are drawn by a
            stochastic model (None: its mean prediction is judged).
        chunk: candidates of every problem that are judged at once; smaller needs less memory, and leaves no trajectory. None: all.

    Raises:
        ViewMissing: if the scene lacks a view that a check needs; the sentence names both.
        TypeError: on what is no check.
        ValueError: on checks of one name.
    """

    def __init__(
        self, model: TransitionModel[Any], checks: Sequence[Check], *, risk: Risk = WorstCase(), particles: int | None = None, chunk: int | None = None
    ) -> None:
        if isinstance(checks, Check):
            raise TypeError(f"ActionFilter takes checks as a sequence, got {type(checks).__name__} alone; put it into a list.")
        for check in checks:
            if not isinstance(check, Check):
                raise TypeError(f"ActionFilter needs checks of structwm.roles, got {type(check).__name__}; a constraint is checked by Violation(constraint).")
        require_views(model.scene, *checks)
        names = [check.name for check in checks]
        if len(set(names)) < len(names) or "invalid" in names:
            raise ValueError(f"ActionFilter needs checks of different names, none of them 'invalid', got {', '.join(names)}; give them a name=.")
        self.model, self.risk, self.particles, self.chunk = model, risk, particles, chunk
        self.checks: tuple[Check, ...] = (Invalid(), *checks)
        self.horizon: int | None = None  # steps for which learnt limits hold

    @torch.no_grad()
    def __call__(self, state: State | Belief[Any], actions: Action, *, seed: int | Tensor = 0) -> Verdict:
        """Judge candidates.

        Args:
            state: batch_size (B,), (B, E) for a model whose members have parted, or a belief over (B, E).
            actions: (B, S, H, A), int64 (B, S, H), or HybridAction of batch_size (B, S, H). Those outside the space are rejected, not refused.
            seed: of the draw from a belief, and of futures.

        Raises:
            ValueError: if a check has no limit yet, shapes do not fit, or H is longer than what the limits were learnt for.
        """
        open_ended = [check.name for check in self.checks if check.limit is None]
        if open_ended:
            raise ValueError(f"The check {open_ended[0]!r} has no limit yet; give it limit= or calibrate the filter with calibrated(windows, rate).")
        return self._judge(state, actions, seed)

    def _judge(self, state: State | Belief[Any], actions: Action, seed: int | Tensor = 0) -> Verdict:
        problems = count_problems(state)
        inside, actions = legal(self.model.spec.action, actions)
        if inside.ndim != 3 or inside.shape[0] != problems or not inside.shape[1]:
            raise ValueError(f"ActionFilter takes actions (B, S, H, ...) for {problems} problems, S at least 1, got axes {tuple(inside.shape)}.")
        if self.horizon is not None and inside.shape[2] > self.horizon:
            raise ValueError(f"This filter was calibrated on windows of {self.horizon} steps, got candidates of {inside.shape[2]}; use longer ones.")
        noise = Noise(problem_seeds(seed, problems))
        states = spread(self.model, state, self.particles, noise)
        futures = noise.child(2).sharing(1) if self.model.spec.traits.stochastic and self.particles else None
        width = self.chunk or inside.shape[1]
        parts = range(0, inside.shape[1], width)
        return joined([self._judge_part(states, actions[:, at : at + width], inside[:, at : at + width], futures) for at in parts])

    def _judge_part(self, states: Any, actions: Action, inside: Tensor, noise: Noise | None) -> Verdict:
        trajectory = roll_candidates(self.model, states, actions, noise=noise)
        return self._of_trajectory(trajectory, inside)

    def _of_trajectory(self, trajectory: Trajectory, inside: Tensor) -> Verdict:
        values, first = [], []
        for check in self.checks:
            measured = check.measure(trajectory, self.risk)
            value, steps = (part.double().nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf) for part in (measured.value, measured.steps))
            if isinstance(check, Invalid):
                steps = torch.maximum(steps, (~inside).to(steps))
                value = steps.amax(-1)
            values.append(value)
            limit = math.inf if check.limit is None else check.limit
            over = torch.cat((steps > limit, (value > limit).unsqueeze(-1)), -1)
            step = over.to(torch.int8).argmax(-1).clamp_max(steps.shape[-1] - 1)  # the whole counts where no step does by itself
            first.append(torch.where(value > limit, step, -1))
        broken = values[0] > 0
        first[1:] = [torch.where(broken, -1, step) for step in first[1:]]  # of what is invalid, nothing else is known
        limits = torch.tensor([math.inf if check.limit is None else check.limit for check in self.checks], dtype=torch.float64)
        return Verdict(self.checks, torch.stack(values, -1), limits.to(values[0].device), torch.stack(first, -1), trajectory)

    def calibrated(
        self,
        windows: Any,
        rate: float,
        *,
        unit: Literal["window", "episode"] = "window",
        groups: Tensor | None = None,
        shaping: float = 0.2,
        seed: int = 0,
    ) -> Self:
        """The same filter with the limits of its learnt checks set for a false alarm rate on safe recorded behaviour.

        Args:
            windows: of safe behaviour that neither the model nor a check was fitted to: a `Batch`, where each is an episode of its own, or `EpisodeWindows`.
                Those that were not observed at the start, or are padded, are left out.
            rate: the share of false alarms of all checks together.
            unit: what the rate is a share of: `window`, an expected share of the windows of a new episode; `episode`, a chance that any of its windows is.
            groups: int (N,), the episode of each window, where the windows do not say it themselves.
            shaping: fraction of the episodes that sets the limits of several learnt checks relative to one another and is then left out.
            seed: of that draw.

        Raises:
            ValueError: if no check is learnt, the episodes are too few for the rate (the sentence says how many are needed), or checks whose limits are given
                reject more than the rate by themselves.
        """
        learnt = [k for k, check in enumerate(self.checks) if check.learnt]
        if not learnt:
            raise ValueError("calibrated sets the limits of checks that learn them, such as Novelty and Uncertainty; this filter has none.")
        batch, groups = self._useful(windows, groups)
        require_episodes(rate, len(groups.unique()))
        verdict = self._of_windows(batch)
        scores, given = verdict.values[:, 0, learnt].double().cpu(), [k for k in range(len(self.checks)) if k not in learnt]
        refused = verdict.failed[:, 0, given].any(-1).cpu()
        order = groups.unique()[torch.randperm(len(groups.unique()), generator=torch.Generator().manual_seed(seed))]
        few = max(round(shaping * len(order)), 1) if len(learnt) > 1 else 0
        shaped = torch.isin(groups, order[:few])
        sizes = scores[shaped].quantile(1 - rate, dim=0).clamp_min(1e-12) if few else torch.ones(1, dtype=torch.float64)
        worst = (scores / sizes).amax(-1).masked_fill(refused, math.inf)[~shaped]
        rest = groups[~shaped]
        if unit == "episode":
            labels, rest = rest.unique(return_inverse=True)
            worst, rest = worst_of(worst, rest, len(labels)), labels
        threshold = alarm_threshold(worst, rate, rest)
        if math.isinf(threshold):
            share = float(refused.double().mean())
            raise ValueError(f"Checks whose limits are given reject {share:.3g} of the windows by themselves, too much for a rate of {rate:g}; loosen them.")
        return self._with({k: (limit := threshold * float(size)) + 1e-12 * abs(limit) for k, size in zip(learnt, sizes, strict=True)}, batch.horizon)

    def with_margins(
        self,
        windows: Any,
        rate: float,
        *,
        share: Share = "violating",
        groups: Tensor | None = None,
        only: Sequence[str] = (),
        confidence: float = 0.9,
        least: float = 0.0,
        seed: int = 0,
    ) -> Self:
        """The same filter with the margins of its collision and constraint checks set from what was predicted and what was observed.

        Args:
            windows: proposals like those to be screened, with what came of them, violations among them: a `Batch`, where each is an episode of its own, or
                `EpisodeWindows`; fully observed ones count.
            rate: by each check.
            share: of what the rate is, see `risk_control.Share`.
            groups: int (N,), the episode of each window, where the windows do not say it themselves.
            only: names of the checks; by default all whose limit is a margin.
            confidence: of the share `accepted`.
            least: margins are no smaller; -inf gives the tightest, which may be negative where the model is too careful.
            seed: of the draw of one window an episode, for the share `accepted`.

        Raises:
            ValueError: if there is no such check, or the episodes are too few for the rate; the sentence says how many are needed.
        """
        chosen = [k for k, check in enumerate(self.checks) if k and not check.learnt and (not only or check.name in only)]
        unknown = sorted(set(only) - {self.checks[k].name for k in chosen})
        if unknown or not chosen:
            known = ", ".join(check.name for check in self.checks[1:] if not check.learnt) or "none"
            raise ValueError(f"with_margins sets margins of collision and constraint checks, of which this filter has {known}; got {unknown or 'all'}.")
        batch, groups = self._useful(windows, groups, observed=True)
        predicted = self._of_windows(batch).values[:, 0].double().cpu()
        truth, found = recorded(self.model, batch).unsqueeze(1).unsqueeze(2), {}
        for k in chosen:
            seen = self.checks[k].measure(truth, self.risk).value[:, 0].double().cpu()
            added = margin(predicted[:, k], seen, rate, share=share, groups=groups, confidence=confidence, least=least, seed=seed)
            found[k] = -added
        return self._with(found, None)

    def check(self, name: str) -> Check:
        """The check of a name, with its limit.

        Raises:
            ValueError: if there is none; the sentence lists those there are.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise ValueError(f"There is no check {name!r}; this filter has {', '.join(check.name for check in self.checks)}.")

    def replaced(self, check: Check) -> Self:
        """The same filter with another check in the place of the one of its name, such as a collision check whose obstacles have moved (`Collision.moved`)."""
        before, other = self.check(check.name), copy.copy(self)
        require_views(self.model.scene, check)
        other.checks = tuple(check if old is before else old for old in self.checks)
        return other

    def _of_windows(self, batch: Batch) -> Verdict:
        with torch.no_grad():
            return self._judge(batch.start, batch.actions.unsqueeze(1))

    def _useful(self, windows: Any, groups: Tensor | None, *, observed: bool = False) -> tuple[Batch, Tensor]:
        """Full windows whose start, or all of which, was observed, and the episode of each."""
        batch: Batch = windows[: len(windows)]
        known = batch.observed()
        rows = (known if observed else known[:, :1] & batch.valid).all(1)
        if not bool(rows.any()):
            raise ValueError(f"Calibration needs windows that are {'fully ' if observed else ''}observed and not padded, got none among {len(batch)}.")
        of = torch.as_tensor(episodes_of(windows)) if groups is None else groups.cpu()
        if of.shape != rows.shape:
            raise ValueError(f"Calibration needs the episode of each of {len(rows)} windows, got groups of shape {tuple(of.shape)}.")
        return batch[rows], of[rows.cpu()]

    def _with(self, limits: dict[int, float], horizon: int | None) -> Self:
        other = copy.copy(self)
        other.checks = tuple(check.limited(limits[k]) if k in limits else check for k, check in enumerate(self.checks))
        other.horizon = horizon or self.horizon
        return other
