"""Newton on the same springs: semi-implicit Euler with its own spring forces and contact with the ground, found once a step."""

from __future__ import annotations

from collections.abc import Callable

import warp as wp

from structwm.physics import SpringTwin

GAP = 0.01  # how far from the ground contacts are looked for [m]


def newton_steps(twin: SpringTwin, worlds: int, steps: int, device: str) -> Callable[[], None]:
    """A rollout of many copies of a network, which starts at rest. On CUDA a step is one captured graph; on a CPU every kernel is launched from Python, as
    Newton's own examples do there.

    Args:
        twin: whose springs, masses and substeps Newton takes.
        worlds: how many copies.
        steps: of a rollout.
        device: `cpu` or `cuda:0`.
    """
    import newton

    if wp.get_device(device).is_cuda and twin.substeps % 2:
        raise ValueError("newton_steps captures a step, which has to end in the state that it began in: take an even number of substeps.")
    body, values = twin.body, {name: float(value.mean()) for name, value in twin.values.items()}
    template = newton.ModelBuilder(up_axis=newton.Axis.Z)
    places = [wp.vec3(*map(float, place)) for place in body.positions]
    still = [wp.vec3(0.0, 0.0, 0.0)] * len(places)
    template.add_particles(places, still, [values["mass"] / len(places)] * len(places), [values["radius"]] * len(places))
    for (i, j), length in zip(body.springs.tolist(), body.lengths.tolist(), strict=True):
        template.add_spring(i, j, values["stiffness"] / length, 0.0, 0.0)
    with wp.ScopedDevice(device):
        builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
        builder.replicate(template, worlds)
        builder.add_ground_plane()
        model = builder.finalize(device=device)
        model.particle_grid = None  # no contact among particles, as in the twin
        solver = newton.solvers.SolverSemiImplicit(model)
        pipeline = newton.CollisionPipeline(model, broad_phase="explicit", soft_contact_gap=GAP)
        contacts, control = pipeline.contacts(), model.control()
        states = [model.state(), model.state()]
    assert twin.spec.dt is not None
    substep = twin.spec.dt / twin.substeps

    def step() -> None:
        pipeline.collide(states[0], contacts)
        for _ in range(twin.substeps):
            states[0].clear_forces()
            solver.step(states[0], states[1], control, contacts, substep)
            states.reverse()

    graph = None
    if wp.get_device(device).is_cuda:
        with wp.ScopedDevice(device):
            step()
            with wp.ScopedCapture(device=device) as capture:
                step()
            graph = capture.graph

    def run() -> None:
        for state in states:
            state.assign(model.state())
        for _ in range(steps):
            wp.capture_launch(graph) if graph is not None else step()
        wp.synchronize_device(device)

    return run
