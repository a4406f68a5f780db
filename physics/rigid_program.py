"""From a rigid world to the arrays that the kernels run on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.kernels.rigid_layout import ActuatorKind, Columns, JointKind, TestKind

from .rigid_world import AXIS_SAMPLES, EDGE_SAMPLES, BoxShape, CapsuleShape, ConvexShape, Geometry, Hull, PlaneShape, RigidWorld, SphereShape

Array = NDArray[Any]

INSET = 0.3  # how far inside a face's corners it is sampled, as a share of the way to its middle
MANY_VERTICES = 20  # a polytope of more has short edges, which need no samples
FLAT = 0.02  # of a polytope's height, within which points touch a plane together
FADE = 0.01  # [rad/s or m/s]
LIMIT_WIDTH = 1e-3  # [rad or m]


def owners(world: RigidWorld) -> list[tuple[int, tuple[Geometry, ...]]]:
    """Body index (-1: stands still) and geometries of each body, then of each fixture."""
    return [(k, body.geometries) for k, body in enumerate(world.bodies)] + [(-1, fixture.geometries) for fixture in world.fixtures]


def touching(world: RigidWorld) -> list[tuple[int, int]]:
    """Pairs of owners (in the order of `owners`) whose geometries may touch: neither of neighbours in a tree (of one tree at all, unless the world has self
    contact), nor where neither is moved by force."""
    found = []
    everything = owners(world)
    for a in range(len(everything)):
        for b in range(a + 1, len(everything)):
            i, j = everything[a][0], everything[b][0]
            moved = [k for k in (i, j) if k >= 0 and not _still(world, k)]
            if moved and everything[a][1] and everything[b][1] and not _neighbours(world, i, j) and (world.self_contact or not _one_tree(world, i, j)):
                found.append((a, b))
    return found


def compile_world(world: RigidWorld) -> tuple[Columns, dict[str, Array], dict[str, int]]:
    """Columns of the parameter table, arrays and numbers of the kernels' model."""
    order = {body.name: k for k, body in enumerate(world.bodies)}
    kinds = [JointKind(body.joint.kind) for body in world.bodies]
    sizes = [kind.sizes for kind in kinds]
    q_at, v_at = (np.concatenate([[0], np.cumsum([size[k] for size in sizes])]).astype(np.int32) for k in (0, 1))
    parent = np.array([-1 if body.parent is None else order[body.parent] for body in world.bodies], np.int32)
    solo = np.array([kind is JointKind.FREE and k not in parent for k, kind in enumerate(kinds)], np.int32)
    arrays: dict[str, Array] = {
        "parent": parent,
        "joint": np.array(kinds, np.int32),
        "q_at": q_at[:-1],
        "v_at": v_at[:-1],
        "solo": solo,
        "turn": np.stack([rotation_matrix(body.joint.rotation) for body in world.bodies]),
        "axis": np.array([body.joint.axis for body in world.bodies]),
    }
    trees = _trees(kinds, parent, solo, v_at)
    geometry, names = _geometries(world)
    tests = _tests(world, names)
    arrays |= trees | geometry | tests
    arrays |= {
        "actuator_kind": np.array([ActuatorKind(a.kind) for a in world.actuators], np.int32),
        "actuator_body": np.array([order[a.body] for a in world.actuators], np.int32),
        "actuator_axis": np.array([a.axis for a in world.actuators], np.int32),
    }
    numbers = {
        "bodies": len(world.bodies),
        "configuration": int(q_at[-1]),
        "velocity": int(v_at[-1]),
        "tests": len(tests["test_kind"]),
        "actuators": len(world.actuators),
        "trees": len(trees["tree_first"]),
        "chained": int((trees["tree_end"] - trees["tree_first"] > 1).any()),
    }
    columns = Columns(len(world.bodies), len(names), len(touching(world)), len(world.actuators))
    return columns, arrays, numbers


def rotation_matrix(q: Any) -> Array:
    """Of a unit quaternion wxyz."""
    w, x, y, z = np.asarray(q, dtype=np.float64) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _still(world: RigidWorld, body: int) -> bool:
    """Whether force does not move a body: driven, or fixed to what is."""
    kind, parent = world.bodies[body].joint.kind, world.bodies[body].parent
    if kind is JointKind.DRIVEN:
        return True
    if kind is not JointKind.FIXED:
        return False
    return parent is None or _still(world, [b.name for b in world.bodies].index(parent))


def _neighbours(world: RigidWorld, i: int, j: int) -> bool:
    """Joined directly; fixed joints make one body of two."""

    def anchor(k: int) -> int:
        while k >= 0 and world.bodies[k].joint.kind is JointKind.FIXED:
            k = above(k)
        return k

    def above(k: int) -> int:
        parent = world.bodies[k].parent
        return -1 if parent is None else [b.name for b in world.bodies].index(parent)

    a, b = anchor(i) if i >= 0 else -1, anchor(j) if j >= 0 else -1
    if a == b:
        return True
    jointed = (JointKind.HINGE, JointKind.SLIDE)
    return any(x >= 0 and world.bodies[x].joint.kind in jointed and anchor(above(x)) == y for x, y in ((a, b), (b, a)))


