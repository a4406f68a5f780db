"""What goals have in common: weights over the horizon, problem axes, and errors that stay defined where something is masked.

Every goal objective sums its error over the horizon with a weight per instant: `stage` on the states after steps 1..H-1 (averaged over them, so that the
balance does not change with the horizon) and `terminal` on the last one. The start state is not counted: no action changes it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from structwm.interfaces import Objective
from structwm.scene import Scene
from structwm.transition import Trajectory

BLOCK = 1 << 18  # numbers compared at once


class GoalObjective(Objective):
    """An error (*B, H+1) at every instant, summed with the weights described at the top of this module.

    Args:
        stage: weight of the mean error over the states before the last.
        terminal: weight of the error of the last state.
    """

    per_state: bool = False  # the error of an instant is read from its state alone: with `stage` 0, only that of the last state is then computed

    def __init__(self, *, stage: float = 1.0, terminal: float = 1.0) -> None:
        if not (stage >= 0 and terminal >= 0 and stage + terminal > 0):
            raise ValueError(f"A goal needs stage and terminal weights that are not negative and not both 0, got {stage} and {terminal}.")
        self.stage, self.terminal = stage, terminal

    @abstractmethod
    def error(self, trajectory: Trajectory) -> Tensor:
        """The error at every instant, (*B, H+1)."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        if not self.stage:
            last = trajectory.final() if self.per_state else trajectory
            return self.terminal * self.error(last)[..., -1]
        error = self.error(trajectory)
        between = error[..., 1:-1].mean(-1) if error.shape[-1] > 2 else error[..., -1]
        return self.terminal * error[..., -1] + self.stage * between


def align_goal(what: str, goal: Tensor, rank: int, batch: Sequence[int], *, timed: bool = False) -> Tensor:
    """A goal with `rank` axes of its own, and perhaps a problem axis before them, so that it broadcasts against a view (*B, T, ...).

    Args:
        what: who asks, for the error.
        goal: (...) or (B, ...).
        rank: number of the axes `...`.
        batch: the axes *B of the trajectory, problems first.
        timed: the first of its own axes is time.

    Raises:
        ValueError: if the goal is of another number of problems.
    """
    if goal.ndim == rank:
        return goal
    if len(goal) == 1:
        return goal[0]
    if not batch or len(goal) != batch[0]:
        raise ValueError(f"{what} has goals of {len(goal)} problems, got a prediction of batch axes {tuple(batch)}.")
    return goal.reshape(len(goal), *(1,) * (len(batch) - timed), *goal.shape[1:])


def at_instants(reference: Tensor, count: int, axis: int) -> Tensor:
    """The first `count` entries along the time axis `axis`; the last is held where there are fewer."""
    have = reference.shape[axis]
    if have >= count:
        return reference.narrow(axis, 0, count)
    return reference.index_select(axis, torch.arange(count, device=reference.device).clamp_max(have - 1))


def by_blocks(fn: Callable[[Tensor], Tensor], view: Tensor, own: int) -> Tensor:
    """`fn` of a view (B, S, ..., T, *own axes), of some candidates at a time where it is large and no gradient is asked for: what stays in cache needs no
    fresh memory, which costs more than the arithmetic. `fn` keeps the axes B and S."""
    if view.ndim < own + 3 or view.numel() <= BLOCK or torch.is_grad_enabled():
        return fn(view)
    return torch.cat([fn(part) for part in view.split(max(1, BLOCK * view.shape[1] // view.numel()), 1)], 1)


def short_sum(values: Tensor) -> Tensor:
    """The sum over a last axis of few entries, one by one: many times faster than the reduction, and the same whatever else is computed with it."""
    if not 0 < values.shape[-1] <= 8:
        return values.sum(-1)
    first, *others = values.unbind(-1)
    return sum(others, first)


def square_sum(difference: Tensor) -> Tensor:
    """The sum of squares over the last axis."""
    return short_sum(difference.square())


def norm_of(difference: Tensor) -> Tensor:
    """The root of the sum of squares over the last axis, whose gradient at 0 is 0."""
    return torch.linalg.vector_norm(difference, dim=-1) if torch.is_grad_enabled() else square_sum(difference).sqrt()


def root_of(squares: Tensor) -> Tensor:
    """Square roots with finite gradients, a millionth at zero."""
    return (squares + 1e-12).sqrt()


def mean_where(values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean over the last axis, or over the entries that count; NaN where none does."""
    if counted is None:
        return values.mean(-1)
    return torch.where(counted, values, 0.0).sum(-1) / counted.sum(-1)


def body_index(scene: Scene, body: int | str) -> int:
    """The place in the poses view of a body given by number or name.

    Raises:
        ValueError: if there is no such body.
    """
    if isinstance(body, int):
        return body
    if body not in scene.body_names:
        raise ValueError(f"There is no body {body!r}; this scene has {', '.join(scene.body_names) or 'no body names'}.")
    return scene.body_names.index(body)


def of_bodies(view: Tensor, scene: Scene, bodies: Sequence[int | str]) -> Tensor:
    """The rows of a poses or twists view (*B, T, K, ...) that belong to some bodies, in their order.

    Raises:
        ValueError: if one of them is not there.
    """
    places, count = [body_index(scene, body) for body in bodies], view.shape[-2]
    for place in places:
        if not -count <= place < count:
            raise ValueError(f"There is no body {place}; this scene has {count}.")
    if len(places) == 1:
        return view.narrow(-2, places[0] % count, 1)
    return view if places == list(range(count)) else view.index_select(-2, torch.tensor(places, device=view.device) % count)
