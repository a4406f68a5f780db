"""`structwm evaluate`: a saved model, or several, on recorded episodes. Everything that can be refused is refused before any rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console

from structwm.data.atomic import read_lines, write_json
from structwm.data.episode import Episode
from structwm.data.store import EpisodeSet
from structwm.roles.evaluation import Comparison
from structwm.roles.evaluator import compare
from structwm.training.saving import load_model
from structwm.training.windows import EpisodeWindows, field_names
from structwm.transition import TransitionModel

JITTER, OFF = 0.02, 0.1  # relative: a step of the recording that is off by more is counted; a median that is off by more is refused


@dataclass(frozen=True)
class EvaluateConfig:
    """Prediction errors, drift, ranking of candidates and coverage of saved models on recorded episodes.

    Raises:
        ValueError: for a count that is not positive, or a field that is not written NAME=OBSERVATION.
    """

    model: Annotated[str, tyro.conf.Positional]  # what save_model returned, or the folder of a finished training run
    episodes: Annotated[Path, tyro.conf.Positional]  # a folder that an EpisodeWriter or EpisodeRecorder wrote
    out: Path | None = None  # folder of evaluation.json and pictures, of the training too where the model is a run; without it the table is printed only
    horizon: int = 20  # steps that are predicted from each window's start
    stride: int | None = None  # steps between the starts of windows; by default the horizon, so that windows do not overlap
    fields: tuple[str, ...] = ()  # which observation is which field of the state, where names differ: pose=slider_pose pusher=tip_position
    coordinates: tuple[str, ...] = ()  # those that count, all by default; leave out what an action sets directly, such as the pusher's place
    candidates: int = 32  # windows among which the one is sought that gets nearest to a goal
    goals: int = 200  # recorded outcomes that are goals in turn; more give narrower intervals
    trusted: tuple[str, ...] = ()  # packages whose classes a saved model may import, beside structwm
    against: tuple[str, ...] = ()  # other models, for the same table
    device: str = "cpu"  # where models predict, such as cuda
    seed: int = 0  # of goals and candidates

    def __post_init__(self) -> None:
        for name, least in (("horizon", 1), ("stride", 1), ("candidates", 2), ("goals", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"structwm evaluate needs {name} >= {least}, got {value}.")
        for pair in self.fields:
            if len(pair.split("=")) != 2 or not all(pair.split("=")):
                raise ValueError(f"structwm evaluate needs fields as NAME=OBSERVATION, got {pair!r}.")


def main(config: EvaluateConfig) -> Comparison:
    """Evaluate, print the table, write `evaluation.json` and the pictures.

    Raises:
        FileNotFoundError: if there is no such model or no episodes there.
        ValueError: if models and episodes do not fit; the sentence says what to do.
        ImportError: if pictures are asked for and there is nothing to draw with.
    """
    console = Console() if Console().is_terminal else Console(width=120)
    if config.out is not None:
        _drawing()
    models = _models(config)
    episodes = EpisodeSet(config.episodes)
    if len(episodes) == 0:
        raise ValueError(f"{config.episodes} holds no episodes; record some first.")
    for name, model in models.items():
        for warning in fits(model, episodes, name):
            console.print(f"[yellow]warning:[/yellow] {warning}", soft_wrap=True)
    windows = {name: _windows(model, episodes, config) for name, model in models.items()}
    labels = embodiments(next(iter(windows.values())))
    with console.status("predicting"):
        options: dict[str, Any] = {"goals": config.goals, "candidates": config.candidates, "coordinates": config.coordinates}
        options |= {"groups": labels, "seed": config.seed}
        found = compare(models, windows, **options)
    evaluations = list(found.evaluations.values())
    console.print(evaluations[0].table() if len(evaluations) == 1 else found.table())
    if config.out is not None:
        runs = {name: Path(path) for name, path in zip(models, (config.model, *config.against), strict=True)}
        units = {quantity.name: quantity.unit for quantity in evaluations[0].quantities}
        for file in [*write(found, config.out, episodes=str(config.episodes)), *write_training(runs, config.out, units)]:
            console.print(str(file), soft_wrap=True)
    return found


def fits(model: TransitionModel[Any], episodes: Sequence[Episode], name: str) -> list[str]:
    """Whether recorded actions and times are the model's; sentences on what is odd but can be evaluated.

    Raises:
        ValueError: if the actions are of another kind, size or range, or steps have another length; the sentence says which.
    """
    spec, first = model.spec, episodes[0]
    if spec.action.kind == "hybrid" or (spec.action.kind == "discrete") != first.discrete:
        raise ValueError(f"{name} takes {spec.action.kind} actions, the episodes have {'discrete' if first.discrete else 'continuous'} ones.")
    if spec.action.kind == "continuous" and first.action.shape[1:] != (spec.action.size,):
        raise ValueError(f"{name} takes actions of {spec.action.size} numbers, those of the episodes have the shape {first.action.shape[1:]}.")
    taken = np.concatenate([episode.action[episode.action_valid] for episode in episodes])
    if spec.action.kind == "discrete" and len(taken) and int(taken.max()) >= spec.action.choices:
        raise ValueError(f"{name} takes actions from 0 to {spec.action.choices - 1}, the episodes have {int(taken.max())}.")
    if spec.action.kind == "continuous":
        _in_range(spec.action, taken, name)
    return _timing(spec.dt, episodes, name)


def _in_range(action: Any, taken: np.ndarray, name: str) -> None:
    """Refuse actions farther beyond the bounds than a rounding error."""
    low, high = action.low.numpy().astype(np.float64), action.high.numpy().astype(np.float64)
    beyond = np.maximum(low - taken, taken - high)
    wrong = beyond > 1e-5 * (1 + np.abs(taken))
    if wrong.any():
        row, axis = np.unravel_index(int(np.argmax(beyond)), beyond.shape)
        label = action.names[axis] if action.names else f"action[{axis}]"
        share = f"{int(wrong.any(1).sum())} of {len(taken)} recorded actions are outside, the farthest {taken[row, axis]:g}"
        raise ValueError(f"{name} takes {label} from {low[axis]:g} to {high[axis]:g}; {share}. Are units and meaning the same?")


def _timing(dt: float | None, episodes: Sequence[Episode], name: str) -> list[str]:
    """Whether recorded steps are as long as the model's."""
    steps = np.concatenate([np.diff(episode.time) for episode in episodes])
    if dt is None or not len(steps):
        return []
    middle = float(np.median(steps))
    if abs(middle / dt - 1) > OFF:
        raise ValueError(f"{name} predicts steps of {dt:g} s, the episodes' steps take {middle:g} s (median); resample the episodes or use another model.")
    odd = float((np.abs(steps / dt - 1) > JITTER).mean())
    if odd == 0:
        return []
    return [f"{100 * odd:.0f} % of the recorded steps differ by more than {100 * JITTER:g} % from the {dt:g} s that {name} predicts (median {middle:g} s)."]


