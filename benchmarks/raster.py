"""Splats to pixels, and nearest neighbours: `python -m benchmarks.raster [--quick] [--pictures FOLDER]`.

Forward and backward of the rasterizer on two random scenes and a real one, beside a tiled rasterizer in plain torch and the kept kernel of one thread a
pixel, and beside gsplat where there is a GPU; the greatest difference from float64; a real rope in its four photos, and its pose found by gradients; nearest
neighbours beside SciPy and open3d.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.claims import publish
from benchmarks.raster_neighbors import neighbor_claims
from benchmarks.raster_rope import rope_claims
from benchmarks.raster_speed import accuracy_claims, gsplat_claims, speed_claims


def main() -> None:
    """Measure, print tables, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer scenes and repetitions; under 60 seconds")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where to save pictures of the rope")
    options = parser.parse_args()
    console = Console(width=150)
    claims = speed_claims(options.quick, console)
    claims |= accuracy_claims(options.quick, console)
    claims |= rope_claims(options.quick, console, options.pictures)
    claims |= neighbor_claims(options.quick)
    claims |= gsplat_claims(console)
    publish("raster", claims)


if __name__ == "__main__":
    main()
