"""`NewtonTwin`: a rigid world in the engine Newton, and scenes through its importers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.kernels.rigid_layout import JointKind
from structwm.state import Splats

from .engine_twin import EngineTwin
from .newton_engine import NewtonEngine
from .rigid_world import RigidWorld

Array = NDArray[Any]

SOLVERS = ("semi_implicit", "featherstone", "xpbd")
KEPT = 4  # models, each of another number of worlds


class NewtonTwin(EngineTwin):
    """A rigid world stepped by Newton (newton-physics), all worlds of a batch together in one model on the CPU. No gradients; float32 inside.

    Contacts are Newton's: springs and dampers of `stiffness` and `restitution` at the points of its manifolds, and friction that is viscous up to the Coulomb
    bound, so that what leans on friction creeps by about a substep's fall. Torsional and rolling friction have no counterpart. Joints' dampers, springs, dry
    friction and actuators act as forces at the start of each substep.

    `start` holds the state in which a file places its bodies (`from_file`), else all at zero.

    Args:
        world: bodies, fixtures, joints, actuators.
        dt: duration of a step [s].
        substeps: of the solver in a step.
        solver: "featherstone", in joint coordinates; or, where there are no joints, "semi_implicit" or "xpbd", which moves positions out of contacts and has no
            `stiffness`. None: the second where it can be.
        values: parameters that differ from what the world says, by name.
        appearance: Gaussian splats of bodies, by name.

    Raises:
        ImportError: without newton.
        ValueError: as `WorldTwin`; or on a world that asks for what the solver cannot express.
    """

    def __init__(
        self,
        world: RigidWorld,
        *,
        dt: float,
        substeps: int = 10,
        solver: str | None = None,
        values: Mapping[str, Tensor | float] | None = None,
        appearance: Mapping[str, Splats] | None = None,
    ) -> None:
        jointed = any(body.joint.kind not in (JointKind.FREE, JointKind.DRIVEN) for body in world.bodies)
        if solver not in (None, *SOLVERS):
            raise ValueError(f"NewtonTwin has the solvers {', '.join(SOLVERS)}, got {solver!r}.")
        if jointed and solver not in (None, "featherstone"):
            raise ValueError(f"NewtonTwin's solver {solver} holds joints by what is no part of a RigidState; use featherstone for a world with joints.")
        self.solver = solver or ("featherstone" if jointed else "semi_implicit")
        self.unused: frozenset[str] = frozenset()  # parameters that the solver has no use for, whatever their values
        super().__init__(world, dt=dt, substeps=substeps, values=values, appearance=appearance)
        if self.solver == "xpbd":
            self.unused = frozenset(f"{name}.stiffness" for name in _named(world)) & self.physical.keys()
            for name in self.unused:
                del self.physical[name], self.values[name]
        self.start = self.state()
        self.engines: OrderedDict[int, NewtonEngine] = OrderedDict()  # by number of worlds; shared by twins that differ in parameters only

    @classmethod
    def from_file(cls, path: str | Path, *, dt: float, ground: bool = False, floating: bool | None = None, **options: Any) -> Self:
        """A twin of the scene of a URDF (`.urdf`), MJCF (`.xml`) or USD file (`.usd`, `.usda`, `.usdc`), read by Newton's own importers.

        The scene becomes a `RigidWorld` (`read_with_newton` says how); `start` is the state in which the file places its bodies.

        Args:
            path: the file.
            dt: duration of a step [s].
            ground: whether a plane at z = 0 is added.
            floating: whether the root of a URDF moves freely.
            options: of `NewtonTwin`.

        Raises:
            BadData: if Newton does not read the file, or it holds what a `RigidWorld` does not have.
        """
        from .newton_files import read_with_newton

        world, poses, positions = read_with_newton(Path(path), ground=ground, floating=floating)
        twin = cls(world, dt=dt, **options)
        twin.start = twin.state({name: torch.tensor(pose, dtype=torch.float32) for name, pose in poses.items()}, positions=positions)
        return twin

    @staticmethod
    def require() -> None:
        try:
            import newton  # noqa: F401
        except ImportError as error:
            raise ImportError("NewtonTwin needs Newton: pip install structwm[newton].") from error

    def inexpressible(self, world: RigidWorld) -> frozenset[str]:  # type: ignore[override]
        return self.unused | {f"{name}.{label}_friction" for name in _named(world) for label in ("torsional", "rolling")}

    def config(self) -> dict[str, Any]:
        return super().config() | {"solver": self.solver}

    def with_timing(self, *, dt: float, substeps: int) -> Self:
        twin = type(self)(self.world, dt=dt, substeps=substeps, solver=self.solver, appearance=self.appearance).with_parameters(self.values)
        twin.start = self.start
        return twin

    def simulate(self, q: Array, v: Array, actions: Array, row: Array) -> tuple[Array, Array]:
        engine = self._engine(row)
        horizon = actions.shape[1]
        after = np.empty((len(q), horizon, q.shape[1])), np.empty((len(q), horizon, v.shape[1]))
        engine.start(q, v)
        for h in range(horizon):
            after[0][:, h], after[1][:, h] = engine.step(actions[:, h])
        return after

    def _engine(self, row: Array) -> NewtonEngine:
        """The engine for as many worlds as rows, with their parameters."""
        assert self.spec.dt is not None
        worlds = len(row)
        engine = self.engines.pop(worlds, None) or NewtonEngine(self.world, self.layout, worlds, self.solver, self.spec.dt / self.substeps, self.substeps)
        self.engines[worlds] = engine
        while len(self.engines) > KEPT:
            self.engines.popitem(last=False)
        key = (self.stamp(), row.tobytes(), dict(self.values))  # holds the values, so that none of them gives its identity to another
        if engine.key is None or engine.key[:2] != key[:2]:
            engine.load(self.table()[row])
            engine.key = key
        return engine


def _named(world: RigidWorld) -> list[str]:
    """Names of bodies and fixtures."""
    return [body.name for body in world.bodies] + [fixture.name for fixture in world.fixtures]
