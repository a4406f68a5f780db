"""Deformable twins: `python -m benchmarks.deformable [--quick] [--only PART ...]`.

`rope`: real cables by `RodTwin` with five calibrated parameters. `residual`: with what was learned of its errors on top. `transfer`: a new cable from few runs.
`springs`: soft bodies and cloths of PyBullet and Newton as spring networks, from what three cameras see. `transfer_soft`: such bodies met again, in
another shape and grip. `speed`: substeps a second and memory of spring networks. `reconstruct`: shapes and ropes from posed images. `planning`: rope shapes
reached in PyBullet by MPPI on a calibrated rod. `--quick` calibrates on fewer runs and scenes, plans for fewer goals and trains no networks.
"""

from __future__ import annotations

from benchmarks.parts import Part, run_parts
from benchmarks.reconstruction import reconstruction_claims
from benchmarks.rope_motion import residual_claims, rope_claims, transfer_claims
from benchmarks.rope_planning import planning_claims
from benchmarks.soft_transfer import transfer_soft_claims
from benchmarks.spring_bodies import spring_claims
from benchmarks.spring_speed import spring_speed_claims

PARTS: dict[str, Part] = {
    "rope": rope_claims,
    "residual": residual_claims,
    "transfer": transfer_claims,
    "springs": spring_claims,
    "transfer_soft": transfer_soft_claims,
    "speed": spring_speed_claims,
    "reconstruct": reconstruction_claims,
    "planning": planning_claims,
}


if __name__ == "__main__":
    run_parts("deformable", __doc__, PARTS, quick="fewer runs and scenes, no networks")
