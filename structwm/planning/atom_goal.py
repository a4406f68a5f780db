"""Goals that are facts: literals over ground atoms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from structwm.interfaces import Grounding
from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal


class AtomGoal(GoalObjective):
    """How unlikely it is that all literals hold: atoms that should be true, others that should be false, taken as independent.

    Args:
        literals: by the atom's name, whether it should hold: a bool, or bool (B,) where problems differ.
        grounding: reads the atoms from another view; if not given, they are those of the scene's atoms view.
        form: `log`, the negative logarithm of the probability that all hold, the sum over literals, which tells how far they are from holding;
            `probability`, one minus that probability.
        floor: in `log`, the probability that is added to each literal (and takes its share of the rest), so that the impossible costs a finite -log(floor).
        stage: weight of the mean over the states before the last; 0 asks only for the end.
        terminal: weight of the last state.

    Raises:
        ValueError: on no literal, a literal that is not bool, or a floor outside (0, 1).
    """

    per_state = True

    def __init__(
        self,
        literals: Mapping[str, bool | Tensor],
        *,
        grounding: Grounding | None = None,
        form: Literal["log", "probability"] = "log",
        floor: float = 1e-6,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        wanted = [torch.as_tensor(value) for value in literals.values()]
        if not wanted or any(value.dtype != torch.bool or value.ndim > 1 for value in wanted):
            raise ValueError(f"AtomGoal needs a literal, each bool or bool (B,), got {dict(literals)}.")
        if form not in ("log", "probability") or not 0 < floor < 1:
            raise ValueError(f"AtomGoal knows the forms log and probability and a floor in (0, 1), got {form!r} and {floor}.")
        self.names, self.grounding, self.form, self.floor = tuple(literals), grounding, form, floor
        self.wanted = torch.stack(torch.broadcast_tensors(*wanted), -1)  # ([B,] L)
        self.needs = frozenset({"atoms"}) if grounding is None else grounding.needs

    def error(self, trajectory: Trajectory) -> Tensor:
        known = trajectory.scene.atom_names if self.grounding is None else self.grounding.names
        missing = [name for name in self.names if name not in known]
        if missing:
            raise ValueError(f"There is no atom {missing[0]!r}; there are {', '.join(known) or 'none with a name'}.")
        atoms = trajectory.atoms() if self.grounding is None else self.grounding.of(trajectory)
        atoms = atoms[..., [known.index(name) for name in self.names]]
        holds = torch.where(align_goal("AtomGoal", self.wanted.to(atoms.device), 1, trajectory.batch_shape), atoms, 1 - atoms)
        if self.form == "probability":
            return 1 - holds.prod(-1)
        return -(self.floor + (1 - self.floor) * holds).log().sum(-1)
