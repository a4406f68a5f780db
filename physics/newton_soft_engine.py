"""A scene of deformable bodies in Newton, many times over: one model of all worlds, stepped together by vertex block descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .newton_engine import _add_shape
from .newton_steps import RecordedSteps
from .soft_world import SoftBody, SoftWorld

Array = NDArray[Any]

HEAVY = 1e4  # mass of a driven particle over the mean of the others; larger is moved less by what it holds, until float32 ends
GAP = 0.01  # how far from its surface contacts of a particle are looked for [m]
SLIP = 0.01  # speed below which friction fades [m/s]; smaller creeps less and converges worse

LAWS = {  # the model's tables of elements, and which parameters their columns hold
    "tri_materials": ("stretch_stiffness", "area_stiffness", "membrane_damping"),
    "edge_bending_properties": ("bend_stiffness", "bend_damping"),
    "tet_materials": ("shear_modulus", "lame_lambda", "viscosity"),
}


class NewtonSoftEngine(RecordedSteps):
    """Some copies of a soft world, their arrays and the recorded commands of one step.

    Args:
        world: what is simulated.
        worlds: how many copies.
        substep: [s].
        substeps: in a step.
        iterations: sweeps over all particles in a substep.
    """

    state_views = ("x", "v")

    def __init__(self, world: SoftWorld, worlds: int, substep: float, substeps: int, iterations: int) -> None:
        import newton
        import warp as wp

        self.world, self.worlds, self.substep, self.substeps, self.wp = world, worlds, substep, substeps, wp
        self.key: Any = None  # which parameters are loaded; kept by the twin
        with wp.ScopedDevice("cpu"):
            template = self._template(newton)
            template.color(include_bending=True)
            colors = [np.asarray(group) for group in template.particle_color_groups]
            builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
            builder.replicate(template, worlds)
            copies = np.arange(worlds)[:, None] * world.particles
            builder.set_coloring([(copies + group).reshape(-1) for group in colors])  # worlds are swept in the same order, alone or together
            self.model = builder.finalize(device="cpu")
            self.model.soft_contact_ke, self.model.soft_contact_kd, self.model.soft_contact_mu = 0.0, 0.0, 1.0  # the obstacles' own count
            self.solver = newton.solvers.SolverVBD(
                self.model, iterations=iterations, particle_enable_self_contact=False, particle_enable_tile_solve=False, friction_epsilon=SLIP
            )
            self.states = self.model.state(), self.model.state()
            self.control = self.model.control()
            self.pipeline = newton.CollisionPipeline(self.model, broad_phase="explicit", soft_contact_gap=GAP) if world.obstacles else None
            self.contacts = self.pipeline.contacts() if self.pipeline else None
            self._allocate()

    def _template(self, newton: Any) -> Any:
        """One world of unit densities and stiffnesses, as a builder."""
        builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
        self.elements: list[dict[str, slice]] = []  # where those of each body stand in the model's tables
        for body in self.world.bodies:
            before = [len(part) for part in (builder.tri_indices, builder.edge_indices, builder.tet_indices)]
            _add_body(self.wp, builder, body)
            after = [len(part) for part in (builder.tri_indices, builder.edge_indices, builder.tet_indices)]
            self.elements.append({table: slice(*ends) for table, ends in zip(LAWS, zip(before, after, strict=True), strict=True)})
        config = newton.ModelBuilder.ShapeConfig(density=0.0)
        for fixture in self.world.obstacles:
            for geometry in fixture.geometries:
                config.margin = geometry.rounding
                _add_shape(newton, builder, -1, geometry, config)
        return builder

    def _allocate(self) -> None:
        wp, world, n = self.wp, self.world, self.worlds
        drive = np.full(world.particles, -1, np.int32)
        for group, members in enumerate(world.driven):
            drive[list(members)] = 3 * group
        self.held = drive >= 0
        self.drive = wp.array(drive, dtype=wp.int32)
        self.actions = wp.zeros((n, 3 * len(world.driven)), dtype=float)
        self.x, self.v = (wp.zeros((n, world.particles), dtype=wp.vec3) for _ in range(2))
        self.views = {"actions": self.actions.numpy(), "x": self.x.numpy(), "v": self.v.numpy()}
        names: tuple[str, ...] = ("particle_mass", "particle_inv_mass", "particle_radius", "tri_materials", "edge_bending_properties", "tet_materials")
        names += ("shape_material_ke", "shape_material_kd", "shape_material_mu")
        found = {name: getattr(self.model, name) for name in names}
        self.model_views = {name: array.numpy().reshape(n, -1, *array.shape[1:]) for name, array in found.items() if array is not None and array.size}
        self.gravity = self.model.gravity.numpy()[:n]
        self.unit_mass = self.model_views["particle_mass"][0].copy()
        self.forces = [state.particle_f.numpy().reshape(n, -1, 3) for state in self.states]

    def load(self, values: Mapping[str, Array]) -> None:
        """Take up the parameters of each world, (worlds,) by name."""
        model, world = self.model_views, self.world
        mass = np.empty((self.worlds, world.particles), np.float32)
        for at, body, elements in zip(world.first, world.bodies, self.elements, strict=True):
            own = slice(at, at + len(body.mesh.nodes))
            mass[:, own] = values[f"{body.name}.density"][:, None] * self.unit_mass[own]
            for table in ("tet_materials",) if body.solid else ("tri_materials", "edge_bending_properties"):
                for column, name in enumerate(LAWS[table]):
                    model[table][:, elements[table], column] = values[f"{body.name}.{name}"][:, None]
        mass[:, self.held] = HEAVY * mass.mean(1, keepdims=True)
        model["particle_mass"][:] = mass
        model["particle_inv_mass"][:] = 1 / mass
        self.gravity[:] = 0.0
        self.gravity[:, 2] = -values["gravity"]
        for force in self.forces:
            force[:] = 0.0
            force[:, self.held, 2] = mass[:, self.held] * values["gravity"][:, None]
        if world.obstacles:
            model["particle_radius"][:] = values["radius"][:, None]
            model["shape_material_ke"][:] = 2 * values["contact_stiffness"][:, None]  # the engine takes the mean with the particles' own, which is 0
            model["shape_material_kd"][:] = 2 * values["contact_damping"][:, None]
            model["shape_material_mu"][:] = values["friction"][:, None] ** 2  # the root of the product with the particles' own, which is 1

    def start(self, x: Array, v: Array) -> None:
        """Set the states, (worlds, P, 3) each."""
        self.views["x"][:], self.views["v"][:] = x, v

    def step(self, actions: Array) -> tuple[Array, Array]:
        """States after a step under actions (worlds, A): views that the next step overwrites."""
        self.views["actions"][:] = actions
        self.advance()
        return self.views["x"], self.views["v"]

    def _commands(self) -> None:
        from structwm.kernels import engine_particles as kernels

        wp, size = self.wp, (self.worlds, self.world.particles)
        now, later = self.states
        wp.launch(kernels.begin_particles, size, [self.drive, self.actions, self.x, self.v, now.particle_q, now.particle_qd])
        for k in range(self.substeps):
            if self.pipeline is not None:
                self.pipeline.collide(now, self.contacts)
            self.solver.step(now, later, self.control, self.contacts, self.substep)
            wp.launch(kernels.carry_particles, size, [self.drive, (k + 1) * self.substep, self.x, self.v, later.particle_q, later.particle_qd])
            now, later = later, now
        wp.launch(kernels.finish_particles, size, [now.particle_q, now.particle_qd, self.x, self.v])


def _add_body(wp: Any, builder: Any, body: SoftBody) -> None:
    """Newton has no body of no place: the mesh is where the body starts, and the frame is the world's."""
    frame = {"pos": wp.vec3(), "rot": wp.quat_identity(), "scale": 1.0, "vel": wp.vec3(), "density": 1.0}
    vertices = [wp.vec3(*node) for node in body.mesh.nodes.tolist()]
    if body.solid:
        indices = body.mesh._tetrahedra.flatten().tolist()
        builder.add_soft_mesh(vertices=vertices, indices=indices, k_mu=1.0, k_lambda=1.0, k_damp=0.0, add_surface_mesh_edges=False, **frame)
    else:
        indices = body.mesh.triangles.flatten().tolist()
        builder.add_cloth_mesh(vertices=vertices, indices=indices, tri_ke=1.0, tri_ka=1.0, tri_kd=0.0, edge_ke=1.0, edge_kd=0.0, **frame)