def _one_tree(world: RigidWorld, i: int, j: int) -> bool:
    """Whether two bodies hang on one root."""
    names = [body.name for body in world.bodies]

    def root(k: int) -> int:
        parent = world.bodies[k].parent
        return k if parent is None else root(names.index(parent))

    return i >= 0 and j >= 0 and root(i) == root(j)


def _trees(kinds: list[JointKind], parent: Array, solo: Array, v_at: Array) -> dict[str, Array]:
    """Degrees of freedom, in ranges that are solved together."""
    dof_body, dof_kind, root_of = [], [], []
    for k, kind in enumerate(kinds):
        root = k
        while parent[root] >= 0 and kinds[parent[root]] is not JointKind.DRIVEN:
            root = int(parent[root])
        root_of.append(root)
        codes = {JointKind.FREE: range(6), JointKind.DRIVEN: range(6), JointKind.HINGE: (6,), JointKind.SLIDE: (7,)}.get(kind, ())
        dof_body += [k] * len(codes)
        dof_kind += list(codes)
    first, end = [], []
    for root in dict.fromkeys(root_of):
        members = [k for k, r in enumerate(root_of) if r == root]
        low, high = int(v_at[members[0]]), int(v_at[members[-1] + 1])
        if not solo[root] and kinds[root] is not JointKind.DRIVEN and high > low:
            if members != list(range(members[0], members[-1] + 1)):
                raise ValueError("RigidWorld needs the bodies of one tree of joints to stand one after another.")
            first.append(low)
            end.append(high)
    names = ("tree_first", "tree_end", "dof_body", "dof_kind")
    return {name: np.array(values, np.int32) for name, values in zip(names, (first, end, dof_body, dof_kind), strict=True)}


def _geometries(world: RigidWorld) -> tuple[dict[str, Array], list[tuple[int, int, Geometry]]]:
    """Arrays of all geometries, and (owner, body, geometry) of each."""
    listed = [(owner, body, geometry) for owner, (body, geometries) in enumerate(owners(world)) for geometry in geometries]
    ranges: dict[str, list[int]] = {f"{part}_{end}": [] for part in ("point", "face", "plane") for end in ("first", "end")}
    ranges["sample_end"] = []
    points: list[Any] = []
    shares: list[float] = []
    crowds: list[float] = []
    faces: list[Any] = []
    normals: list[Any] = []
    offsets: list[float] = []
    bound: list[float] = []
    middle: list[Any] = []
    for _, _, geometry in listed:
        core, samples, hull = core_of(geometry)
        ranges["point_first"].append(len(points))
        ranges["face_first"].append(len(faces))
        ranges["plane_first"].append(len(normals))
        if hull is not None:
            faces += (hull.faces + len(points)).tolist()
            normals += hull.normals.tolist()
            offsets += hull.offsets.tolist()
        center = core.mean(0)
        middle.append(center)
        bound.append(float(np.linalg.norm(core - center, axis=1).max()))
        points += core.tolist()
        ranges["point_end"].append(len(points))
        points += samples.tolist()
        shares += share_of(geometry).tolist()
        crowds += [*crowd_of(core, hull), *(1.0 for _ in samples)]
        ranges["sample_end"].append(len(points))
        ranges["face_end"].append(len(faces))
        ranges["plane_end"].append(len(normals))
    arrays: dict[str, Array] = {name: np.array(values, np.int32) for name, values in ranges.items()}
    arrays |= {
        "geometry_body": np.array([body for _, body, _ in listed], np.int32),
        "geometry_turn": np.stack([rotation_matrix(g.rotation) for _, _, g in listed]) if listed else np.zeros((0, 3, 3)),
        "bound": np.array(bound, np.float64),
        "middle": np.array(middle, np.float64).reshape(-1, 3),
        "points": np.array(points, np.float64).reshape(-1, 3),
        "shares": np.array(shares, np.float64),
        "crowds": np.array(crowds, np.float64),
        "faces": np.array(faces, np.int32).reshape(-1, 3),
        "normals": np.array(normals, np.float64).reshape(-1, 3),
        "offsets": np.array(offsets, np.float64),
    }
    return arrays, listed


