"""Columns of a rod's parameter table, and codes of what it may touch. No Warp here."""

from __future__ import annotations

from enum import IntEnum

COLUMNS = (
    "line_density",
    "vertex_mass",
    "bend_stiffness",
    "bend_damping",
    "twist_stiffness",
    "twist_damping",
    "stretch_stiffness",
    "stretch_damping",
    "drag",
    "quadratic_drag",
    "gravity",
    "length",
    "radius",
    "friction",
    "contact_stiffness",
    "contact_damping",
)
"""Names of the columns; `structwm.physics.rod_twin` says what they mean."""


class ObstacleKind(IntEnum):
    """Shape of an obstacle in its own frame; `size` holds three numbers."""

    PLANE = 0  # z = 0, free above
    SPHERE = 1  # radius
    CAPSULE = 2  # radius, half the length of its axis z
    BOX = 3  # half extents
