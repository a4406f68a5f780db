"""Rigid worlds in files: URDF and MJCF are read, our own JSON form is read and written."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from structwm.data.atomic import write_bytes
from structwm.data.errors import BadData
from structwm.data.ply import bad, open_data
from structwm.kernels.rigid_layout import ActuatorKind, JointKind

from .rigid_world import Actuator, Body, BoxShape, CapsuleShape, ConvexShape, Fixture, Geometry, Joint, Material, PlaneShape, RigidWorld, SphereShape

FORMAT = "structwm rigid world"
VERSION = 1
SHAPES = {"sphere": SphereShape, "capsule": CapsuleShape, "box": BoxShape, "mesh": ConvexShape, "plane": PlaneShape}
_ADVICE = "correct the file"


def read_world(path: str | Path, **options: Any) -> RigidWorld:
    """The rigid world of a file: `.urdf`, `.xml` (MJCF, needs mujoco) or `.json` (our own, as `write_world` writes it).

    Args:
        path: the file.
        options: of `read_urdf` (`floating`, `ground`, `packages`) or `read_mjcf` (`ground`).

    Raises:
        BadData: in one sentence that names file, element and field, if the file cannot be read as a rigid world.
        ValueError: on another kind of file, or options that its kind does not have.
    """
    from .mjcf_files import read_mjcf
    from .urdf_files import read_urdf

    path = Path(path)
    readers: dict[str, tuple[Any, tuple[str, ...]]] = {
        ".urdf": (read_urdf, ("floating", "ground", "packages")),
        ".xml": (read_mjcf, ("ground",)),
        ".json": (_read_json, ()),
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"read_world reads {', '.join(readers)}, got {path.name!r}.")
    reader, known = readers[path.suffix.lower()]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"read_world has no option {unknown[0]!r} for {path.suffix} files; it has {', '.join(known) or 'none'}.")
    world: RigidWorld = reader(path, **options)
    return world


def write_world(world: RigidWorld, path: str | Path) -> None:
    """Write a world as JSON: what equals its default is left out, numbers are exact. `read_world` gives the same world back, bit for bit.

    Raises:
        ValueError: if the file's name does not end in `.json`.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise ValueError(f"write_world writes .json files, got {path.name!r}.")
    content = {"format": FORMAT, "version": VERSION} | _plain(world)
    write_bytes(path, [_layout(content).encode() + b"\n"])


def _plain(value: Any) -> Any:
    """What JSON holds of a value: a mapping of the fields that differ from their defaults, lists, numbers, texts; null for no limit."""
    match value:
        case SphereShape() | CapsuleShape() | BoxShape() | ConvexShape() | PlaneShape():
            name = next(name for name, kind in SHAPES.items() if isinstance(value, kind))
            return {"type": name} | {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case JointKind() | ActuatorKind():
            return value.name.lower()
        case RigidWorld() | Body() | Fixture() | Geometry() | Material() | Joint() | Actuator():
            found = {}
            for field in fields(value):
                part = getattr(value, field.name)
                if field.name == "inertia":
                    part = np.diag(part) if not np.any(part - np.diag(np.diag(part))) else part
                elif (field.name == "name" and isinstance(value, Actuator) and part == Actuator(value.body, value.kind, 0, 1, value.axis).name) or (
                    field.default is not MISSING and _same(part, field.default)
                ):
                    continue
                found[field.name] = _plain(part)
            return found
        case np.ndarray() | tuple() | list():
            return [_plain(part) for part in value]
        case str():
            return value
        case int() | float() | np.integer() | np.floating():
            number = value.item() if isinstance(value, np.generic) else value
            return number if math.isfinite(number) else None
    raise TypeError(f"write_world has no form for {type(value).__name__}.")


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Joint | Material):
        return all(_same(getattr(value, field.name), getattr(default, field.name)) for field in fields(value))
    return bool(type(value) is type(default) and value == default and repr(value) == repr(default))  # -0.0 is not 0.0


