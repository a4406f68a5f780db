"""`BulletTwin`: rigid worlds in PyBullet."""

from __future__ import annotations

from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from structwm.kernels import rigid_layout as layout
from structwm.kernels.rigid_layout import ActuatorKind, JointKind

from .engine_twin import DRAGS, Array, EngineTwin, cross, grounded, quaternion_product, rotated
from .rigid_parameters import damping_ratio
from .rigid_world import RigidWorld

if TYPE_CHECKING:
    from .bullet_draws import Draws
    from .bullet_scene import BulletScene

FAR = 1e4  # where bodies forget what they touched [m]
APART = 100.0  # there, from each other [m]
UPRIGHT_XYZW = (0.0, 0.0, 0.0, 1.0)


class BulletTwin(EngineTwin):
    """A twin that PyBullet steps, one world after another, in a client of its own that copies share.

    Each rollout writes all parameters and the full state first. Bullet remembers points of contact, which are no part of the state: they are forgotten at every
    step, so that a rollout equals its steps. Boxes find all of theirs at once; hulls one a substep, so they rest less firmly.

    What Bullet would get wrong, and what is done about it:

    - It multiplies coefficients of friction, and joins stiffness, damping and torques in ways of its own. What stands still or is driven is there once for each
      body that may touch it, with a material that gives the pair exactly what it should have. Between bodies that forces move friction and stiffness are exact,
      damping and torques where they are alike.
    - Its half-space finds one point of contact a step: a large box stands for it. Its plain rigid bodies know friction in two fixed directions, up to 1.4 times
      too strong between them: free bodies are multibodies, whose friction is a cone, though those are three times slower.
    - Its drag on multibodies grows with the square of speed: velocities are scaled between substeps instead.
    - A body without mass has no velocity that friction sees: driven bodies weigh a million times the others, and pose and velocity are set at every substep.

    Not expressed: `slip_speed`, `smoothing`, armatures, and drag on bodies whose joint hangs on what moves. Hulls are a tenth of a
    millimetre larger than their vertices say.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._client = Client()
        self._kept: tuple[Any, ...] | None = None
        world = self.world
        self._plain = not world.actuators and all(body.joint.kind is JointKind.FREE for body in world.bodies)

    @staticmethod
    def require() -> None:
        if find_spec("pybullet") is None:
            raise ImportError("BulletTwin needs PyBullet: pip install 'structwm[worlds]' or pybullet.")

    @staticmethod
    def inexpressible(world: RigidWorld) -> frozenset[str]:
        names = {f"{body.name}.armature" for body in world.bodies if body.joint.kind in (JointKind.HINGE, JointKind.SLIDE)}
        for body in world.bodies:
            if body.joint.kind is not JointKind.FREE and not (body.joint.kind in (JointKind.HINGE, JointKind.SLIDE) and grounded(world, body)):
                names |= {f"{body.name}.{drag}" for drag in DRAGS}
        return frozenset(names)

    def simulate(self, q: Array, v: Array, actions: Array, row: Array) -> tuple[Array, Array]:
        assert self.spec.dt is not None
        draws = self._prepared()
        plain = self._plain and not any(draws.drag(k).any() for k in range(len(self.world.bodies)))
        inner = self.substeps if plain and self.substeps & (self.substeps - 1) == 0 else 1
        calls = self.substeps // inner
        run = Run(self, draws, q, v, actions, row, calls)
        with self._client.lock:
            scene = self._client.scene()
            for world in np.argsort(row, kind="stable").tolist():
                scene.show(self.layout, draws, int(row[world]), self.spec.dt / calls, inner)
                run.roll(scene, world)
        return run.states()

    def _prepared(self) -> Draws:
        """The draws, kept until a value changes."""
        from .bullet_draws import Draws

        stamp = self.stamp()
        if self._kept is None or self._kept[0] != stamp:
            table = self.table()
            rows = self.batch_shape
            values = {name: value.detach().cpu().double().expand(rows).reshape(-1) for name, value in self.values.items()}
            ratios = {
                name.replace("restitution", "damping_ratio"): damping_ratio(value).numpy() for name, value in values.items() if name.endswith(".restitution")
            }
            draws = Draws(self.layout, table, {name: value.numpy() for name, value in values.items()} | ratios)
            self._kept = (stamp, draws, dict(self.values))  # the values are held so that the stamp stays theirs
        kept: Draws = self._kept[1]
        return kept

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}


class Client:
    """A client that is made when first used, one for a twin and its shallow copies; deep copies and pickles start with none."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._scene: BulletScene | None = None

    def scene(self) -> BulletScene:
        """What lives in the client."""
        from .bullet_scene import BulletScene

        if self._scene is None:
            self._scene = BulletScene()
        return self._scene

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        return Client()

    def __reduce__(self) -> tuple[type[Client], tuple[()]]:
        return Client, ()