def embodiments(windows: EpisodeWindows) -> list[str] | None:
    """The embodiment of each window's episode, so that candidates are of the goal's; None where there is only one."""
    labels = [windows.episodes[number].metadata.embodiment or "" for number, _ in windows.places]
    return labels if len(set(labels)) > 1 else None


def write(found: Comparison, out: Path, *, episodes: str) -> list[Path]:
    """Write `evaluation.json` and the pictures, and say where."""
    from structwm.report.evaluation import draw_evaluation

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", {"episodes": episodes, "models": found.to_json()})
    files = [out / "evaluation.json"]
    for name, image in draw_evaluation(found.evaluations).items():
        files.append(out / f"{name}.png")
        files[-1].write_bytes(image)
    return files


def write_training(runs: Mapping[str, Path], out: Path, units: Mapping[str, str]) -> list[Path]:
    """Draw how each model that is a training run's folder was trained, and say where."""
    from structwm.report.training import draw_training

    files = []
    for name, folder in runs.items():
        lines = list(read_lines(folder / "figures.jsonl")) if folder.is_dir() else []
        for picture, image in draw_training(lines, units=units).items():
            files.append(out / f"training-{Path(name).name}-{picture}.png")
            files[-1].write_bytes(image)
    return files


def _models(config: EvaluateConfig) -> dict[str, Any]:
    """The models by the shortest names that tell them apart."""
    paths = [config.model, *config.against]
    if len(set(paths)) < len(paths):
        raise ValueError("structwm evaluate got a model twice; name each once.")
    short = [Path(path).stem if Path(path).suffix in (".json", ".safetensors") else Path(path).name for path in paths]
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"There is no device {config.device} here; leave --device away to predict on the CPU.")
    names = short if len(set(short)) == len(short) else paths
    try:
        models = {name: load_model(path, trusted=config.trusted, device=config.device) for name, path in zip(names, paths, strict=True)}
    except (AttributeError, ImportError) as error:
        raise ValueError(f"A model cannot be loaded: {error}.") from None
    for name, model in models.items():
        if not isinstance(model, TransitionModel):
            raise ValueError(f"{name} is a {type(model).__name__}, which is no transition model.")
    return models


def _windows(model: TransitionModel[Any], episodes: Sequence[Episode], config: EvaluateConfig) -> EpisodeWindows:
    fields = dict(pair.split("=") for pair in config.fields)
    own = set(field_names(model.spec.state_type))
    unknown = sorted(set(fields) - own)
    if unknown:
        raise ValueError(f"{model.spec.state_type.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(own))}.")
    weight = next(model.parameters(), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return EpisodeWindows(episodes, model.spec.state_type, horizon=config.horizon, stride=config.stride or config.horizon, fields=fields, dtype=dtype)


def _drawing() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("Pictures need matplotlib; run `pip install structwm[report]`, or leave --out away.") from None
