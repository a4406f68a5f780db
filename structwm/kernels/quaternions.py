"""Rotations inside of kernels."""

from typing import Any

import warp as wp


@wp.func
def rotation_matrix(q: Any) -> Any:
    """Rotation matrix of a unit quaternion wxyz, float32 or float64."""
    one = type(q[0])(1.0)
    two = type(q[0])(2.0)
    w = q[0]
    x = q[1]
    y = q[2]
    z = q[3]
    return wp.matrix_from_rows(
        wp.vector(one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        wp.vector(two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x)),
        wp.vector(two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)),
    )


@wp.func
def longest(q: Any) -> Any:
    """The greatest absolute value of a quaternion's numbers."""
    return wp.max(wp.max(wp.abs(q[0]), wp.abs(q[1])), wp.max(wp.abs(q[2]), wp.abs(q[3])))


@wp.func
def measurable(q: Any) -> Any:
    """A quaternion of any length as one whose square is a number, and what it was divided by; zero stays zero."""
    size = type(q[0])(1.0)
    square = wp.dot(q, q)
    if not (square > type(q[0])(1.0e-30) and square < type(q[0])(1.0e30)):
        size = longest(q)
        if size > type(q[0])(0.0):
            q = q / size
        else:
            size = type(q[0])(1.0)
    return q, size
