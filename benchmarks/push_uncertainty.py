"""How sure models of real pushes are: conformal regions, and scores of pushes of a shape that no model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from structwm.data import Pushes, split
from structwm.physics import Settings, calibrate, push_recording, push_twin
from structwm.physics.posterior import values_of
from structwm.physics.push_novelty import explanation_features, transition_features
from structwm.physics.pushing import PushTwin
from structwm.physics.recorded_pushes import CONTACT, PARAMETERS, final_pose
from structwm.training.conformal import ConformalRegions, CoverageRate
from structwm.training.novelty import KnownCodes, NearestNeighbours, auroc

from .push_models import Model

KEPT = Path(__file__).parent / "artefacts" / "push_twins.safetensors"
FOLDS = 5
TOGETHER = 5  # pushes of one object that are scored as one


def hybrid_regions(
    errors: Tensor, cell: Tensor, cells: Sequence[Pushes], tests: Sequence[Pushes], models: Sequence[Model], level: float, console: Console
) -> tuple[CoverageRate, np.ndarray]:
    """Coverage of joint regions of x, y and yaw around the hybrid's predictions, and whether each test push lies inside.

    Args:
        errors: (N, 3) out of fold.
        cell: (N,) of which cell each is.
    """
    names = [pushes.name for pushes in cells]
    regions = ConformalRegions.fit(errors[:, None], level=level, kind="ellipsoid", periodic=[2], groups=[names[k] for k in cell.tolist()])
    left = [torch.tensor(test.final_pose - final_pose(model, test)) for test, model in zip(tests, models, strict=True)]
    labels = [name for name, test in zip(names, tests, strict=True) for _ in range(len(test))]
    everything = torch.cat(left)[:, None]
    inside = regions.contains(everything, groups=labels)[:, 0]
    each = [float(inside[[label == name for label in labels]].double().mean()) for name in names]
    widths = 2 * regions.half_widths(groups=labels)[:, 0].median(0).values
    coverage = regions.coverage(everything, groups=labels)
    console.print(
        f"conformal {100 * level:.0f} % regions around the hybrid hold {float(coverage.rate[0]):.3f} of {len(labels)} test pushes, x, y and yaw together "
        f"(by cell {min(each):.2f} to {max(each):.2f}); median full widths {1e3 * widths[0]:.1f} mm, {1e3 * widths[1]:.1f} mm, {widths[2]:.3f} rad"
    )
    return coverage, inside.double().numpy()


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
            settings = Settings(evaluations=0, iterations=12)
            each = [calibrate(push_twin(p), push_recording(p), PARAMETERS, held_out=None, evidence=[CONTACT], settings=settings, progress=False) for p in parts]
            found.append(torch.stack([calibration.z for calibration in each]))
        return cls(torch.stack(found), folds)

    def keep(self) -> None:
        """Write the parameters beside this file."""
        save_file({"z": self.z}, KEPT)

    @classmethod
    def kept(cls, cells: Sequence[Pushes]) -> KnownTwins:
        """What the last full run calibrated."""
        return cls(load_file(KEPT)["z"], cls.folds(cells))

    def twin(self, cells: Sequence[Pushes], k: int, which: int = 0) -> PushTwin:
        """The twin of cell k from all its calibration pushes (0), or with fold `which - 1` left out."""
        twin = push_twin(cells[k])
        return twin.with_parameters(values_of(twin.space(PARAMETERS), self.z[k, which]))


def unknown_shapes(cells: Sequence[Pushes], known: KnownTwins, left_out: Sequence[str], console: Console) -> dict[str, np.ndarray]:
    """AUROC of the scores of pushes of a shape left out against pushes of the known ones, (len(left_out),) by score."""
    splits = [split(pushes) for pushes in cells]
    twins = [known.twin(cells, k) for k in range(len(cells))]
    train = [_train_features(cells, known, twins, k, splits[k][0]) for k in range(len(cells))]
    tests = [push_recording(pushes[rest]) for pushes, (_, rest) in zip(cells, splits, strict=True)]
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
