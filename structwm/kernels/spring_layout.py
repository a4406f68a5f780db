"""Columns of a spring network's parameter table. No Warp here."""

from __future__ import annotations

COLUMNS = ("mass", "drag", "gravity", "radius", "friction", "contact_stiffness", "contact_damping")
"""Names of the columns; `structwm.physics.spring_twin` says what they mean. Stiffness and damping of each spring are in tables of their own."""
