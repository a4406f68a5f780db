"""Every model that the conformance suites run on, with start states; new models are added here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.physics import Rod, RodState, RodTwin, SpringBody, SpringForces, SpringTwin
from structwm.physics.particle_scene import ParticleState
from structwm.points import GraphDynamics, point_cloud
from structwm.render import splats_from_points
from structwm.spec import ActionSpec
from structwm.splats import ROBOT, DrivenSplats, SplatDynamics, SplatEncoder, SplatLatentDynamics, SplatScene
from structwm.state import State
from structwm.training import Batch, DeltaModel, NetworkCorrection
from structwm.transition import TransitionModel
from structwm.wrappers import ActionTransform, Chunked, Normalised, Residual


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planar(problems: int) -> toys.PlanarState:
    return toys.PlanarState(position=normal(problems, 2), velocity=normal(problems, 2, seed=1), batch_size=[problems])


def pendulum(problems: int) -> toys.PendulumState:
    return toys.PendulumState(angle=normal(problems, 1), rate=normal(problems, 1, seed=1), batch_size=[problems])


def cart_pole(problems: int) -> toys.CartPoleState:
    return toys.CartPoleState(cart=normal(problems, 2), pole=0.3 * normal(problems, 2, seed=1), batch_size=[problems])


def members(state: State, count: int) -> State:
    """The states repeated for E members, (B, E)."""
    return state.unsqueeze(1).expand(state.batch_size[0], count).clone()


def damped(rate: float) -> TransitionModel:
    return Residual(toys.DoubleIntegrator(), lambda state, action, following: {"velocity": -rate * following.velocity})


def normalised() -> TransitionModel:
    return Normalised(
        toys.DoubleIntegrator(), action=ActionSpec.box(-2.0, 2.0, 2), mean={"position": torch.ones(2)}, std={"position": torch.tensor(2.0)}, action_std=2.0
    )


def learned(head: str) -> TransitionModel:
    """A network of the double integrator, untrained but for its scales; its last layer is enlarged, so that actions count."""
    torch.manual_seed(0)
    start = planar(64)
    actions = normal(64, 3, 2, seed=3).clamp(-1, 1)
    windows = Batch(toys.DoubleIntegrator().rollout(start, actions).states, actions, torch.ones(64, 4, dtype=torch.bool))
    return DeltaModel.like(toys.DoubleIntegrator(), windows, hidden=(8,), head=head)


SOFT = 0.02 * torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0), torch.arange(2.0))
CHAIN = torch.stack((torch.linspace(0.0, 0.3, 6), torch.zeros(6), torch.zeros(6)), -1)


def springs() -> SpringTwin:
    """A soft block that is held at one end."""
    body = SpringBody.from_points(SOFT, radius=0.036, neighbours=8, driven=((0, 1, 2, 3),))
    return SpringTwin(body, dt=0.02, substeps=20, stages=2, values={"stiffness": 2.0})


def soft(problems: int) -> ParticleState:
    return springs().state(SOFT + 0.001 * normal(problems, 12, 3), 0.05 * normal(problems, 12, 3, seed=1))


def rope() -> RodTwin:
    return RodTwin(Rod.even(0.3, 6, driven=(0, -1)), dt=0.02, substeps=2)


def hanging(problems: int) -> RodState:
    return rope().state(CHAIN + 0.003 * normal(problems, 6, 3), 0.05 * normal(problems, 6, 3, seed=1))


def forced() -> TransitionModel:
    """Springs with every law of forces that may be learned."""
    forces = SpringForces(springs().body, 0.02, torch.ones(9), torch.full((9,), 100.0), 0.1 * normal(9))
    return Residual(springs(), forces)


TWO = torch.cat((SOFT, SOFT + torch.tensor([0.08, 0.0, 0.0]), torch.tensor([[-0.03, 0.0, 0.01], [-0.03, 0.01, 0.01], [0.0, 0.0, -0.005]])))
"""Splats of two objects, of a robot, and of what stays where it is."""


def pushed_splats() -> SplatDynamics:
    """Two rigid things and a robot of two points, seen as splats; a graph network that is untrained but for its scales drives them."""
    torch.manual_seed(0)
    model = GraphDynamics(robot_points=2, dt=0.1, width=8, layers=1, objects=2, rigid="all", inertia=0.0)
    for buffer, number in ((model.length, 0.02), (model.move, 0.01), (model.change, 0.02), (model.near, 0.1)):
        buffer.fill_(number)
    ids = torch.tensor([0] * 12 + [1] * 12 + [ROBOT, ROBOT, -1])
    robot = TWO[24:26]
    return SplatDynamics.from_splats(
        model, splats_from_points(TWO), lambda nodes, numbers: point_cloud(nodes, robot, context=2, object_ids=numbers), object_ids=ids, nodes=8
    )


def pushed(problems: int) -> SplatScene:
    start = pushed_splats().start().unsqueeze(0).expand(problems).clone()
    return start.replace(positions=start.positions + 0.002 * normal(problems, 16, 3), robot=start.robot + 0.003 * normal(problems, 2, 3, seed=1))


def splat_latents(other: bool = False) -> SplatLatentDynamics:
    """Untrained dynamics of a scene's tokens, under the motion of robot points or other actions."""
    torch.manual_seed(0)
    encoder = SplatEncoder(tokens=4, size=3, splats=2, width=8, layers=1, heads=2)
    act = {"action": ActionSpec.box(-1.0, 1.0, 2)} if other else {"robot_points": 2}
    return SplatLatentDynamics(encoder, dt=0.1, width=8, layers=1, heads=2, **act)  # type: ignore[arg-type]


