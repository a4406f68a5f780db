"""What an action filter says of candidates, in tensors and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.transition import Trajectory

from .checks import Check, Reason


@dataclass(frozen=True)
class Rejection:
    """One reason against one candidate."""

    reason: Reason
    check: str  # its name
    value: float  # in `unit`
    limit: float
    unit: str
    step: int  # 0..H-1, the first action that leads to it
    words: str

    def __str__(self) -> str:
        return f"{self.reason.value}: at step {self.step} {self.words}"


@dataclass(frozen=True)
class Verdict:
    """Of S candidates for each of B problems, by K checks."""

    checks: tuple[Check, ...]  # K; the first is `Invalid`
    values: Tensor  # (B, S, K), higher is worse; infinite where a prediction broke
    limits: Tensor  # (K,)
    first_step: Tensor  # int64 (B, S, K), the step at which a check first fails; -1 where it does not
    trajectory: Trajectory | None  # predicted, batch axes (B, S, E); None where candidates were judged in chunks

    @property
    def failed(self) -> Tensor:
        """Which check each candidate fails, bool (B, S, K)."""
        return self.first_step >= 0

    @property
    def accepted(self) -> Tensor:
        """Which candidates fail none, bool (B, S)."""
        return ~self.failed.any(-1)

    def reasons(self, problem: int, candidate: int) -> tuple[Rejection, ...]:
        """Everything against a candidate, what happens first first; empty where it is accepted."""
        found = []
        for k, check in enumerate(self.checks):
            step = int(self.first_step[problem, candidate, k])
            if step >= 0:
                value, limit = float(self.values[problem, candidate, k]), float(self.limits[k])
                found.append(Rejection(check.reason, check.name, value, limit, check.unit, step, check.words(value, limit)))
        return tuple(sorted(found, key=lambda rejection: rejection.step))

    def explain(self, problem: int, candidate: int) -> str:
        """The same in one sentence."""
        found = self.reasons(problem, candidate)
        return "accepted" if not found else "rejected for " + "; ".join(map(str, found))

    def rejected_by(self) -> dict[str, int]:
        """How many of the B x S candidates each check rejects, by its name; one may be rejected by several."""
        return {check.name: int(count) for check, count in zip(self.checks, self.failed.flatten(0, 1).sum(0).tolist(), strict=True)}


def joined(parts: Sequence[Verdict]) -> Verdict:
    """Verdicts on the candidates of one problem set, one after another."""
    if len(parts) == 1:
        return parts[0]
    values, steps = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("values", "first_step"))
    return replace(parts[0], values=values, first_step=steps, trajectory=None)
