"""`structwm render FILE`: the picture that a user gets, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from structwm.cli import main
from structwm.data import write_splats
from structwm.render import splats_from_points, take_splats


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grey points in a ball, a red one high on z and a blue one high on y."""
    points = torch.nn.functional.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), dim=-1) * 0.3
    points = torch.cat((points, torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])))
    colors = torch.cat((torch.full((60, 3), 0.3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])))
    write_splats(splats_from_points(points, colors, scale=0.08, opacity=0.95), tmp_path / "scene.ply")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "scene.ply"


def place_of(picture: np.ndarray, channel: int) -> tuple[float, float]:
    """Mean row and column, relative to the middle, of what is clearly of one colour."""
    others = np.delete(picture.astype(float), channel, axis=-1).max(-1)
    rows, columns = np.nonzero(picture[..., channel] > others + 100)
    return float(rows.mean() - picture.shape[0] / 2), float(columns.mean() - picture.shape[1] / 2)


@pytest.mark.parametrize(("up", "channel", "sign"), [("z", 0, -1), ("-z", 0, 1), ("y", 2, -1), ("-y", 2, 1)])
def test_what_is_up_is_up(scene: Path, up: str, channel: int, sign: int) -> None:
    main(["render", str(scene), "--width", "120", "--height", "90", "--up", up, "--distance", "3"])
    picture = np.array(Image.open("scene.png"))
    assert picture.shape == (90, 120, 3) and (picture[0, 0] == 255).all()
    row, column = place_of(picture, channel)
    assert sign * row > 5 and abs(column) < 4


def test_a_turn_is_a_moving_picture(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["render", str(scene), "--width", "60", "--height", "50", "--frames", "4", "--background", "0", "0", "0"])
    with Image.open("scene.gif") as picture:
        assert picture.n_frames == 4 and picture.size == (60, 50)
    assert "62 splats, 4 x 60 x 50 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0"], "at least one pixel"),
        (["--elevation", "90"], "elevation"),
        (["--output", "picture.xyz"], "expected a picture's name"),
        (["--backend", "gsplat"], "gsplat"),
        (["--frames", "3", "--output", "turn.jpg"], "picture.gif"),
        (["--output", "nowhere/picture.png"], "a folder that exists"),
        (["--device", "abacus"], "a device that is here"),
        (["--background", "255", "255", "255"], "background"),
        (["--azimuth", "inf"], "angles"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(scene: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["render", str(scene), *arguments])
    assert stopped.value.code in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_files_that_hold_nothing_are_refused(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from structwm.data import read_splats

    empty = scene.with_name("empty.ply")
    write_splats(take_splats(read_splats(scene), torch.arange(0)), empty)
    cut = scene.with_name("cut.ply")
    cut.write_bytes(scene.read_bytes()[:-7])
    for file in (empty, cut, scene.with_name("missing.ply")):
        with pytest.raises(SystemExit):
            main(["render", str(file)])
        assert file.name in capsys.readouterr().err
