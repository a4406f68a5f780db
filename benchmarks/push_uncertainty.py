"""How sure models of real pushes are: conformal regions, and scores of pushes of a shape that no model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from structwm.data import Pushes, split
from structwm.physics import Settings, calibrate, push_recording, push_twin
from structwm.physics.calibration import Calibration
from structwm.physics.posterior import values_of
from structwm.physics.push_intervals import TwinRegions
from structwm.physics.push_novelty import explanation_features, transition_features
from structwm.physics.pushing import PushTwin
from structwm.physics.recorded_pushes import CONTACT, PARAMETERS, final_pose
from structwm.training.novelty import KnownCodes, NearestNeighbours, auroc

from .claims import differing, settings_hash
from .push_models import Models

KEPT = Path(__file__).parent / "artefacts" / "push_twins.safetensors"
FOLDS = 5
TOGETHER = 5  # pushes of one object that are scored as one
SETTINGS = Settings(evaluations=0, iterations=12)


def hybrid_regions(
    cells: Sequence[Pushes], calibrations: Sequence[Calibration[PushTwin]], models: Models, level: float, console: Console
) -> tuple[Tensor, Tensor]:
    """Whether joint regions of x, y and yaw around the hybrid's predictions hold the test pushes, bool (N,), and the widths (N, 3) of their boxes [m, m, rad].

    Fitted to errors out of fold of the calibration pushes; the spread over draws of the calibrated twins' parameters tells which pushes are hard to predict.
    """
    splits = [split(pushes) for pushes in cells]
    names = [pushes.name for pushes in cells]
    known = [push_recording(pushes[few]) for pushes, (few, _) in zip(cells, splits, strict=True)]
    regions = TwinRegions.fit(calibrations, known, [errors[:, None] for errors in models.errors], names, level=level, kind="ellipsoid")
    inside, widths = [], []
    for pushes, (_, rest), name, calibration, model in zip(cells, splits, names, calibrations, models.hybrid, strict=True):
        test = pushes[rest]
        recording, errors = push_recording(test), torch.tensor(final_pose(model, test) - test.final_pose)[:, None]
        inside.append(regions.contains(calibration, recording, name, errors))
        widths.append(2 * regions.half_widths(calibration, recording, name)[:, 0])
    each, everything, width = [float(part.double().mean()) for part in inside], torch.cat(inside), torch.cat(widths)
    middle = width.median(0).values
    console.print(
        f"conformal {100 * level:.0f} % regions around the hybrid hold {float(everything.double().mean()):.3f} of {len(everything)} test pushes, x, y and yaw "
        f"together (by cell {min(each):.2f} to {max(each):.2f}); median full widths {1e3 * middle[0]:.1f} mm, {1e3 * middle[1]:.1f} mm, {middle[2]:.3f} rad"
    )
    return everything[:, 0], width


@dataclass(frozen=True)
class KnownTwins:
    """Of each cell a twin calibrated by itself, and twins that each left out a fold of its calibration pushes."""

    z: Tensor  # (K, 1 + FOLDS, n)
    fold: list[np.ndarray]  # of each cell's calibration pushes

    @classmethod
    def folds(cls, cells: Sequence[Pushes]) -> list[np.ndarray]:
        """Folds of the calibration pushes of each cell."""
        return [np.random.default_rng([7, k]).permutation(len(split(pushes)[0])) % FOLDS for k, pushes in enumerate(cells)]

    @classmethod
    def calibrated(cls, cells: Sequence[Pushes]) -> KnownTwins:
        """Every cell on its own, so that no shape tells anything about another."""
        folds, found = cls.folds(cells), []
        for pushes, fold in zip(cells, folds, strict=True):
            few = pushes[split(pushes)[0]]
            parts = [few, *(few[np.flatnonzero(fold != f)] for f in range(FOLDS))]
            each = [calibrate(push_twin(p), push_recording(p), PARAMETERS, held_out=None, evidence=[CONTACT], settings=SETTINGS, progress=False) for p in parts]
            found.append(torch.stack([calibration.z for calibration in each]))
        return cls(torch.stack(found), folds)

    def keep(self) -> None:
        """Write the parameters beside this file."""
        save_file({"z": self.z}, KEPT, metadata={"config": config_hash()})

    @classmethod
    def kept(cls, cells: Sequence[Pushes]) -> KnownTwins:
        """What the last full run calibrated.

        Raises:
            ValueError: if it was calibrated under other settings.
        """
        with safe_open(KEPT, framework="pt") as stream:
            if (stream.metadata() or {}).get("config") != config_hash():
                raise ValueError("The kept twins were calibrated under other settings; run python -m benchmarks.pushing once without --quick.")
            return cls(stream.get_tensor("z"), cls.folds(cells))

    def twin(self, cells: Sequence[Pushes], k: int, which: int = 0) -> PushTwin:
        """The twin of cell k from all its calibration pushes (0), or with fold `which - 1` left out."""
        twin = push_twin(cells[k])
        return twin.with_parameters(values_of(twin.space(PARAMETERS), self.z[k, which]))


def config_hash() -> str:
    """Changes when the settings of the known twins change."""
    return settings_hash(PARAMETERS, differing(SETTINGS), CONTACT.scale, FOLDS)


def unknown_shapes(cells: Sequence[Pushes], known: KnownTwins, left_out: Sequence[str], console: Console, *, every: int = 1) -> dict[str, np.ndarray]:
    """AUROC of the scores of every so many test pushes of a shape left out against those of the known ones, (len(left_out),) by score."""
    splits = [split(pushes) for pushes in cells]
    twins = [known.twin(cells, k) for k in range(len(cells))]
    train = [_train_features(cells, known, twins, k, splits[k][0]) for k in range(len(cells))]
    tests = [push_recording(pushes[rest[::every]]) for pushes, (_, rest) in zip(cells, splits, strict=True)]
    test = [explanation_features(twins, recording) for recording in tests]
    plain = [transition_features(push_recording(pushes[few])) for pushes, (few, _) in zip(cells, splits, strict=True)], [transition_features(r) for r in tests]
    shapes = [pushes.shape for pushes in cells]
    found: dict[str, list[float]] = {"one push": [], f"{TOGETHER} pushes": [], "nearest neighbours": []}
    for shape in left_out:
        inner = [k for k, name in enumerate(shapes) if name != shape]
        outer = [k for k, name in enumerate(shapes) if name == shape]
        own = torch.cat([torch.full((len(train[k]),), place) for place, k in enumerate(inner)])
        score = KnownCodes.fit(torch.cat([train[k][:, inner] for k in inner]), own, [shapes[k] for k in inner], folds=0)
        found["one push"].append(auroc(*(torch.cat([score.score(test[k][:, inner]) for k in part]) for part in (inner, outer))))
        sets = [torch.cat([score.score_set(_sets(test[k][:, inner])) for k in part]) for part in (inner, outer)]
        found[f"{TOGETHER} pushes"].append(auroc(*sets))
        near = NearestNeighbours.fit(torch.cat([plain[0][k] for k in inner]))
        found["nearest neighbours"].append(auroc(*(torch.cat([near.score(plain[1][k]) for k in part]) for part in (inner, outer))))
    table = Table("score of", *left_out, "mean", "least", title="AUROC of pushes of a shape left out; states, actions and outcomes are seen, the shape is not")
    for name, values in found.items():
        table.add_row(name, *(f"{value:.3f}" for value in values), f"{np.mean(values):.3f}", f"{min(values):.3f}")
    console.print(table)
    return {name: np.array(values) for name, values in found.items()}


def _train_features(cells: Sequence[Pushes], known: KnownTwins, twins: Sequence[PushTwin], k: int, few: np.ndarray) -> Tensor:
    """What each twin says of the calibration pushes of cell k, (n, K, F); its own twin is one that did not see the push."""
    pushes, fold = cells[k][few], known.fold[k]
    features = explanation_features(twins, push_recording(pushes))
    for f in range(FOLDS):
        at = np.flatnonzero(fold == f)
        features[at, k] = explanation_features([known.twin(cells, k, 1 + f)], push_recording(pushes[at]))[:, 0]
    return features


def _sets(features: Tensor) -> Tensor:
    """Features (S, TOGETHER, C, F) of pushes of one object, drawn without repetition."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    count = len(features) // TOGETHER
    return features[order[: count * TOGETHER]].unflatten(0, (count, TOGETHER))
