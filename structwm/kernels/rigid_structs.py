"""The structs that the rigid kernels pass around, for one type of number."""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import warp as wp


class Types(NamedTuple):
    """Warp's types for one type of number."""

    scalar: type
    vec3: type
    quat: type  # 4-vector wxyz
    mat33: type
    Model: type
    Scratch: type
    Adjoint: type
    Shape: type
    Side: type
    Law: type
    Link: type
    Bulk: type


@cache
def types(scalar: type) -> Types:
    """Types for `wp.float32` or `wp.float64`."""
    vec3, quat, mat33 = wp.types.vector(3, scalar), wp.types.vector(4, scalar), wp.types.matrix((3, 3), scalar)

    @wp.struct
    class Model:
        """What no world changes. Bodies stand after their parents; body -1 is the world. Lists of integers lie one behind the other in `ints`, and the fields
        that name them say where each starts: a struct of many arrays is slow to pass and slower to compile."""

        ints: wp.array(dtype=wp.int32)

        bodies: wp.int32
        configuration: wp.int32  # Q, numbers in the configuration
        velocity: wp.int32  # V, numbers in the velocity
        tests: wp.int32
        actuators: wp.int32
        trees: wp.int32
        chained: wp.int32  # 1: some tree has several degrees of freedom, whose rates act on one another
        substeps: wp.int32
        seconds: scalar  # of a substep
        fade: scalar  # speed of a joint below which its dry friction fades [rad/s or m/s]
        limit_width: scalar  # over which a joint's limits set in [rad or m]
        body_column: wp.int32
        joint_column: wp.int32
        geometry_column: wp.int32
        pair_column: wp.int32
        actuator_column: wp.int32
        # bodies
        parent: wp.int32
        joint: wp.int32  # JointKind
        q_at: wp.int32
        v_at: wp.int32
        solo: wp.int32  # 1: a free body without children
        turn: wp.array(dtype=mat33)  # joint frame in the parent's frame
        axis: wp.array(dtype=vec3)  # of a hinge or slide, in the body frame
        # trees of joints: the degrees of freedom that are solved together
        tree_first: wp.int32
        tree_end: wp.int32
        dof_body: wp.int32
        dof_kind: wp.int32  # 0 to 2: along world axes, 3 to 5: about them, 6: about the joint's axis, 7: along it
        # geometries
        geometry_body: wp.int32
        geometry_turn: wp.array(dtype=mat33)  # geometry frame in the body frame
        bound: wp.array(dtype=scalar)  # distance of the farthest point from the geometry's origin [m], at scale 1, without the radius
        middle: wp.array(dtype=vec3)  # from there it is least: centre of the bounding sphere, geometry frame
        point_first: wp.int32
        point_end: wp.int32
        sample_end: wp.int32  # samples are the points and, behind them, points between them
        face_first: wp.int32
        face_end: wp.int32
        plane_first: wp.int32
        plane_end: wp.int32
        points: wp.array(dtype=vec3)  # geometry frame [m]
        shares: wp.array(dtype=scalar)  # of a contact's force that a point takes as a sample
        crowds: wp.array(dtype=scalar)  # of it that a point takes on a plane
        faces: wp.int32  # indices of points, counter-clockwise seen from outside
        normals: wp.array(dtype=vec3)  # of planes, outward, geometry frame
        offsets: wp.array(dtype=scalar)  # of planes from the geometry's origin [m]
        # contact tests
        test_kind: wp.int32
        test_a: wp.int32
        test_b: wp.int32
        test_pair: wp.int32
        # actuators
        actuator_kind: wp.int32
        actuator_body: wp.int32
        actuator_axis: wp.int32

    @wp.struct
    class Scratch:
        """What a substep of one world needs, (N, ...): written and read by its own thread alone."""

        turn: wp.array2d(dtype=mat33)  # (N, K) world_from_body
        place: wp.array2d(dtype=vec3)  # origin [m]
        linear: wp.array2d(dtype=vec3)  # velocity of the origin
        angular: wp.array2d(dtype=vec3)
        linear_rate: wp.array2d(dtype=vec3)  # acceleration of the origin
        angular_rate: wp.array2d(dtype=vec3)
        force: wp.array2d(dtype=vec3)  # of contacts and actuators
        torque: wp.array2d(dtype=vec3)  # about the origin
        asked: wp.array2d(dtype=vec3)  # force that the motion of what hangs on joints asks for
        asked_torque: wp.array2d(dtype=vec3)
        mass: wp.array2d(dtype=scalar)  # of a body and all it carries
        moment: wp.array2d(dtype=vec3)  # first moment of that mass about the body's origin
        inertia: wp.array2d(dtype=mat33)  # its second, about the origin
        matrix: wp.array2d(dtype=scalar)  # (N, V * V) mass matrix, then its Cholesky factor
        rate: wp.array2d(dtype=scalar)  # (N, V) acceleration of the velocity's numbers
        first: wp.array2d(dtype=scalar)  # (N, V) that acceleration at the rates at which the substep begins
        middle: wp.array2d(dtype=scalar)  # (N, V) rates in the middle of the substep

    @wp.struct
    class Adjoint:
        """What the backward pass of a substep of one world needs beside, (N, ...): gradients, and the virtual motion that they come from."""

        turn: wp.array2d(dtype=mat33)
        place: wp.array2d(dtype=vec3)
        linear: wp.array2d(dtype=vec3)
        angular: wp.array2d(dtype=vec3)
        linear_rate: wp.array2d(dtype=vec3)
        angular_rate: wp.array2d(dtype=vec3)
        linear_test: wp.array2d(dtype=vec3)
        angular_test: wp.array2d(dtype=vec3)
        linear_virtual: wp.array2d(dtype=vec3)
        angular_virtual: wp.array2d(dtype=vec3)
        rate: wp.array2d(dtype=scalar)  # (N, V) accelerations of the velocity's numbers
        speed: wp.array2d(dtype=scalar)  # (N, V) velocity at which bodies are looked at
        d_speed: wp.array2d(dtype=scalar)  # (N, V) gradient by it
        kept: wp.array2d(dtype=scalar)  # (N, V) virtual motion of the joints in an earlier stage

    @wp.struct
    class Shape:
        """One of two geometries that may touch."""

        turn: mat33  # world_from_body
        place: vec3  # origin of the body [m]
        core: mat33  # body_from_geometry
        offset: vec3  # origin in the body frame [m]
        scale: scalar
        radius: scalar  # [m]

    @wp.struct
    class Side:
        """One of two bodies in contact."""

        turn: mat33
        arm: vec3  # from the body's origin to the contact
        linear: vec3
        angular: vec3
        com: vec3
        inverse_mass: scalar  # 0 for what does not move by force
        inverse_diagonal: vec3  # of the inertia, body frame: xx yy zz
        inverse_mixed: vec3  # xy xz yz

    @wp.struct
    class Law:
        """Parameters of contact."""

        stiffness: scalar
        damping_ratio: scalar
        friction: scalar
        torsion: scalar
        rolling: scalar
        smoothing: scalar
        slip: scalar
        spin: scalar
        share: scalar  # of the force that this contact takes, where several stand for one

    @wp.struct
    class Link:
        """How a body moves, and what its residual is multiplied with."""

        turn: mat33
        linear: vec3
        angular: vec3
        linear_rate: vec3
        angular_rate: vec3
        linear_test: vec3
        angular_test: vec3

    @wp.struct
    class Bulk:
        """What a body is made of, in its frame."""

        mass: scalar
        com: vec3
        diagonal: vec3  # of the inertia about the centre of mass: xx yy zz
        mixed: vec3  # xy xz yz
        inverse_diagonal: vec3  # of the inverse of the inertia
        inverse_mixed: vec3
        drag: scalar  # [1/s]
        angular_drag: scalar  # [1/s]

    return Types(scalar, vec3, quat, mat33, Model, Scratch, Adjoint, Shape, Side, Law, Link, Bulk)


def with_adjoints(functions: Mapping[str, wp.Function]) -> Any:
    """Functions as attributes, whose adjoints Warp writes wherever they are used.

    Warp (1.19) leaves the adjoint of a function empty that a kernel without a backward pass calls before `wp.grad` of a function that calls it: its gradient
    would be 0 without a word.
    """
    for function in functions.values():
        function.adj.force_adjoint_codegen = True
    return SimpleNamespace(**functions)
