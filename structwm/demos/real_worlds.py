"""What the real recordings are of, as rigid worlds: the tossed cube, and the double pendulum under the parameters that its authors identified."""

from __future__ import annotations

import math
from collections.abc import Mapping

from structwm.data.cube_tosses import INERTIA, MASS, SIDE
from structwm.physics import Actuator, Body, BoxShape, Geometry, Joint, RigidWorld

TORQUE = 20.0  # of the pendulum's motors, more than any recorded one [N m]
RED = (0.75, 0.2, 0.15)


def tossed_cube(rounding: float = 0.0) -> RigidWorld:
    """The cube of `contactnets_cube` as its makers describe it, on a plane; its edges rounded by so many metres within its width."""
    return RigidWorld((Body("cube", MASS, INERTIA, (Geometry(BoxShape((SIDE / 2 - rounding,) * 3), rounding=rounding, color=RED),)),))


def double_pendulum(identified: Mapping[str, float]) -> RigidWorld:
    """The pendulum of `double_pendulum`: links along -z where both angles are 0, hinges about -y, a motor in each.

    Args:
        identified: by `structwm.data.double_pendulum.PARAMETERS`' names. Inertias there are about the joints; of a second link whose inertia is less than that
            of a point mass, which no body has, a hundredth of the point mass's is taken about its centre. Friction there is an arc tangent of speed, here it
            is Coulomb's; the coupling of rotors by gears (gr Ir) is left out.
    """
    p = identified
    first, second = (max(p[f"I{k}"] - p[f"m{k}"] * p[f"r{k}"] ** 2, 0.01 * p[f"m{k}"] * p[f"r{k}"] ** 2) for k in (1, 2))
    armature = p["Ir"] * p["gr"] ** 2

    def hinge(k: int, at: float) -> Joint:
        return Joint("hinge", (0, -1, 0), position=(0, 0, at), damping=p[f"b{k}"], friction=p[f"cf{k}"] * math.pi / 2, armature=armature)

    links = (
        Body("upper", p["m1"], (first, first, first / 4), com=(0, 0, -p["r1"]), joint=hinge(1, 0.0)),
        Body("lower", p["m2"], (second, second, second / 4), com=(0, 0, -p["r2"]), parent="upper", joint=hinge(2, -p["l1"])),
    )
    motors = tuple(Actuator(link.name, "effort", -TORQUE, TORQUE) for link in links)
    return RigidWorld(links, (), motors, gravity=p["g"])
