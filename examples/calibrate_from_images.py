"""Find the friction of a block from masks of two cameras, and look at what the calibrated twin predicts beside what they saw.

The block is pushed in PyBullet, at a friction that the twin is not told; the cameras give masks and nothing else. With your own, give `sliding` masks
(N, T, V, height, width), a `Camera` of V views and about where the body stood. On one CPU core it takes about a minute.

    python examples/calibrate_from_images.py --friction 0.35
    python examples/calibrate_from_images.py --push-t  # images of a pushed T, which others rendered: structwm fetch pinwm_push_t
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from structwm.data import load_push_t
from structwm.demos.image_calibration import PARAMETERS, PUSH, SETTINGS, block_world, drawn_masks, film_block, fit_push_t, overlay, predicted, sliding
from structwm.physics import Calibration, calibrate


@dataclass(frozen=True)
class Options:
    """What to run."""

    friction: float = 0.35  # of the block in PyBullet
    push_t: bool = False  # the T instead of the block
    out: Path = Path("runs/images")


def main(options: Options) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    (push_t if options.push_t else block)(options)


def block(options: Options) -> None:
    images = film_block(options.friction)
    slide = sliding(block_world(images.half, pusher=False), images.masks, images.camera, images.start, begin=PUSH)
    calibration = calibrate(slide.twin, slide.recording, PARAMETERS, held_out=None, settings=SETTINGS, progress=False)
    say(calibration)
    print(f"friction in PyBullet: {options.friction}")
    steps = torch.tensor([0, 2, 4, 8])  # images behind the cut
    drawn = drawn_masks(calibration.twin, predicted(calibration, slide.recording)[0, steps, 0], images.camera)
    show(images.masks[0, PUSH + steps], drawn, options.out / "block.png")


def push_t(options: Options) -> None:
    images = load_push_t(size=200)
    fit = fit_push_t(images, fitted=12)
    say(fit.calibration)
    for name, error in (("predicted", fit.errors), ("its last seen pose, held still", fit.still)):
        print(f"images 12 to 31, {name}: {1e3 * error[:, 0].mean():.1f} mm and {torch.rad2deg(error[:, 1]).mean():.1f} degrees off on average")
    frames = torch.tensor([fit.slide.begin, 8, 11, 16, 22, 31])
    drawn = drawn_masks(fit.calibration.twin, fit.poses[frames - fit.slide.begin], images.camera[:1])
    show(images.masks[frames][:, None], drawn, options.out / "push_t.png")


def say(calibration: Calibration) -> None:
    for name, (low, high) in calibration.intervals(0.9).items():
        print(f"{name:16s} {calibration.values[name]:.5f}   90 % interval {low:.5f} to {high:.5f}")


def show(seen: Tensor, drawn: Tensor, file: Path) -> None:
    """Images (T, V, h, w) side by side, a row a camera: grey where both are, red what was seen alone, blue what is predicted alone."""
    rows = [torch.cat(list(view), 1) for view in overlay(seen, drawn).unbind(1)]
    Image.fromarray((255 * torch.cat(rows)).byte().numpy()).save(file)
    print(file)


if __name__ == "__main__":
    main(tyro.cli(Options))
