"""Centre lines of ropes of known length, whole and spoilt, and of the real rope beside its length traced in its photos."""

import pytest
import torch

from benchmarks.reconstruction_tubes import rope_curve, tube_points
from structwm.perception import centre_line

CASES = [("on a table", "noise"), ("in space", "whole"), ("in space", "strangers"), ("on a table", "hidden parts"), ("U", "noise"), ("S, near", "filled")]


@pytest.mark.parametrize(("kind", "spoilt"), CASES)
def test_length_and_place(kind, spoilt):
    line = centre_line(tube_points(kind, spoilt, length=0.6, radius=0.008, seed=1), 40)
    assert line.length == pytest.approx(0.6, rel=0.03)
    truth = torch.from_numpy(rope_curve(kind, 0.6, 0.008, 1)).float()
    off = torch.cdist(line.vertices, truth).amin(-1)
    assert float(off.mean()) < 0.002 and float(off.max()) < 0.008
    assert 0.005 < line.radius < 0.0105
    steps = (line.vertices[1:] - line.vertices[:-1]).norm(dim=-1)
    assert float(line.rest_lengths.sum()) == pytest.approx(line.length)
    assert float(steps.max() / steps.min()) < 1.3


def test_half_a_rope_is_still_a_rope():
    """Only the side that faces up is seen, the length stays."""
    assert centre_line(tube_points("on a table", "upper side", length=0.6, radius=0.008, seed=0)).length == pytest.approx(0.6, rel=0.03)


def test_refusals():
    with pytest.raises(ValueError, match="at least 30 points"):
        centre_line(torch.rand(10, 3))
    with pytest.raises(ValueError, match="finite"):
        centre_line(torch.full((50, 3), torch.nan))
    with pytest.raises(ValueError, match="elongated"):
        centre_line(torch.nn.functional.normalize(torch.randn(800, 3, generator=torch.Generator().manual_seed(0)), dim=-1))


@pytest.mark.slow
def test_the_real_rope(data_dir):
    from benchmarks.reconstruction_rope import trace_rope
    from structwm.data import load_rope_photos

    photos = load_rope_photos(data_dir("gs_dynamics_rope"))
    truth = trace_rope(photos.camera, photos.masks)
    assert truth.residual < 1.0  # [px]
    assert centre_line(photos.splats.means, 40).length == pytest.approx(truth.length, rel=0.03)
