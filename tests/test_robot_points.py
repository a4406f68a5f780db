"""Points of a robot's surface move as its links do in another engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from structwm.geometry.kinematics import KinematicTree
from structwm.physics import Body, BoxShape, Geometry, Joint, RigidWorld, read_world, robot_points
from structwm.points import ArmSurface


@pytest.fixture(scope="module")
def kuka():
    data = pytest.importorskip("pybullet_data")
    return Path(data.getDataPath()) / "kuka_iiwa" / "model.urdf"


def test_points_go_where_pybullet_has_the_links(kuka):
    pybullet = pytest.importorskip("pybullet")
    found = robot_points(read_world(kuka), 60)
    surface = ArmSurface(found.tree, found.points, found.owners)
    assert surface.action.size == 7 and len(found.owners.unique()) >= 6
    client = pybullet.connect(pybullet.DIRECT)
    try:
        robot = pybullet.loadURDF(str(kuka), useFixedBase=True, physicsClientId=client)
        angles = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (3, 7))).float()
        moved = surface.at(angles)
        links = {pybullet.getJointInfo(robot, k, client)[12].decode(): k for k in range(pybullet.getNumJoints(robot, client))}
        for row, points in zip(angles.tolist(), moved, strict=True):
            for name, angle in zip(found.tree.joint_names, row, strict=True):
                pybullet.resetJointState(robot, links[name], angle, physicsClientId=client)
            for point, owner, local in zip(points, found.owners.tolist(), found.points, strict=True):
                name = found.tree.links[owner]
                if name not in links:
                    continue
                place, turn = pybullet.getLinkState(robot, links[name], computeForwardKinematics=True, physicsClientId=client)[4:6]
                expected = pybullet.multiplyTransforms(place, turn, local.tolist(), (0, 0, 0, 1))[0]
                assert np.abs(point.numpy() - expected).max() < 2e-5
    finally:
        pybullet.disconnect(client)


def test_points_are_spread_over_the_bodies_that_are_named():
    box = Geometry(BoxShape((0.1, 0.02, 0.02)), position=(0.1, 0.0, 0.0))
    arm = Body("arm", 1.0, 0.01, (box,), joint=Joint("hinge", low=-1.0, high=1.0))
    slide = Joint("slide", axis=(1.0, 0.0, 0.0), position=(0.2, 0.0, 0.0))
    hand = Body("hand", 1.0, 0.01, (Geometry(BoxShape((0.02, 0.05, 0.02))),), joint=slide, parent="arm")
    world = RigidWorld((arm, hand))
    found = robot_points(world, 40)
    assert found.tree.links == ("arm", "hand") and found.tree.high[0] == 1.0 and found.tree.kinds == ("hinge", "slide")
    on_arm = found.points[found.owners == 0]
    assert float(((on_arm - torch.tensor([0.1, 0.0, 0.0])).abs() / torch.tensor([0.1, 0.02, 0.02])).amax(-1).min()) > 0.99  # on the surface
    assert 10 < len(on_arm) < 30
    only = robot_points(world, 10, bodies=["hand"])
    assert bool((only.owners == 1).all())
    poses = found.tree.poses(torch.tensor([[0.0, 0.05]]))
    assert torch.allclose(poses[0, 1, :3], torch.tensor([0.25, 0.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda world: robot_points(world, 10, bodies=["foot"]), "no body 'foot'; this world has arm"),
        (lambda world: robot_points(world, 10**6), "take a smaller spacing"),
        (lambda world: robot_points(RigidWorld((Body("box", 1.0, 0.1, (Geometry(BoxShape((0.1, 0.1, 0.1))),)),)), 5), "'box' is free"),
        (lambda world: KinematicTree(("a",), (0,), ("fixed",), torch.zeros(1, 3), torch.ones(1, 4), torch.zeros(1, 3)), "parents before their children"),
        (lambda world: KinematicTree(("a",), (-1,), ("hinge",), torch.zeros(1, 3), torch.ones(1, 4), torch.zeros(1, 3)), "axes of some length"),
        (lambda world: KinematicTree(("a",), (-1,), ("ball",), torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3)), "fixed, hinge or slide"),
        (lambda world: ArmSurface(robot_points(world, 5).tree, torch.zeros(2, 3), torch.tensor([0, 4])), "links from 0 to 0"),
        (lambda world: robot_points(world, 5).tree.poses(torch.zeros(2)), "has 1 joints that move, arm, got 2"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    arm = Body("arm", 1.0, 0.01, (Geometry(BoxShape((0.1, 0.02, 0.02))),), joint=Joint("hinge"))
    with pytest.raises(ValueError, match=words):
        wrong(RigidWorld((arm,)))