def blobs(problems: int, other: bool = False) -> State:
    scenes = torch.stack([splats_from_points(points) for points in 0.03 * normal(problems, 9, 3)])  # type: ignore[call-overload]
    return splat_latents(other).state(scenes, None if other else 0.03 * normal(problems, 2, 3, seed=1))


Case = tuple[Callable[[], TransitionModel], Callable[[int], State]]

CASES: dict[str, Case] = {
    "double integrator": (toys.DoubleIntegrator, planar),
    "noisy integrator": (toys.NoisyIntegrator, planar),
    "pendulum": (toys.Pendulum, pendulum),
    "cart-pole": (toys.CartPole, cart_pole),
    "history": (toys.HistoryIntegrator, lambda n: toys.HistoryIntegrator().from_history(normal(n, 2, 2))),
    "corridor": (toys.Corridor, lambda n: toys.RoomState(room=torch.arange(n) % 6, batch_size=[n])),
    "maze": (toys.Maze, lambda n: toys.MazeState(position=normal(n, 2), batch_size=[n])),
    "residual": (lambda: damped(0.1), planar),
    "chunked": (lambda: Chunked(toys.DoubleIntegrator(), 3), planar),
    "chunked with rewards": (lambda: Chunked(toys.CartPole(), 2), cart_pole),
    "action transform": (
        lambda: ActionTransform(toys.DoubleIntegrator(), lambda state, action: torch.cat((action, -action), -1), ActionSpec.box(-1.0, 1.0, 1)),
        planar,
    ),
    "normalised": (normalised, planar),
    "ensemble, fixed member": (lambda: Ensemble([damped(0.0), damped(0.3)]), lambda n: members(planar(n), 2)),
    "ensemble, random member": (lambda: Ensemble([damped(0.0), damped(0.3)], propagation="random_member"), lambda n: members(planar(n), 2)),
    "ensemble, mean": (lambda: Ensemble([damped(0.0), damped(0.3)], propagation="mean"), lambda n: members(planar(n), 2)),
    "ensemble of noisy models": (lambda: Ensemble([toys.NoisyIntegrator(), toys.NoisyIntegrator()]), lambda n: members(planar(n), 2)),
    "ensemble with rewards": (lambda: Ensemble([toys.CartPole(), toys.CartPole(length=0.7)]), lambda n: members(cart_pole(n), 2)),
    "learned": (lambda: learned("mean"), planar),
    "learned, gaussian": (lambda: learned("gaussian"), planar),
    "learned, mixture": (lambda: learned("mixture"), planar),
    "learned correction": (lambda: Residual(toys.DoubleIntegrator(), NetworkCorrection(learned("mean"))), planar),
    "springs with splats": (lambda: DrivenSplats(springs(), splats_from_points(SOFT), SOFT), soft),
    "rope with splats": (lambda: DrivenSplats(rope(), splats_from_points(CHAIN), CHAIN, chain=True), hanging),
    "rope as a scene of splats": (
        lambda: SplatDynamics(rope(), splats_from_points(CHAIN), rope().state(CHAIN), chain=True),
        lambda n: SplatDynamics(rope(), splats_from_points(CHAIN), rope().state(CHAIN), chain=True).state(hanging(n)),
    ),
    "learned scene of splats": (pushed_splats, pushed),
    "springs with forces": (forced, soft),
    "splat latents": (splat_latents, blobs),
    "splat latents, other actions": (lambda: splat_latents(True), lambda n: blobs(n, True)),
    "ensemble of one": (lambda: Ensemble([toys.Pendulum()]), pendulum),
    "wrapped ensemble": (
        lambda: ActionTransform(Ensemble([damped(0.0), damped(0.3)]), lambda state, action: -action, ActionSpec.box(-1.0, 1.0, 2)),
        lambda n: members(planar(n), 2),
    ),
}