class Run:
    """One call of `simulate`: starts in Bullet's frames, the loop over its steps, and the way back.

    Args:
        twin: whose.
        draws: of its parameters.
        q, v, actions, row: as `EngineTwin.simulate`.
        calls: of `stepSimulation` in a step.
    """

    def __init__(self, twin: BulletTwin, draws: Draws, q: Array, v: Array, actions: Array, row: Array, calls: int) -> None:
        where = self.where = twin.layout
        self.draws, self.q, self.v, self.actions, self.row, self.calls = draws, q, v, actions, row, calls
        self.bodies = where.world.bodies
        assert twin.spec.dt is not None
        self.substep = twin.spec.dt / calls
        kinds = [body.joint.kind for body in self.bodies]
        self.floating = [k for k, kind in enumerate(kinds) if kind is JointKind.FREE]
        self.driven = [k for k, kind in enumerate(kinds) if kind is JointKind.DRIVEN]
        self.jointed = [k for k, kind in enumerate(kinds) if kind in (JointKind.HINGE, JointKind.SLIDE)]
        self.springs = {k: where.joint(draws.table, k)[:, [layout.SPRING, layout.REST]] for k in self.jointed}
        order = {body.name: k for k, body in enumerate(self.bodies)}
        acting = [(n, order[a.body], a) for n, a in enumerate(where.world.actuators)]
        self.pulls = {n: (k, where.actuator(draws.table, n)) for n, k, a in acting if a.kind in (ActuatorKind.EFFORT, ActuatorKind.POSITION)}
        self.wrenches = [(n, k, a.axis, where.actuator(draws.table, n)[:, layout.GAIN]) for n, k, a in acting if a.kind is ActuatorKind.WRENCH]
        self.dragged = [k for k in self.floating if draws.drag(k).any()]
        self.loaded = [k for k in self.jointed if self.springs[k][:, 0].any() or any(k == body for body, _ in self.pulls.values())]
        horizon = actions.shape[1]
        self.qs, self.vs = np.empty((len(q), horizon, q.shape[1])), np.empty((len(q), horizon, v.shape[1]))
        self.start = {k: self._inward(k) for k in self.floating}
        self.found = {k: np.empty((len(q), horizon, 13)) for k in self.floating}
        self.paths = {k: self._path(k) for k in self.driven}

    def _frames(self, k: int) -> tuple[Array, Array]:
        """Bullet's frame of a free body in the body's: (N, 3) [m], (N, 4)."""
        frames = [self.draws.frame(k, row) for row in range(len(self.draws.table))]
        return np.stack([com for com, _ in frames])[self.row], np.stack([axes for _, axes in frames])[self.row]

    def _inward(self, k: int) -> Array:
        """Place, quaternion xyzw, velocity, angular velocity (N, 13) of a free body's frame in Bullet."""
        at, to = self.where.q_at[k], self.where.v_at[k]
        place, turn, linear, angular = self.q[:, at : at + 3], self.q[:, at + 3 : at + 7], self.v[:, to : to + 3], self.v[:, to + 3 : to + 6]
        com, axes = self._frames(k)
        arm = rotated(turn, com)
        return np.concatenate((place + arm, quaternion_product(turn, axes)[:, [1, 2, 3, 0]], linear + cross(angular, arm), angular), 1)

    def _path(self, k: int) -> Array:
        """Place, quaternion xyzw, velocity, angular velocity (N, H calls + 1, 13) of a driven body before every substep, and after the last."""
        at, to, h = self.where.q_at[k], self.where.v_at[k], self.substep
        place, turn = self.q[:, at : at + 3], self.q[:, at + 3 : at + 7]
        twist = self.v[:, to : to + 6].copy()
        path = np.empty((len(self.q), self.actions.shape[1] * self.calls + 1, 13))
        for step in range(self.actions.shape[1]):
            for action, column in self.where.commands:
                if to <= column < to + 6:
                    twist[:, column - to] = self.actions[:, step, action]
            for n in range(step * self.calls, (step + 1) * self.calls):
                path[:, n] = np.concatenate((place, turn[:, [1, 2, 3, 0]], twist), 1)
                angle = np.linalg.norm(twist[:, 3:], axis=1, keepdims=True) * h
                spin = np.concatenate((np.cos(angle / 2), 0.5 * h * np.sinc(angle / (2 * np.pi)) * twist[:, 3:]), 1)
                place, turn = place + h * twist[:, :3], quaternion_product(spin, turn)
            self.vs[:, step, to : to + 6] = twist
            self.qs[:, step, at : at + 3], self.qs[:, step, at + 3 : at + 7] = place, turn
        path[:, -1] = np.concatenate((place, turn[:, [1, 2, 3, 0]], twist), 1)
        return path

    def roll(self, scene: BulletScene, n: int) -> None:
        """Roll world `n` out in a client that shows its draw."""
        engine, client, row = scene.engine, scene.client, int(self.row[n])
        self._begin(scene, n)
        bases = [(scene.parts[k].uid, self.found[k][n]) for k in self.floating]
        still = not (self.driven or self.loaded or self.wrenches or self.dragged)
        for step in range(self.actions.shape[1]):
            for call in range(self.calls):
                if not still:
                    self._push(scene, n, row, step, call)
                engine.stepSimulation(client)
            for uid, out in bases:
                place, turn = engine.getBasePositionAndOrientation(uid, client)
                linear, angular = engine.getBaseVelocity(uid, client)
                out[step] = (*place, *turn, *linear, *angular)
            for k in self.jointed:
                part = scene.parts[k]
                state = engine.getJointState(part.uid, part.link, client)
                self.qs[n, step, self.where.q_at[k]], self.vs[n, step, self.where.v_at[k]] = state[:2]
            if step + 1 < self.actions.shape[1]:
                self._forget(scene)
                for uid, out in bases:
                    self._place(scene, uid, out[step])

    def _begin(self, scene: BulletScene, n: int) -> None:
        """The start of world `n`."""
        engine, client = scene.engine, scene.client
        self._forget(scene)
        for k in self.floating:
            self._place(scene, scene.parts[k].uid, self.start[k][n])
        for k in self.driven:
            self._drive(scene, k, self.paths[k][n, 0])
        for k in self.jointed:
            part = scene.parts[k]
            engine.resetJointState(part.uid, part.link, self.q[n, self.where.q_at[k]], self.v[n, self.where.v_at[k]], client)

    def _forget(self, scene: BulletScene) -> None:
        """Empty the caches of contacts: look for them where everything is far from everything."""
        engine, client = scene.engine, scene.client
        uids = [*scene.hung, *(scene.parts[k].uid for k in self.floating), *(uid for k in self.driven for uid in scene.heavy(k))]
        for count, uid in enumerate(uids):
            engine.resetBasePositionAndOrientation(uid, (FAR, APART * count, FAR), UPRIGHT_XYZW, client)
        engine.performCollisionDetection(client)
        for uid in scene.hung:
            engine.resetBasePositionAndOrientation(uid, (0, 0, 0), UPRIGHT_XYZW, client)

    @staticmethod
    def _place(scene: BulletScene, uid: int, motion: Array) -> None:
        """Give a base its place, quaternion xyzw, velocity and angular velocity (13,)."""
        numbers = motion.tolist()
        scene.engine.resetBasePositionAndOrientation(uid, numbers[:3], numbers[3:7], scene.client)
        scene.engine.resetBaseVelocity(uid, numbers[7:10], numbers[10:], scene.client)

    def _drive(self, scene: BulletScene, k: int, motion: Array) -> None:
        """Put a driven body where it is now, with a velocity that is the commanded one after gravity has acted."""
        motion = motion.copy()
        motion[7:10] -= self.substep * scene.gravity
        for uid in scene.heavy(k):
            self._place(scene, uid, motion)

    def _push(self, scene: BulletScene, n: int, row: int, step: int, call: int) -> None:
        """What acts from outside during a substep."""
        engine, client, action = scene.engine, scene.client, self.actions[n, step]
        for k in self.driven:
            self._drive(scene, k, self.paths[k][n, step * self.calls + call])
        for k in self.dragged:
            uid = scene.parts[k].uid
            left = np.exp(-self.substep * self.draws.drag(k)[row])
            linear, angular = engine.getBaseVelocity(uid, client)
            engine.resetBaseVelocity(uid, [left[0] * x for x in linear], [left[1] * x for x in angular], client)
        for k in self.loaded:
            part = scene.parts[k]
            angle, rate = engine.getJointState(part.uid, part.link, client)[:2]
            spring, rest = self.springs[k][row]
            effort = -spring * (angle - rest)
            for number, (body, block) in self.pulls.items():
                if body == k:
                    gain, stiff, damp = block[row]
                    position = self.where.world.actuators[number].kind is ActuatorKind.POSITION
                    effort += stiff * (gain * action[number] - angle) - damp * rate if position else gain * action[number]
            engine.setJointMotorControl2(part.uid, part.link, engine.TORQUE_CONTROL, force=float(effort), physicsClientId=client)
        for number, k, axis, gain in self.wrenches:
            part = scene.parts[k]
            vector = [0.0] * 3
            vector[axis % 3] = float(gain[row] * action[number])
            if axis > 2:
                engine.applyExternalTorque(part.uid, part.link, vector, engine.WORLD_FRAME, client)
            else:
                engine.applyExternalForce(part.uid, part.link, vector, scene.origin(k), engine.WORLD_FRAME, client)

    def states(self) -> tuple[Array, Array]:
        """Configurations (N, H, Q) and velocities (N, H, V) after the steps."""
        for k, found in self.found.items():
            at, to = self.where.q_at[k], self.where.v_at[k]
            com, axes = (part[:, None] for part in self._frames(k))
            turn = quaternion_product(found[..., [6, 3, 4, 5]], axes * (1, -1, -1, -1))
            arm = rotated(turn, np.broadcast_to(com, found[..., :3].shape))
            self.qs[..., at : at + 3], self.qs[..., at + 3 : at + 7] = found[..., :3] - arm, turn
            self.vs[..., to : to + 3], self.vs[..., to + 3 : to + 6] = found[..., 7:10] - cross(found[..., 10:], arm), found[..., 10:]
        return self.qs, self.vs
