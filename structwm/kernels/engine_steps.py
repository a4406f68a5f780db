"""What surrounds an engine's step for many worlds at once: coordinates in and out, forces of actuators and joints, laws of contacts, commanded bodies.

The engine has its bodies and joints in the order of ours, one joint a body, so that numbers stand at the same places, with two differences: its quaternions
are xyzw, and the velocity of a free joint is that of the body's centre of mass.
"""

import warp as wp

from .rigid_layout import ActuatorKind, JointKind

wp.set_module_options({"enable_backward": False})

FREE, HINGE, SLIDE, DRIVEN = (wp.constant(int(kind)) for kind in (JointKind.FREE, JointKind.HINGE, JointKind.SLIDE, JointKind.DRIVEN))
EFFORT, POSITION, WRENCH = (wp.constant(int(kind)) for kind in (ActuatorKind.EFFORT, ActuatorKind.POSITION, ActuatorKind.WRENCH))


@wp.kernel
def begin(
    kind: wp.array(dtype=wp.int32),  # (K) of joints
    q_at: wp.array(dtype=wp.int32),  # (K)
    v_at: wp.array(dtype=wp.int32),  # (K)
    command: wp.array(dtype=wp.int32),  # (A) place in the velocity that an action commands, -1 for none
    com: wp.array(dtype=wp.vec3),  # (W K) centres of mass, body frames [m]
    actions: wp.array2d(dtype=float),  # (W, A)
    q: wp.array2d(dtype=float),  # (W, Q)
    v: wp.array2d(dtype=float),  # (W, V)
    joint_q: wp.array(dtype=float),  # (W Q)
    joint_qd: wp.array(dtype=float),  # (W V)
):
    """Write states into the engine's joint coordinates, after commands into velocities."""
    w = wp.tid()
    for k in range(command.shape[0]):
        if command[k] >= 0:
            v[w, command[k]] = actions[w, k]
    for b in range(kind.shape[0]):
        at = w * q.shape[1] + q_at[b]
        to = w * v.shape[1] + v_at[b]
        i = q_at[b]
        j = v_at[b]
        if kind[b] == FREE or kind[b] == DRIVEN:
            turn = wp.normalize(wp.quat(q[w, i + 4], q[w, i + 5], q[w, i + 6], q[w, i + 3]))
            angular = wp.vec3(v[w, j + 3], v[w, j + 4], v[w, j + 5])
            linear = wp.vec3(v[w, j], v[w, j + 1], v[w, j + 2]) + wp.cross(angular, wp.quat_rotate(turn, com[w * kind.shape[0] + b]))
            for k in range(3):
                joint_q[at + k] = q[w, i + k]
                joint_qd[to + k] = linear[k]
                joint_qd[to + 3 + k] = angular[k]
            for k in range(4):
                joint_q[at + 3 + k] = turn[k]
        elif kind[b] == HINGE or kind[b] == SLIDE:
            joint_q[at] = q[w, i]
            joint_qd[to] = v[w, j]


@wp.kernel
def finish(
    kind: wp.array(dtype=wp.int32),
    q_at: wp.array(dtype=wp.int32),
    v_at: wp.array(dtype=wp.int32),
    com: wp.array(dtype=wp.vec3),
    joint_q: wp.array(dtype=float),
    joint_qd: wp.array(dtype=float),
    q: wp.array2d(dtype=float),
    v: wp.array2d(dtype=float),
):
    """Read states from the engine's joint coordinates. A driven body keeps the velocity of `begin`."""
    w = wp.tid()
    for b in range(kind.shape[0]):
        at = w * q.shape[1] + q_at[b]
        to = w * v.shape[1] + v_at[b]
        i = q_at[b]
        j = v_at[b]
        if kind[b] == FREE or kind[b] == DRIVEN:
            turn = wp.quat(joint_q[at + 3], joint_q[at + 4], joint_q[at + 5], joint_q[at + 6])
            for k in range(3):
                q[w, i + k] = joint_q[at + k]
                q[w, i + 4 + k] = turn[k]
            q[w, i + 3] = turn[3]
            if kind[b] == FREE:
                angular = wp.vec3(joint_qd[to + 3], joint_qd[to + 4], joint_qd[to + 5])
                linear = wp.vec3(joint_qd[to], joint_qd[to + 1], joint_qd[to + 2]) - wp.cross(angular, wp.quat_rotate(turn, com[w * kind.shape[0] + b]))
                for k in range(3):
                    v[w, j + k] = linear[k]
                    v[w, j + 3 + k] = angular[k]
        elif kind[b] == HINGE or kind[b] == SLIDE:
            q[w, i] = joint_q[at]
            v[w, j] = joint_qd[to]


