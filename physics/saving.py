"""Calibrations as a folder of files: `calibration.json` says everything to people and programs, `calibration.safetensors` holds the tensors, and `scene.json`
the world of a calibrated `WorldTwin`, which is so made again without what it came from; of a network of springs or a rod `twin.safetensors` holds all of it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from structwm.data.atomic import sync_path, write_json
from structwm.state import Splats
from structwm.training.saving import load_model, save_model

from .calibration import Calibration
from .parameters import Parameter, ParameterSpace
from .posterior import Prior
from .rod_twin import RodTwin
from .scene_files import read_world, write_world
from .spring_twin import SpringTwin
from .twin import Twin
from .world_twin import WorldTwin

FORMAT, VERSION = "structwm-calibration", 1
NAME, SCENE, TWIN = "calibration", "scene.json", "twin"
TWINS = {"RigidTwin": "rigid", "NewtonTwin": "newton_twin", "BulletTwin": "bullet_twin", "MujocoTwin": "mujoco_twin"}  # module in this family, by class
_TENSORS = ("z", "covariance", "information")


def save_calibration(calibration: Calibration[Any], folder: str | Path, *, level: float = 0.9) -> Path:
    """Write `calibration.json`, `calibration.safetensors`, for a `WorldTwin` `scene.json`, for a `SpringTwin` or
    `RodTwin` `twin.safetensors` and `twin.json`, each whole or not at all.

    Args:
        calibration: what to keep.
        folder: is made; files of these names are replaced.
        level: of the intervals that stand in the JSON for people; they are not read back.

    Returns:
        The folder.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    twin = calibration.twin
    tensors = {name: getattr(calibration, name) for name in _TENSORS}
    tensors |= {"prior/mean": calibration.prior.mean, "prior/covariance": calibration.prior.covariance}
    tensors |= {f"value/{name}": value for name, value in twin.values.items()}
    if calibration.start is not None:
        tensors["start"] = calibration.start
    described: dict[str, Any] = {"class": type(twin).__name__}
    if isinstance(twin, WorldTwin) and type(twin).__name__ in TWINS:
        config = twin.config()
        tensors |= _splats(config.pop("appearance"))
        write_world(config.pop("world"), folder / SCENE)
        config.pop("values")
        described["options"] = config
    if isinstance(twin, SpringTwin | RodTwin):
        save_model(twin, folder / TWIN)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "values": calibration.values,
        "intervals": {"level": level} | {name: list(bounds) for name, bounds in calibration.intervals(level).items()},
        "errors": {split: dict(errors) for split, errors in calibration.errors.items()},
        "warnings": list(calibration.warnings),
        "noise": dict(calibration.noise),
        "dof": calibration.dof,
        "inflation": calibration.inflation,
        "explored": calibration.explored,
        "nonfinite": calibration.nonfinite,
        "seconds": calibration.seconds,
        "losses": list(calibration.losses),
        "parameters": [asdict(parameter) for parameter in calibration.space.parameters],
        "twin": described,
    }
    draft = folder / f"{NAME}.safetensors.{os.getpid()}.tmp"
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, draft)
    sync_path(draft)
    os.replace(draft, folder / f"{NAME}.safetensors")
    write_json(folder / f"{NAME}.json", _plain(content))
    return folder


def load_calibration(folder: str | Path, *, twin: Twin[Any] | None = None) -> Calibration[Any]:
    """The calibration kept in a folder, every number as it was.

    Args:
        folder: what `save_calibration` wrote, or `structwm calibrate`.
        twin: what was calibrated, where it is no twin that is made again from the folder; under whichever values, it gets the calibrated ones.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the files are damaged or of another release, or a twin is needed or of another class.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    file = folder / f"{NAME}.json"
    if not file.is_file():
        raise FileNotFoundError(f"expected a calibration in {folder}, found no {file.name} there; give a folder that save_calibration wrote.")
    try:
        content = _numbers(json.loads(file.read_text(encoding="utf-8")))
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise ValueError(f"it is no {FORMAT} of version {VERSION}")
        tensors = load_file(folder / f"{NAME}.safetensors")
        values = {name.removeprefix("value/"): value for name, value in tensors.items() if name.startswith("value/")}
        space = ParameterSpace([Parameter(**parameter) for parameter in content["parameters"]])
        kept: dict[str, Any] = {name: content[name] for name in ("noise", "dof", "inflation", "explored", "nonfinite", "seconds", "errors")}
        kept |= {name: tuple(content[name]) for name in ("losses", "warnings")} | {name: tensors[name] for name in _TENSORS}
        kept |= {"prior": Prior(tensors["prior/mean"], tensors["prior/covariance"]), "start": tensors.get("start")}
        described = content["twin"]
        made = _twin(described, folder, tensors, values) if twin is None else twin
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{folder} holds no calibration that can be read: {reason}.") from error
    if type(made).__name__ != described["class"]:
        raise ValueError(f"{folder} holds a calibration of a {described['class']}, got a {type(made).__name__}.")
    return Calibration(twin=made.with_parameters(values), space=space, **kept)


def _twin(described: Mapping[str, Any], folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Twin[Any]:
    """The twin of a saved world, or a saved twin."""
    if described["class"] in ("SpringTwin", "RodTwin"):
        found: Twin[Any] = load_model(folder / TWIN)
        return found
    if "options" not in described:
        raise ValueError(f"a {described['class']} is not made again from files; give it as twin=")
    if described["class"] not in TWINS:
        raise ValueError(f"there is no twin {described['class']!r}")
    kind = getattr(import_module(f"{__package__}.{TWINS[described['class']]}"), described["class"])
    twin: Twin[Any] = kind(read_world(folder / SCENE), **described["options"], values=values, appearance=_appearance(tensors))
    return twin


def _splats(appearance: Mapping[str, Splats]) -> dict[str, Tensor]:
    """The tensors of bodies' splats, by `appearance/FIELD/BODY`."""
    found = {}
    for body, splats in appearance.items():
        for item in fields(splats):  # type: ignore[arg-type]
            value = getattr(splats, item.name)
            if isinstance(value, Tensor):
                found[f"appearance/{item.name}/{body}"] = value
    return found


def _appearance(tensors: Mapping[str, Tensor]) -> dict[str, Splats]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("appearance/"):
            _, label, body = name.split("/", 2)
            parts.setdefault(body, {})[label] = value
    made: Any = Splats
    return {body: made(**own, batch_size=own["means"].shape[:-2]) for body, own in parts.items()}


def _plain(value: Any) -> Any:
    """Strict JSON: numbers that are not finite become {"$": "nan"} and the like."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return {"$": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, dict):
        return float(value["$"]) if set(value) == {"$"} else {name: _numbers(part) for name, part in value.items()}
    return [_numbers(part) for part in value] if isinstance(value, list) else value
