"""Columns of a rod's parameter table. No Warp here."""

from __future__ import annotations

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
    "curvature_scale",
)
"""Names of the columns; `structwm.physics.rod_twin` says what they mean. Behind them, of rods that twist: two numbers of natural
curvature for each inner vertex."""
