"""Codes of what stands still and is touched by rods and springs. No Warp here."""

from __future__ import annotations

from enum import IntEnum


class ObstacleKind(IntEnum):
    """Shape of an obstacle in its own frame; `size` holds three numbers."""

    PLANE = 0  # z = 0, free above
    SPHERE = 1  # radius
    CAPSULE = 2  # radius, half the length of its axis z
    BOX = 3  # half extents
