"""`RigidTwin`: rigid bodies with smooth contact, differentiable, in own kernels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from .rigid_parameters import ParameterTable
from .rigid_program import FADE, LIMIT_WIDTH, compile_world
from .world_twin import WorldTwin

if TYPE_CHECKING:
    from structwm.kernels.rigid_recorded import RecordedRollouts


class RigidTwin(WorldTwin):
    """Rigid bodies, joints and contacts as Warp kernels: one launch rolls all worlds out, each under its own parameters, forward and backward.

    Contact is a spring and damper along the normal and smoothed Coulomb friction (`structwm.kernels.rigid_laws`); `slip_speed` and `smoothing` are parameters
    that can be annealed. Boxes and convex meshes touch planes with their corners, round shapes with all of their surface, and each other with their corners and
    points between them. Gradients flow to start states, actions and parameters; memory for them is that of the states at the steps.
    """

    differentiable = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from structwm.kernels.rigid import RigidProgram  # Warp loads with the first twin

        assert self.spec.dt is not None
        substep = self.spec.dt / self.substeps
        columns, arrays, numbers = compile_world(self.world)
        self.program = RigidProgram(columns, arrays, numbers, substep, self.substeps, FADE, LIMIT_WIDTH)
        self.table = ParameterTable(self.world, columns, substep)
        self._kept: tuple[tuple[object, ...], tuple[Tensor, ...], Tensor] | None = None
        self._recorded: RecordedRollouts | None = None

    def recorded(self) -> Self:
        """The same twin, whose rollouts without gradients are recorded for each set of sizes and replayed: the same numbers at less cost a call.

        For planners and environments that ask for short rollouts of few worlds many times, and on CUDA. Twins that `with_parameters` gives share what is
        recorded.
        """
        from structwm.kernels.rigid_recorded import RecordedRollouts

        twin = copy.copy(self)
        twin._recorded = RecordedRollouts(self.program)
        return twin

    def advance(self, configuration: Tensor, velocity: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        from structwm.kernels.launching import scalar_of
        from structwm.kernels.rigid import rollout

        scalar_of(configuration)  # refuses what is neither float32 nor float64
        batch, horizon = configuration.shape[:-1], actions.shape[-2]
        table = self._table(configuration)
        inputs = (
            configuration.reshape(batch.numel(), configuration.shape[-1]),
            velocity.reshape(batch.numel(), velocity.shape[-1]),
            actions.reshape(batch.numel(), horizon, actions.shape[-1]),
            table.reshape(-1, table.shape[-1]),
            self.rows(batch).to(configuration.device),
        )
        plain = self._recorded is None or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs))
        q, v = rollout(self.program, *inputs) if plain else self._recorded(*inputs)  # type: ignore[misc]
        return q.reshape(*batch, horizon + 1, q.shape[-1]), v.reshape(*batch, horizon + 1, v.shape[-1])

    def _table(self, like: Tensor) -> Tensor:
        """The parameter table, kept until a value changes: it costs as much as a short rollout."""
        values = tuple(self.values.values())
        if any(value.is_inference() for value in values) or (torch.is_grad_enabled() and any(value.requires_grad for value in values)):
            return self.table(self.values, like)
        key = (like.dtype, like.device, *(value._version for value in values))
        kept = self._kept
        if kept is None or kept[0] != key or any(one is not other for one, other in zip(kept[1], values, strict=True)):
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept = (key, values, self.table(self.values, like))
        return kept[2]