def _layout(value: Any, indent: str = "") -> str:
    """JSON, one line for what holds no mappings and is short."""
    inline = json.dumps(value, ensure_ascii=False)
    deeper = indent + "  "
    if isinstance(value, dict) and (len(inline) > 120 or any(isinstance(part, list) and part and isinstance(part[0], dict) for part in value.values())):
        rows = [f"{deeper}{json.dumps(name)}: {_layout(part, deeper)}" for name, part in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and len(inline) > 120:
        return "[\n" + ",\n".join(deeper + _layout(part, deeper) for part in value) + f"\n{indent}]"
    return inline


def _read_json(path: Path) -> RigidWorld:
    with open_data(path) as stream:
        content = stream.read()
    try:
        found = json.loads(content, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise bad(path, "the whole file", "JSON", "a JSON file", str(error).rstrip("."), _ADVICE) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise bad(path, "the whole file", "format", repr(FORMAT), repr(found.get("format")) if isinstance(found, dict) else "no mapping", _ADVICE)
    if found.get("version") != VERSION or isinstance(found.get("version"), bool):
        raise bad(path, "the whole file", "version", str(VERSION), repr(found.get("version")), "read it with the release that wrote it")
    rest = {name: value for name, value in found.items() if name not in ("format", "version")}
    reader = _Reader(path)
    parts = {name: tuple(reader.list(rest.get(name, []), name)) for name in ("bodies", "fixtures", "actuators")}
    made: dict[str, Any] = {
        "bodies": tuple(reader.body(value, f"bodies[{k}]") for k, value in enumerate(parts["bodies"])),
        "actuators": tuple(reader.make(Actuator, value, f"actuators[{k}]") for k, value in enumerate(parts["actuators"])),
    }
    if "fixtures" in rest:
        made["fixtures"] = tuple(reader.fixture(value, f"fixtures[{k}]") for k, value in enumerate(parts["fixtures"]))
    world: RigidWorld = reader.make(RigidWorld, rest, "the whole file", **made)
    return world


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


class _Reader:
    """Makes parts of a world of what JSON holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def bad(self, where: str, field: str, expected: str, got: str) -> BadData:
        return bad(self.path, where, field, expected, got, _ADVICE)

    def list(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.bad(where, where, "a list", repr(value)[:80])
        return value

    def make(self, kind: Any, value: Any, where: str, **ready: Any) -> Any:
        """An object of `kind` from a mapping of its fields; `ready` are fields that are made already."""
        if not isinstance(value, Mapping):
            raise self.bad(where, "the whole", "a mapping", repr(value)[:80])
        known = {field.name: field for field in fields(kind)}
        for name in value:
            if name not in known:
                raise self.bad(where, name, f"one of {', '.join(known)}", repr(name))
        for name, field in known.items():
            if name not in value and name not in ready and field.default is MISSING and field.default_factory is MISSING:
                raise self.bad(where, name, "a value", "none")
        given = {name: self.value(name, part, where) for name, part in value.items() if name not in ready} | ready
        try:
            return kind(**given)
        except (ValueError, TypeError) as error:
            raise self.bad(where, "the whole", f"what makes a {kind.__name__}", str(error).rstrip(".")) from error

    def value(self, name: str, part: Any, where: str) -> Any:
        """A number, a text, or numbers as a tuple; null for no limit."""
        if part is None and name in ("low", "high"):
            return -math.inf if name == "low" else math.inf
        if name in _SIZES:
            return self.row(name, part, where, _SIZES[name])
        if name in ("vertices", "inertia"):
            return self.array(name, part, where)
        if name in ("name", "body", "parent", "kind"):
            if not isinstance(part, str):
                raise self.bad(where, name, "a text", repr(part)[:80])
            return part
        if name == "axis" and (part not in range(6) or not isinstance(part, int)):
            raise self.bad(where, name, "an axis of 0 to 5", repr(part)[:80])
        if not _is_number(part):
            raise self.bad(where, name, "a finite number", repr(part)[:80])
        return part

    def row(self, name: str, part: Any, where: str, size: int) -> tuple[float, ...]:
        if not isinstance(part, list) or len(part) != size or not all(map(_is_number, part)):
            raise self.bad(where, name, f"{size} finite numbers", repr(part)[:80])
        return tuple(part)

    def array(self, name: str, part: Any, where: str) -> Any:
        try:
            array = np.array(part, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            array = np.array(np.nan)
        fits = array.shape in ((), (3,), (3, 3)) if name == "inertia" else array.ndim == 2 and array.shape[1] == 3
        if not fits or not np.isfinite(array).all():
            raise self.bad(where, name, "1, 3 or 3 x 3 finite numbers" if name == "inertia" else "rows of 3 finite numbers", repr(part)[:80])
        return array

    def body(self, value: Any, where: str) -> Body:
        ready = self.parts(value, where)
        if isinstance(value, Mapping) and "joint" in value:
            ready["joint"] = self.joint(value["joint"], f"{where}.joint")
        body: Body = self.make(Body, value, where, **ready)
        return body

    def fixture(self, value: Any, where: str) -> Fixture:
        fixture: Fixture = self.make(Fixture, value, where, **self.parts(value, where))
        return fixture

    def parts(self, value: Any, where: str) -> dict[str, Any]:
        """Geometries and material of a body or fixture."""
        ready: dict[str, Any] = {}
        if isinstance(value, Mapping) and "geometries" in value:
            listed = self.list(value["geometries"], f"{where}.geometries")
            ready["geometries"] = tuple(self.geometry(part, f"{where}.geometries[{k}]") for k, part in enumerate(listed))
        if isinstance(value, Mapping) and "material" in value:
            ready["material"] = self.make(Material, value["material"], f"{where}.material")
        return ready

    def joint(self, value: Any, where: str) -> Joint:
        given = {"axis": self.row("axis", value["axis"], where, 3)} if isinstance(value, Mapping) and "axis" in value else {}
        joint: Joint = self.make(Joint, value, where, **given)
        axis = given.get("axis", joint.axis)
        if math.isclose(math.hypot(*axis), 1.0, rel_tol=1e-12):
            object.__setattr__(joint, "axis", axis)  # dividing by a length of almost one would change its last bits
        return joint

    def geometry(self, value: Any, where: str) -> Geometry:
        if not isinstance(value, Mapping) or not isinstance(value.get("shape"), Mapping):
            raise self.bad(where, "shape", "a mapping", repr(value)[:80])
        shape = dict(value["shape"])
        kind = shape.pop("type", None)
        if kind not in SHAPES:
            raise self.bad(f"{where}.shape", "type", f"one of {', '.join(SHAPES)}", repr(kind))
        geometry: Geometry = self.make(Geometry, value, where, shape=self.make(SHAPES[kind], shape, f"{where}.shape"))
        return geometry


_SIZES = {"position": 3, "rotation": 4, "com": 3, "color": 3, "half_extents": 3}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