@wp.kernel
def push(
    kind: wp.array(dtype=wp.int32),
    q_at: wp.array(dtype=wp.int32),
    v_at: wp.array(dtype=wp.int32),
    widths: wp.vec2i,  # Q and V
    actuator_kind: wp.array(dtype=wp.int32),  # (A)
    actuator_body: wp.array(dtype=wp.int32),  # (A)
    actuator_axis: wp.array(dtype=wp.int32),  # (A)
    com: wp.array(dtype=wp.vec3),  # (W K)
    mass: wp.array(dtype=float),  # (W K) [kg]
    inertia: wp.array(dtype=wp.mat33),  # (W K) [kg m^2]
    drag: wp.array3d(dtype=float),  # (W, K, 2) on translation and rotation [1/s]
    passive: wp.array3d(dtype=float),  # (W, K, 5) of joints: damping, dry friction, speed below which it fades, spring, its rest
    actuators: wp.array3d(dtype=float),  # (W, A, 3) gain, spring, damper
    actions: wp.array2d(dtype=float),  # (W, A)
    joint_q: wp.array(dtype=float),
    joint_qd: wp.array(dtype=float),
    body_q: wp.array(dtype=wp.transform),  # (W K)
    body_qd: wp.array(dtype=wp.spatial_vector),  # (W K) of the centre of mass
    joint_f: wp.array(dtype=float),  # (W V)
    body_f: wp.array(dtype=wp.spatial_vector),  # (W K) at the centre of mass
):
    """Forces of a substep other than those of contacts, limits and gravity."""
    w = wp.tid()
    count = kind.shape[0]
    for b in range(count):
        i = w * count + b
        speed = wp.spatial_top(body_qd[i])
        spin = wp.spatial_bottom(body_qd[i])
        turn = wp.transform_get_rotation(body_q[i])
        momentum = wp.quat_rotate(turn, inertia[i] * wp.quat_rotate_inv(turn, spin))
        body_f[i] = wp.spatial_vector(-drag[w, b, 0] * mass[i] * speed, -drag[w, b, 1] * momentum)
        if kind[b] == HINGE or kind[b] == SLIDE:
            rate = joint_qd[w * widths[1] + v_at[b]]
            dry = passive[w, b, 1] * rate / wp.sqrt(rate * rate + passive[w, b, 2] * passive[w, b, 2])
            pull = passive[w, b, 3] * (passive[w, b, 4] - joint_q[w * widths[0] + q_at[b]])
            joint_f[w * widths[1] + v_at[b]] = pull - passive[w, b, 0] * rate - dry
    for k in range(actuator_kind.shape[0]):
        b = actuator_body[k]
        i = w * count + b
        to = w * widths[1] + v_at[b]
        size = actuators[w, k, 0] * actions[w, k]
        if actuator_kind[k] == EFFORT:
            joint_f[to] = joint_f[to] + size
        elif actuator_kind[k] == POSITION:
            joint_f[to] = joint_f[to] + actuators[w, k, 1] * (size - joint_q[w * widths[0] + q_at[b]]) - actuators[w, k, 2] * joint_qd[to]
        elif actuator_kind[k] == WRENCH:
            force = wp.vec3(0.0)
            torque = wp.vec3(0.0)
            axis = actuator_axis[k]
            if axis < 3:
                force[axis] = size
                torque = wp.cross(-wp.quat_rotate(wp.transform_get_rotation(body_q[i]), com[i]), force)
            else:
                torque[axis - 3] = size
            body_f[i] = body_f[i] + wp.spatial_vector(force, torque)


