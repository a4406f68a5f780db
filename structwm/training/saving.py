"""Models as two files of one name: `NAME.safetensors` holds weights, arrays and, in its header, what the model is; `NAME.json` says the latter to people.

What can be saved: a module that keeps its constructor's arguments as attributes of the same names, or whose class has `config()`, which returns them by name.
Arguments may be numbers, text, tensors, numpy arrays, enums,
State classes, dataclasses, sequences and dictionaries of such, named functions, and further modules or objects with `config()`; so wrapped models and ensembles
are saved whole. Nothing is pickled: loading imports classes and functions that trusted packages define, and makes objects only of those that can be saved.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from structwm.data.atomic import sync_path, write_json

FORMAT, VERSION = "structwm-model", 1
TENSORS = "config/"  # prefix of the constructor's arrays among the weights
SPACES = ("Box", "Discrete", "Tuple")  # of gymnasium


def save_model(model: nn.Module, path: str | Path, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Write `path.safetensors`, in one step, and `path.json`.

    Args:
        model: a module with `config()`, for example any model of this library.
        path: without suffix; its folder is made.
        facts: plain JSON that is kept beside it, such as what it was trained on and its errors.

    Returns:
        The name under which `load_model` finds it.

    Raises:
        TypeError: if a part of the model cannot be saved; the sentence says which.
    """
    from safetensors.torch import save_file

    base = _base(path)
    arrays: dict[str, Tensor] = {}
    described = check_saveable(model, arrays)
    content = {"format": FORMAT, "version": VERSION, "model": described, "facts": dict(facts or {})}
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    text = json.dumps(content, allow_nan=False)
    base.parent.mkdir(parents=True, exist_ok=True)
    draft = _file(base, f".{os.getpid()}.tmp")
    save_file(weights | {TENSORS + name: value.contiguous() for name, value in arrays.items()}, draft, metadata={FORMAT: text})
    sync_path(draft)
    os.replace(draft, _file(base, ".safetensors"))
    write_json(_file(base, ".json"), content)
    return base


def check_saveable(model: nn.Module, arrays: dict[str, Tensor] | None = None) -> Any:
    """Describe a model as JSON, its constructor's arrays going to `arrays`, and make sure that the description makes it again.

    Raises:
        TypeError: if it does not; the sentence says which part is to blame.
    """
    arrays = {} if arrays is None else arrays
    described = _encode(model, arrays, type(model).__name__)
    again = _decode(described, arrays, None)
    weights, others = ({name: tuple(value.shape) for name, value in module.state_dict().items()} for module in (model, again))
    if weights != others or getattr(model, "spec", None) != getattr(again, "spec", None):
        raise TypeError(f"{type(model).__name__} made anew from its arguments has another spec or other weights; give its class a config() that returns them.")
    return described


def load_model(path: str | Path, *, trusted: Sequence[str] = (), device: torch.device | str = "cpu") -> Any:
    """The model saved under a name, in evaluation mode: a path without suffix, one of its two files, or a run folder that holds `model.safetensors`.

    Args:
        path: what `save_model` returned, or the folder of a finished training run.
        trusted: packages beside structwm whose classes may be imported.
        device: where its tensors go.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if the file is no model of this format, needs a package that is not trusted, or its weights do not fit.
    """
    base = _base(path)
    content, tensors = _read(base)
    arrays = {name.removeprefix(TENSORS): value for name, value in tensors.items() if name.startswith(TENSORS)}
    model = _decode(content["model"], arrays, ("structwm", *trusted))
    weights = {name: value for name, value in tensors.items() if not name.startswith(TENSORS)}
    for name, value in model.state_dict(keep_vars=True).items():
        if name in weights:
            value.data = value.data.to(weights[name].dtype)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"The weights of {base} do not fit {type(model).__name__}, which has changed since: {error}") from None
    return model.to(device).eval()


def model_facts(path: str | Path) -> dict[str, Any]:
    """The facts kept beside a saved model."""
    facts: dict[str, Any] = _read(_base(path))[0]["facts"]
    return facts


