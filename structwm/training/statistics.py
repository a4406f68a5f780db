"""Means and spreads of fields, actions and changes, over the observed steps of windows: what networks are normalised with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle
from structwm.spec import ActionSpec
from structwm.state import State, fields_of
from structwm.transition import TransitionModel
from structwm.wrappers import Normalised

from .windows import Batch

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Statistics:
    """Of the floating-point fields, each shaped as the field behind its batch axes. The spread of what never changes is one."""

    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    change: dict[str, Tensor]  # root mean square change in a step; std where no two steps in a row were observed
    action_mean: Tensor  # (A,), empty for discrete actions
    action_std: Tensor  # (A,)

    @classmethod
    def of(cls, windows: Batch, *, angles: Sequence[str] = ()) -> Statistics:
        """Read from windows; changes of the fields named in `angles` [rad] are taken modulo 2 pi.

        Raises:
            ValueError: if no state was fully observed, or no action was taken.
        """
        known = windows.observed()
        if not bool(known.any()):
            raise ValueError("Statistics needs at least one state that was fully observed, got none.")
        pairs = known[:, :-1] & known[:, 1:]
        mean, std, change = {}, {}, {}
        for name, value in fields_of(windows.states).items():
            if not value.is_floating_point():
                continue
            mean[name] = value[known].mean(0)
            std[name] = change[name] = _positive(value[known].std(0, unbiased=False))
            if bool(pairs.any()):
                step = value[:, 1:][pairs] - value[:, :-1][pairs]
                step = wrap_angle(step) if name in angles else step
                change[name] = _positive(step.square().mean(0).sqrt())
        continuous = isinstance(windows.actions, Tensor) and windows.actions.is_floating_point()
        taken = windows.actions[windows.valid[:, 1:]] if continuous else torch.zeros(1, 0)
        if not len(taken):
            raise ValueError("Statistics needs at least one valid action, got none.")
        return cls(mean, std, change, taken.mean(0), _positive(taken.std(0, unbiased=False)))

    def normalise(self, model: TransitionModel[S], action: ActionSpec) -> Normalised[S]:
        """A model of normalised states and actions behind a contract in physical units.

        Args:
            model: whose fields have mean zero and spread one.
            action: the physical action spec.
        """
        scales: dict[str, Any] = {"mean": self.mean, "std": self.std}
        return Normalised(model, action=action, action_mean=self.action_mean, action_std=self.action_std, **scales)


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 1e-12, scale, 1.0)