def core_of(geometry: Geometry) -> tuple[Array, Array, Any]:
    """Points of a geometry's core, further samples between them, and its hull, all in its frame."""
    none = np.zeros((0, 3))
    match geometry.shape:
        case SphereShape() | PlaneShape():
            return np.zeros((1, 3)), none, None
        case CapsuleShape(radius=radius, half_length=half):
            count = min(int(np.ceil(4 * half / radius)), AXIS_SAMPLES)
            between = np.linspace(-half, half, count + 2)[1:-1]
            return np.array([[0, 0, -half], [0, 0, half]]), np.c_[np.zeros((count, 2)), between], None
        case BoxShape() | ConvexShape() as polytope:
            hull = polytope.hull
            if len(hull.vertices) > MANY_VERTICES:
                return hull.vertices, none, hull
            share = np.linspace(0, 1, EDGE_SAMPLES + 2)[1:-1, None, None]
            start, end = hull.vertices[hull.edges[:, 0]], hull.vertices[hull.edges[:, 1]]
            return hull.vertices, np.concatenate((((1 - share) * start + share * end).reshape(-1, 3), *inner_samples(hull))), hull
    raise TypeError(f"RigidTwin knows SphereShape, CapsuleShape, BoxShape, ConvexShape and PlaneShape, got {type(geometry.shape).__name__}.")


def inner_samples(hull: Hull) -> list[Array]:
    """Of each face of a polytope, points a little inside its corners, and its middle: what two aligned faces touch with."""
    found = []
    for normal, offset in zip(hull.normals, hull.offsets, strict=True):
        corners = hull.vertices[np.abs(hull.vertices @ normal - offset) < 1e-6 * float(np.ptp(hull.vertices))]
        middle = corners.mean(0, keepdims=True)
        found.append(np.concatenate((middle, middle + (1 - INSET) * (corners - middle))))
    return found


def crowd_of(core: Array, hull: Hull | None) -> Array:
    """Of each core point, the share of a contact's stiffness that it takes against a plane: as much as makes the points that touch with it, of a polytope that
    lies flat, no stiffer together than four. Substeps that resolve the corners of a box then resolve the rim of a cylinder."""
    shares = np.ones(len(core))
    if hull is None:
        return shares
    for normal, offset in zip(hull.normals, hull.offsets, strict=True):
        depth = offset - core @ normal
        flat = depth <= FLAT * float(np.ptp(depth))
        shares[flat] = np.minimum(shares[flat], 4.0 / max(int(flat.sum()), 4))
    return shares


def share_of(geometry: Geometry) -> Array:
    """Of each core point and sample, the share of a contact's stiffness that it takes against another polytope: what lies on the edges of a face, and what lies
    inside them, are each worth as much, from both sides together, as the face's corners against a plane."""
    core, samples, hull = core_of(geometry)
    count = len(core) + len(samples)
    if hull is None or not len(samples):
        return np.r_[crowd_of(core, hull), np.ones(len(samples))]
    inner = sum(len(part) for part in inner_samples(hull))
    corners = np.mean([(np.abs(core @ n - o) < 1e-6 * float(np.ptp(core))).sum() for n, o in zip(hull.normals, hull.offsets, strict=True)])
    sides = len(hull.normals)
    outer = 2 * EDGE_SAMPLES * len(hull.edges) / sides + corners  # on the edges of a face: each edge has two
    return np.r_[np.full(count - inner, 0.5 * corners / outer), np.full(inner, 0.5 * corners * sides / inner)]


def _tests(world: RigidWorld, listed: list[tuple[int, int, Geometry]]) -> dict[str, Array]:
    """How each pair of geometries that may touch is tested, with its row of contact parameters."""
    rows: list[tuple[int, int, int, int]] = []
    for pair, (one, other) in enumerate(touching(world)):
        for g, (owner, _, first) in enumerate(listed):
            for h, (partner, _, second) in enumerate(listed):
                if owner == one and partner == other:
                    rows += [(int(kind), a, b, pair) for kind, a, b in _how(g, h, first, second)]
    table = np.array(rows, np.int32).reshape(-1, 4)
    return {name: table[:, k].copy() for k, name in enumerate(("test_kind", "test_a", "test_b", "test_pair"))}


def _how(g: int, h: int, first: Geometry, second: Geometry) -> list[tuple[TestKind, int, int]]:
    flat = [isinstance(shape, PlaneShape) for shape in (first.shape, second.shape)]
    round_ = [isinstance(shape, SphereShape | CapsuleShape) for shape in (first.shape, second.shape)]
    if flat[1]:
        return [(TestKind.POINTS_PLANE, g, h)]
    if flat[0]:
        return [(TestKind.POINTS_PLANE, h, g)]
    if all(round_):
        return [(TestKind.SEGMENTS, g, h)]
    if round_[0]:
        return [(TestKind.POINTS_FACES, g, h)]
    if round_[1]:
        return [(TestKind.POINTS_FACES, h, g)]
    return [(TestKind.POINTS_PLANES, g, h), (TestKind.POINTS_PLANES, h, g)]
