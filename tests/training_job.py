"""A small training job that tests start in processes of their own: `python -m tests.training_job FOLDER [STEPS]`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from structwm.training import Curriculum, FitSettings, RolloutLoss, fit

from .pendulums import network, swings

SETTINGS = FitSettings(
    steps=120,
    batch=32,
    optimizer="muon",
    evaluate_every=10,
    checkpoint_every=7,
    patience=50,
    curriculum=Curriculum(first=2, reach=0.6),
    accelerator="cpu",
    seed=3,
)


def main(folder: str | Path) -> dict[str, torch.Tensor]:
    """Train in a folder, or go on there; the weights at the end."""
    torch.set_num_threads(1)
    train = swings(96, 8, seed=0)
    fitted = fit(network(train), train, held_out=swings(32, 8, seed=1), loss=RolloutLoss(), settings=SETTINGS, run=folder, progress=False)
    return fitted.model.state_dict()


if __name__ == "__main__":
    torch.save(main(sys.argv[1]), Path(sys.argv[1]) / f"weights-{__import__('os').environ.get('RANK', '0')}.pt")
