"""The report: self-contained markup, escaped text, figures that are drawn, animations that say what the arrays say."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from structwm.report.animation import ClosedLoop, animate, gallery, legend, place, window
from structwm.report.html import Figure, Markup, Number, Page, Section, Table, Text, Tiles

BOX = np.array([[-0.05, -0.03], [0.05, -0.03], [0.05, 0.03], [-0.05, 0.03]])


def loop(steps: int = 12, *, reached: bool = True) -> ClosedLoop:
    way = np.linspace(0, 1, steps + 1)[:, None]
    goal = np.array([0.06, 0.02, 0.4])
    return ClosedLoop(BOX, 0.01, way * goal, way * goal[:2] - [0.08, 0.0], goal, 0.1, reached, "a <run>")


def test_page_is_one_file_and_escapes_text():
    table = Table(["a", "b"], [["x < y", Number(1.2345, 2)], ["z", Markup("<b>own</b>")]], strong=[1], caption="R & D")
    page = Page("T & U", "lead <i>", [Tiles([("1 mm", "tile")])], [Section("S", [Text("one > two"), table, Figure(b"<svg/>", "caption", 'alt "q"')])]).html()
    assert page.startswith("<!DOCTYPE html>") and page.count("<section>") == 1
    for shown in ("T &amp; U", "lead &lt;i&gt;", "x &lt; y", "1.23", "<b>own</b>", "R &amp; D", "one &gt; two", "alt &quot;q&quot;"):
        assert shown in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert base64.b64encode(b"<svg/>").decode() in page


def test_table_refuses_a_short_row():
    with pytest.raises(ValueError, match="row 1 has 1 cells where the header has 2"):
        Table(["a", "b"], [["x", "y"], ["z"]])


def test_closed_loop_refuses_other_shapes_and_measures_wrapped_errors():
    with pytest.raises(ValueError, match=r"poses \(T\+1, 3\)"):
        ClosedLoop(BOX, 0.01, np.zeros((5, 3)), np.zeros((4, 2)), np.zeros(3), 0.1, True)
    run = ClosedLoop(BOX, 0.01, np.array([[0.0, 0.0, np.pi - 0.1]]), np.zeros((1, 2)), np.array([0.03, 0.04, -np.pi + 0.1]), 0.1, False)
    position, yaw = run.errors()
    assert position == pytest.approx([0.05]) and yaw == pytest.approx([0.2])


def test_animation_follows_the_poses():
    run = loop()
    tree = ElementTree.fromstring(animate(run, window([run])[0]))
    motions = {(node.get("type"), len(node.get("values", "").split(";"))) for node in tree.iter("animateTransform")}
    frames = {count for _, count in motions}
    assert {kind for kind, _ in motions} == {"translate", "rotate"} and len(frames) == 1 and frames.pop() > len(run.poses)
    turn = next(node for node in tree.iter("animateTransform") if node.get("type") == "rotate")
    values = [float(value) for value in turn.get("values", "").split(";")]
    assert values[len(run.poses) - 1] == values[-1] == pytest.approx(np.degrees(0.4), abs=0.06)
    assert tree.get("aria-label") == "a <run>"


def test_windows_have_one_side_and_hold_everything():
    runs = [loop(), loop(30)]
    views = window(runs)
    assert views[0][2] == views[1][2]
    for run, (x, y, side) in zip(runs, views, strict=True):
        points = np.concatenate([place(BOX, run.poses[0]), place(BOX, run.goal), run.pushers])
        assert (np.abs(points - [x, y]) < side / 2).all()


def test_gallery_and_legend_are_well_formed():
    ElementTree.fromstring(gallery([loop(), loop(reached=False)]))
    ElementTree.fromstring(legend([("#fff", "a & b")]))


def test_pushing_figures():
    pytest.importorskip("matplotlib")
    from structwm.report.pushing import PredictedPushes, draw_convergence, draw_errors, draw_pushes, draw_strip, interval_bar

    rng = np.random.default_rng(0)
    poses = rng.normal(scale=0.02, size=(20, 3))
    guesses = {"hold still": np.zeros((20, 3)), "ours": poses + rng.normal(scale=0.001, size=(20, 3))}
    cell = PredictedPushes("cell", BOX, 0.005, np.zeros((20, 3)), poses, rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), guesses)
    position, yaw = cell.errors("hold still")
    assert position == pytest.approx(np.linalg.norm(poses[:, :2], axis=1)) and yaw == pytest.approx(np.abs(poses[:, 2]))
    shifted = PredictedPushes("cell", BOX, 0.005, poses, poses, poses[:, :2], poses[:, :2], {"off": poses + np.array([0.003, 0.004, 0.0])})
    assert shifted.displacement("off") == pytest.approx(np.full(20, 0.005))
    images = [
        draw_errors([cell], ["hold still", "ours"], ours="ours"),
        draw_pushes([cell], ours="ours", beside="hold still"),
        draw_strip([loop()], frames=3),
        draw_convergence({"one": [loop()], "two": [loop(20)]}, position_tolerance=0.01, yaw_tolerance=0.1),
    ]
    for image in images:
        assert ElementTree.fromstring(image).tag.endswith("svg")
    assert images[0] == draw_errors([cell], ["hold still", "ours"], ours="ours")  # equal drawings are equal files
    bar = ElementTree.fromstring(interval_bar(0.4, (0.3, 0.5), 0.0).markup)
    assert float(next(bar.iter("circle")).get("cx", "")) > float(next(bar.iter("rect")).get("x", ""))
