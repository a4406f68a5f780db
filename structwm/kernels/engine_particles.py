"""What surrounds an engine's step for the particles of many worlds at once: states in and out, driven particles that move as commanded."""

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.kernel
def begin_particles(
    drive: wp.array(dtype=wp.int32),  # (P) first action that commands a particle, -1 for none
    actions: wp.array2d(dtype=float),  # (W, A) [m/s]
    x: wp.array2d(dtype=wp.vec3),  # (W, P) [m]
    v: wp.array2d(dtype=wp.vec3),  # (W, P) [m/s]
    particle_q: wp.array(dtype=wp.vec3),  # (W P)
    particle_qd: wp.array(dtype=wp.vec3),  # (W P)
):
    """Write states into the engine, after commands into velocities."""
    w, k = wp.tid()
    i = w * drive.shape[0] + k
    if drive[k] >= 0:
        v[w, k] = wp.vec3(actions[w, drive[k]], actions[w, drive[k] + 1], actions[w, drive[k] + 2])
    particle_q[i] = x[w, k]
    particle_qd[i] = v[w, k]


@wp.kernel
def carry_particles(
    drive: wp.array(dtype=wp.int32),
    time: float,  # since the start of the step [s]
    x: wp.array2d(dtype=wp.vec3),
    v: wp.array2d(dtype=wp.vec3),
    particle_q: wp.array(dtype=wp.vec3),
    particle_qd: wp.array(dtype=wp.vec3),
):
    """Put driven particles exactly where the commands have moved them from the start of the step."""
    w, k = wp.tid()
    if drive[k] >= 0:
        i = w * drive.shape[0] + k
        particle_q[i] = x[w, k] + time * v[w, k]
        particle_qd[i] = v[w, k]


@wp.kernel
def finish_particles(
    particle_q: wp.array(dtype=wp.vec3),
    particle_qd: wp.array(dtype=wp.vec3),
    x: wp.array2d(dtype=wp.vec3),
    v: wp.array2d(dtype=wp.vec3),
):
    """Read states from the engine."""
    w, k = wp.tid()
    i = w * x.shape[1] + k
    x[w, k] = particle_q[i]
    v[w, k] = particle_qd[i]