def _base(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix in (".json", ".safetensors"):
        path = path.with_suffix("")
    return path / "model" if path.is_dir() else path


def _file(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)


def _read(base: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a saved model is, and its weights and arrays."""
    from safetensors import SafetensorError, safe_open

    file = _file(base, ".safetensors")
    if not file.exists():
        raise FileNotFoundError(f"There is no model {base}: expected {file.name} there; give the name that save_model returned or a finished run's folder.")
    try:
        with safe_open(file, framework="pt") as stream:
            text = (stream.metadata() or {}).get(FORMAT)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {error}; restore it from a copy or train again.") from None
    content = json.loads(text) if text else {}
    if content.get("version") != VERSION:
        raise ValueError(f"{file} holds no {FORMAT} of version {VERSION}; save it with save_model.")
    return content, tensors


def _name_of(kind: Any) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if "<" in name:
        raise TypeError(f"{name} has no name to be found by; define it at the top of a module to save a model that uses it.")
    return name


def _encode(value: Any, arrays: dict[str, Tensor], where: str) -> Any:
    """As JSON values; tensors go to `arrays`."""
    if isinstance(value, enum.Enum):
        return {"$": "enum", "kind": _name_of(type(value)), "value": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$": "float", "value": str(value)}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        if isinstance(value, np.generic):
            return _encode(value.item(), arrays, where)
        arrays[where] = (value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))).detach().cpu().clone()
        return {"$": "tensor" if isinstance(value, Tensor) else "array", "value": where}
    if isinstance(value, type):
        return {"$": "class", "kind": _name_of(value)}
    if isinstance(value, list | tuple | nn.ModuleList):
        items = [_encode(item, arrays, f"{where}.{i}") for i, item in enumerate(value)]
        return {"$": "tuple", "value": items} if isinstance(value, tuple) else items
    if isinstance(value, set | frozenset):
        return {"$": "set", "value": [_encode(item, arrays, where) for item in sorted(value)]}
    if isinstance(value, spaces.Space):
        return {"$": "space", "kind": type(value).__name__, "value": _encode(_space_arguments(value), arrays, where)}
    if isinstance(value, Mapping | nn.ModuleDict):
        return {"$": "dict", "value": [[_encode(key, arrays, where), _encode(item, arrays, f"{where}.{key}")] for key, item in value.items()]}
    if _describes_itself(type(value)):
        return {"$": "object", "kind": _name_of(type(value)), "value": {n: _encode(v, arrays, f"{where}.{n}") for n, v in _arguments(value, where).items()}}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"$": "class", "kind": _name_of(value)}
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be saved; give its class a config() that returns the constructor's arguments.")


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """The constructor's arguments by name: what `config()` says, the fields of a dataclass, or attributes named as the constructor's parameters are."""
    if callable(getattr(value, "config", None)):
        return dict(value.config())
    if dataclasses.is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
    names = [
        name
        for name, parameter in inspect.signature(type(value)).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise TypeError(
            f"{where} is a {type(value).__name__} that does not keep its argument {missing[0]!r}; keep it as an attribute, or give the class a config() that "
            "returns the constructor's arguments."
        )
    return {name: getattr(value, name) for name in names}


def _space_arguments(space: spaces.Space[Any]) -> dict[str, Any]:
    match space:
        case spaces.Box():
            return {"low": space.low, "high": space.high}
        case spaces.Discrete():
            return {"n": int(space.n)}
        case spaces.Tuple():
            return {"spaces": space.spaces}
    raise TypeError(f"Only Box, Discrete and Tuple spaces are saved, got {space}.")


def _decode(content: Any, arrays: Mapping[str, Tensor], trusted: Sequence[str] | None) -> Any:
    if isinstance(content, list):
        return [_decode(item, arrays, trusted) for item in content]
    if not isinstance(content, dict):
        return content
    match content["$"]:
        case "float":
            return float(content["value"])
        case "tensor":
            return arrays[content["value"]]
        case "array":
            return arrays[content["value"]].cpu().numpy()
        case "tuple":
            return tuple(_decode(item, arrays, trusted) for item in content["value"])
        case "dict":
            return {_decode(key, arrays, trusted): _decode(item, arrays, trusted) for key, item in content["value"]}
        case "set":
            return frozenset(_decode(item, arrays, trusted) for item in content["value"])
        case "space" if content["kind"] in SPACES:
            return getattr(spaces, content["kind"])(**_decode(content["value"], arrays, trusted))
        case "enum":
            return _found(content["kind"], trusted, lambda kind: isinstance(kind, enum.EnumMeta))[content["value"]]
        case "class":
            return _found(content["kind"], trusted, lambda kind: isinstance(kind, type | FunctionType))
        case "object":
            kind = _found(content["kind"], trusted, lambda kind: isinstance(kind, type) and _describes_itself(kind))
            return kind(**{name: _decode(item, arrays, trusted) for name, item in content["value"].items()})
    raise ValueError(f"A saved model holds an entry of the kind {content['$']!r}, which this release does not know.")


def _describes_itself(kind: type) -> bool:
    """Whether objects of a class tell their constructor's arguments."""
    return dataclasses.is_dataclass(kind) or issubclass(kind, nn.Module) or callable(getattr(kind, "config", None))


def _found(name: str, trusted: Sequence[str] | None, expected: Callable[[Any], bool]) -> Any:
    """What a trusted module itself defines under a name: never what it imported."""
    module, _, qualified = name.partition(":")
    if trusted is not None and not any(module == package or module.startswith(f"{package}.") for package in trusted):
        raise ValueError(f"The model needs {name}; load it with trusted=({module.split('.')[0]!r},) if you trust that package.")
    value: Any = import_module(module)
    for part in qualified.split("."):
        value = getattr(value, part, None)
    if expected(value) and (value.__module__, value.__qualname__) == (module, qualified):
        return value
    raise ValueError(f"The model names {name}, which is nothing that {module} defines for a model to be made of.")
