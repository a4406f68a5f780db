"""Training of any transition model on windows of episodes, on Lightning Fabric.

A step is a function of the checkpoint before it: batches, and whatever the model draws, are keyed by seed and step number. A job killed at any moment goes on
from its last checkpoint and, on a CPU, ends with the same weights bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from structwm.state import fields_of
from structwm.transition import TransitionModel

from .losses import Loss, RolloutLoss, nothing
from .open_loop import OpenLoop, open_loop_errors
from .optimizers import optimizers_of
from .run_folder import RunFolder
from .saving import check_saveable, save_model
from .settings import FitSettings
from .windows import Batch

M = TypeVar("M", bound=TransitionModel[Any])
SAMPLE = 4096  # windows that scales are read from


@dataclass(frozen=True)
class Fitted(Generic[M]):
    """A trained model and how it came to be."""

    model: M  # with the weights of the best evaluation
    best_step: int  # at which the held-out error was least
    best_error: float  # mean held-out error over that of holding still
    held_out: OpenLoop  # errors of the best weights on the held-out windows
    history: Sequence[dict[str, Any]]  # one entry an evaluation: step, loss, held_out, horizon, learning_rate, error/COORDINATE/h
    stopped: str  # "steps": all were taken; "patience": the held-out error rose
    skipped: int  # steps whose gradient was not finite
    seconds: float  # wall time of this start


def fit(
    model: M,
    train: Any,
    *,
    held_out: Any,
    loss: Loss = RolloutLoss(),
    settings: FitSettings = FitSettings(),
    run: str | Path | None = None,
    progress: bool = True,
) -> Fitted[M]:
    """Train a model, stop when rollouts on held-out windows no longer improve, and return it with its best weights.

    Args:
        model: trained in place; its `forward` is its rollout.
        train: a `Batch` or `EpisodeWindows`.
        held_out: windows of other episodes.
        loss: what is made small.
        settings: how.
        run: folder of checkpoints and figures. If a job with the same settings began there, it is gone on with; a finished one is only loaded.
            The result is saved there and `load_model(run)` finds it.
        progress: show a bar.

    Raises:
        ValueError: if there is nothing to train or to train on, or the run folder belongs to another job.
        TypeError: if the model cannot be saved to the run folder.
        FloatingPointError: if ten steps in a row have a loss or gradient that is not finite.
    """
    _check(model, train, held_out, settings, saving=run is not None)
    fabric = _fabric(settings)
    start = time.perf_counter()
    with _run_folder(fabric, run, model, train, held_out, loss, settings) as folder:
        job = _Job(fabric, model, train, held_out, loss, settings, folder)
        job.resume()
        job.train(progress)
        return job.finish(start)


def _check(model: nn.Module, train: Any, held_out: Any, settings: FitSettings, *, saving: bool) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no trainable parameters; a twin's physical parameters are calibrated, not fitted.")
    for name, windows in (("train", train), ("held_out", held_out)):
        if len(windows) == 0:
            raise ValueError(f"fit needs at least one window in {name}, got none.")
    for length in {settings.curriculum.steps(progress, train.horizon) for progress in (0.0, 1.0)}:
        if not len(train[: min(len(train), SAMPLE)].segments(length)):
            raise ValueError(f"The training windows show no state within {length} steps after an observed one; try a curriculum that starts with more steps.")
    if not bool(held_out[:].observed()[:, 0].any()):
        raise ValueError("No held-out window starts at a fully observed state.")
    if saving:
        check_saveable(model)


def _fabric(settings: FitSettings) -> Any:
    """Lightning Fabric for these settings; under torchrun as many processes as it started."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise ImportError("Training needs Lightning Fabric; run `pip install lightning-fabric`, or install structwm with its extra `training`.") from None
    world = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else settings.devices
    many = world > 1 or settings.devices > 1
    if settings.batch % max(world, settings.devices):
        raise ValueError(f"FitSettings.batch must be a multiple of the {max(world, settings.devices)} processes, got {settings.batch}.")
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=local,
        num_nodes=max(1, world // local),
        strategy="ddp_find_unused_parameters_true" if many else "auto",
        precision=settings.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


@contextmanager
def _run_folder(
    fabric: Any, run: str | Path | None, model: nn.Module, train: Any, held_out: Any, loss: Loss, settings: FitSettings
) -> Iterator[RunFolder | None]:
    """The run folder, on the first process only."""
    if run is None or fabric.global_rank != 0:
        yield None
        return
    size = sum(parameter.numel() for parameter in model.parameters())
    facts = {"model": type(model).__name__, "parameters": size, "windows": [len(train), len(held_out)], "horizon": [train.horizon, held_out.horizon]}
    facts |= {"frozen": _digest(_frozen(model)), "data": [_digest(_content(windows[: min(len(windows), 64)])) for windows in (train, held_out)]}
    with RunFolder.open_or_resume(run, facts | {"loss": [type(loss).__name__, loss], "settings": settings}, seeds=(settings.seed,)) as folder:
        yield folder


def set_training(model: nn.Module) -> None:
    """Training mode for all but what is frozen, such as the base of a residual."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters, and the state of modules that have nothing to train."""
    found: dict[str, Tensor] = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if not any(parameter.requires_grad for parameter in module.parameters()):
            found |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    return found


def _content(batch: Batch) -> dict[str, Tensor]:
    actions = batch.actions
    parts = {"actions": actions} if isinstance(actions, Tensor) else {"index": actions.index, "parameters": actions.parameters}
    return fields_of(batch.states) | parts | {"valid": batch.valid}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Changes with any number."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode() + np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return found.hexdigest()[:16]


class _Batches:
    """Indices of this process's share of each step's batch: an endless stream of permutations, keyed by seed and epoch, from any step on."""

    def __init__(self, count: int, settings: FitSettings, *, first: int, rank: int, world: int) -> None:
        self.count, self.settings, self.first, self.rank, self.world = count, settings, first, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        size, orders = self.settings.batch, dict[int, np.ndarray]()
        for step in range(self.first, self.settings.steps):
            places = np.arange(step * size, (step + 1) * size)[self.rank :: self.world]
            epochs = np.unique(places // self.count)
            for epoch in epochs.tolist():
                if epoch not in orders:
                    orders[epoch] = np.random.default_rng((self.settings.seed, epoch)).permutation(self.count)
            yield [int(orders[place // self.count][place % self.count]) for place in places.tolist()]
            orders = {epoch: order for epoch, order in orders.items() if epoch >= epochs.max()}


def _together(batch: Batch) -> Batch:
    return batch


class _Criterion(nn.Module):
    """The loss as a module without arguments: Fabric converts arguments and results of a forward pass, and would take states apart."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.batch: Batch | None = None

    def forward(self) -> Tensor:
        assert self.batch is not None
        return self.loss(self.model, self.batch) if len(self.batch) else nothing(self.model)


class _Job:
    """One fit: what changes from step to step, its checkpoints, and the loop."""

    def __init__(self, fabric: Any, model: Any, train: Any, held_out: Any, loss: Loss, settings: FitSettings, folder: RunFolder | None) -> None:
        self.fabric, self.plain, self.data, self.held_out, self.settings, self.folder = fabric, model, train, held_out, settings, folder
        self.loss = loss.fitted(model, train[: min(len(train), SAMPLE)])
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.criterion = _Criterion(model, self.loss)
        self.forward, *self.optimizers = fabric.setup(self.criterion, *optimizers_of(trained, settings))
        self.step, self.best_step, self.best_error, self.waited, self.skipped, self.bad = 0, 0, float("inf"), 0, 0, 0
        self.best: dict[str, Tensor] = {}
        self.stopped = ""
        self.history: list[dict[str, Any]] = []
        self.recent: list[float] = []

    def resume(self) -> None:
        """Take up the last checkpoint, on every process."""
        self.history = self.folder.figures() if self.folder is not None else []
        latest = self.folder.latest() if self.folder is not None else None
        latest = self.fabric.broadcast(latest) if self.fabric.world_size > 1 else latest
        if latest is None:
            return
        arrays = {name: torch.from_numpy(np.array(value)) for name, value in latest.arrays.items()}
        self.plain.load_state_dict(_under(arrays, "weights/"))
        self.best = _under(arrays, "best/")
        for number, optimizer in enumerate(self.optimizers):
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _under(arrays, f"optimizer/{number}/").items():
                index, key = name.split("/")
                moments.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        for name, value in latest.state.items():
            setattr(self, name, float(value) if name == "best_error" else value)
        self.step = latest.step

    def checkpoint(self) -> None:
        """Keep everything the next step depends on."""
        if self.folder is None:
            return
        arrays = {f"weights/{name}": value for name, value in self.plain.state_dict().items()} | {f"best/{name}": value for name, value in self.best.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, moments in optimizer.state_dict()["state"].items():
                arrays |= {f"optimizer/{number}/{index}/{key}": value for key, value in moments.items()}
        state = {name: getattr(self, name) for name in ("best_step", "waited", "skipped", "bad", "stopped", "recent")}
        self.folder.save(self.step, {name: value.detach().cpu().numpy() for name, value in arrays.items()}, state | {"best_error": str(self.best_error)})

    def train(self, progress: bool) -> None:
        """Steps until the last, or until the held-out error no longer falls."""
        if self.stopped:
            return
        if self.step == 0 and not self.best:
            self.evaluate()
        set_training(self.plain)
        batches = _Batches(len(self.data), self.settings, first=self.step, rank=self.fabric.global_rank, world=self.fabric.world_size)
        loader = DataLoader(self.data, batch_sampler=batches, collate_fn=_together, num_workers=self.settings.workers)  # type: ignore[arg-type,var-annotated]
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}  {task.fields[said]}"), TimeRemainingColumn())
        with Progress(*columns, disable=not progress or self.fabric.global_rank != 0, transient=True) as bar:
            task = bar.add_task(f"training {type(self.plain).__name__}", total=self.settings.steps, completed=self.step, said="")
            for batch in loader:
                self.advance(batch.to(self.fabric.device))
                if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps:
                    self.evaluate()
                if self.stopped or self.step % self.settings.checkpoint_every == 0:
                    self.checkpoint()
                bar.update(task, completed=self.step, said=f"held out {self.history[-1]['held_out']:.4g} of holding still" if self.history else "")
                if self.stopped:
                    return

    def advance(self, batch: Batch) -> None:
        """One optimiser step; a loss or gradient that is not finite is counted and leaves the weights."""
        settings = self.settings
        length = settings.curriculum.steps(self.step / settings.steps, batch.horizon)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(self.step)
        with torch.random.fork_rng(devices=[self.fabric.device] if self.fabric.device.type == "cuda" else []):
            torch.manual_seed(hash((settings.seed, self.step, self.fabric.global_rank)) % (1 << 63))
            self.criterion.batch = batch.segments(length)  # none where the batch shows nothing; every process still takes part
            value = self.forward()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            self.fabric.backward(value)
        norm = nn.utils.clip_grad_norm_(self.plain.parameters(), settings.clip)
        if bool(torch.isfinite(norm)) and bool(torch.isfinite(value.detach())):
            for optimizer in self.optimizers:
                optimizer.step()
            self.recent, self.bad = [*self.recent[-99:], float(value.detach())], 0
        else:
            self.skipped, self.bad = self.skipped + 1, self.bad + 1
            if self.bad == 10:
                raise FloatingPointError(f"Loss or gradient were not finite in the ten steps up to {self.step}; lower the learning rate or the horizon.")
        self.step += 1

    def evaluate(self) -> None:
        """Free-running error on the held-out windows; the best weights are kept."""
        settings = self.settings
        facts: dict[str, float] = {}
        error = 0.0
        if self.fabric.global_rank == 0:
            errors = open_loop_errors(self.plain, self.held_out)
            error = float(errors.relative().nanmean())
            facts = {f"error/{name}/{h + 1}": float(value) for name, curve in errors.curve().items() for h, value in enumerate(curve) if value.isfinite()}
            if self.step == 0:
                facts |= {f"still/{name}/{h + 1}": float(value) for name, curve in errors.still().items() for h, value in enumerate(curve) if value.isfinite()}
        error = float(self.fabric.broadcast(error)) if self.fabric.world_size > 1 else error
        if error < self.best_error:
            self.best_error, self.best_step, self.waited = error, self.step, 0
            self.best = {name: value.detach().clone() for name, value in self.plain.state_dict().items()}
        else:
            self.waited += 1
        entry = {
            "loss": float(np.mean(self.recent)) if self.recent else float("nan"),
            "held_out": error,
            "horizon": settings.curriculum.steps(self.step / settings.steps, self.data.horizon),
            "learning_rate": settings.rate(min(self.step, settings.steps - 1)),
        } | facts
        if not any(line["step"] == self.step for line in self.history):
            self.history.append({"step": self.step} | entry)
            if self.folder is not None:
                self.folder.log(self.step, **entry)
        if self.step >= settings.steps:
            self.stopped = "steps"
        elif self.waited >= settings.patience:
            self.stopped = "patience"

    def finish(self, start: float) -> Fitted[Any]:
        """The model with its best weights, saved."""
        if not self.best:
            raise ValueError("The held-out error was never finite, so there are no best weights; look at the loss, lower the learning rate or the horizon.")
        self.plain.load_state_dict(self.best)
        self.plain.eval()
        errors = open_loop_errors(self.plain, self.held_out)
        if self.folder is not None:
            facts = {"step": self.best_step, "held_out": self.best_error, "stopped": self.stopped, "skipped": self.skipped}
            save_model(self.plain, self.folder.path / "model", facts=facts)
        self.fabric.barrier()
        seconds = time.perf_counter() - start
        return Fitted(self.plain, self.best_step, self.best_error, errors, self.history, self.stopped, self.skipped, seconds)


def _under(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