@wp.kernel
def carry(
    kind: wp.array(dtype=wp.int32),
    q_at: wp.array(dtype=wp.int32),
    v_at: wp.array(dtype=wp.int32),
    com: wp.array(dtype=wp.vec3),
    v: wp.array2d(dtype=float),  # (W, V)
    seconds: float,
    widths: wp.vec2i,
    joint_q: wp.array(dtype=float),
    joint_qd: wp.array(dtype=float),
    body_q: wp.array(dtype=wp.transform),
    body_qd: wp.array(dtype=wp.spatial_vector),
):
    """Move driven bodies by a substep."""
    w = wp.tid()
    for b in range(kind.shape[0]):
        if kind[b] == DRIVEN:
            i = w * kind.shape[0] + b
            at = w * widths[0] + q_at[b]
            to = w * widths[1] + v_at[b]
            j = v_at[b]
            linear = wp.vec3(v[w, j], v[w, j + 1], v[w, j + 2])
            angular = wp.vec3(v[w, j + 3], v[w, j + 4], v[w, j + 5])
            place = wp.transform_get_translation(body_q[i]) + seconds * linear
            turn = wp.transform_get_rotation(body_q[i])
            if wp.length(angular) > 0.0:
                turned = wp.quat_from_axis_angle(wp.normalize(angular), seconds * wp.length(angular)) * turn
                turn = wp.normalize(turned)
            body_q[i] = wp.transform(place, turn)
            middle = linear + wp.cross(angular, wp.quat_rotate(turn, com[i]))
            body_qd[i] = wp.spatial_vector(middle, angular)
            for k in range(3):
                joint_q[at + k] = place[k]
                joint_qd[to + k] = middle[k]
                joint_qd[to + 3 + k] = angular[k]
            for k in range(4):
                joint_q[at + 3 + k] = turn[k]


@wp.func
def lightness(body: int, arm: wp.vec3, n: wp.vec3, inverse_mass: wp.array(dtype=float), inverse_inertia: wp.array(dtype=wp.mat33), turn: wp.quat):
    """Inverse of the mass [1/kg] that a body offers along n at an arm from its centre of mass."""
    twist = wp.quat_rotate_inv(turn, wp.cross(arm, n))
    return inverse_mass[body] + wp.dot(twist, inverse_inertia[body] * twist)


@wp.kernel
def touch(
    kind: wp.array(dtype=wp.int32),  # (K)
    shape_pair: wp.array2d(dtype=wp.int32),  # (G, G) pair of owners by geometries, -1 for none
    laws: wp.array3d(dtype=float),  # (W, P, 3) stiffness [N/m], damping ratio [-], friction [-]
    seconds: float,
    shape_body: wp.array(dtype=wp.int32),  # (W G)
    com: wp.array(dtype=wp.vec3),  # (W K)
    inverse_mass: wp.array(dtype=float),  # (W K)
    inverse_inertia: wp.array(dtype=wp.mat33),  # (W K)
    body_q: wp.array(dtype=wp.transform),  # (W K)
    count: wp.array(dtype=wp.int32),  # (1)
    shape0: wp.array(dtype=wp.int32),  # (C)
    shape1: wp.array(dtype=wp.int32),  # (C)
    point0: wp.array(dtype=wp.vec3),  # (C) in the body's frame
    point1: wp.array(dtype=wp.vec3),  # (C)
    normal: wp.array(dtype=wp.vec3),  # (C)
    stiffness: wp.array(dtype=float),  # (C)
    damping: wp.array(dtype=float),  # (C)
    friction: wp.array(dtype=float),  # (C)
):
    """Give each contact the law of its pair; its damper [N s/m] is that of the damping ratio at the mass felt there."""
    i = wp.tid()
    if i >= count[0]:
        return
    size = shape_pair.shape[0]
    w = shape0[i] // size
    pair = shape_pair[shape0[i] % size, shape1[i] % size]
    if pair < 0:
        return
    felt = float(0.0)
    for side in range(2):
        shape = shape0[i]
        point = point0[i]
        if side == 1:
            shape = shape1[i]
            point = point1[i]
        body = shape_body[shape]
        if body >= 0 and kind[body % kind.shape[0]] != DRIVEN:
            turn = wp.transform_get_rotation(body_q[body])
            felt += lightness(body, wp.quat_rotate(turn, point - com[body]), normal[i], inverse_mass, inverse_inertia, turn)
    damper = 2.0 * laws[w, pair, 1] * wp.sqrt(laws[w, pair, 0] / felt)
    stiffness[i] = laws[w, pair, 0]
    asked = seconds * damper * felt
    share = float(1.0)
    if asked > 1.0e-3:
        share = (1.0 - wp.exp(-asked)) / asked  # what an exact damper does to the speed in a substep, so that it never turns it back
    damping[i] = wp.max(share * damper, 1.0e-9)  # zero would mean: as the shapes say
    friction[i] = wp.max(laws[w, pair, 2], 1.0e-9)
