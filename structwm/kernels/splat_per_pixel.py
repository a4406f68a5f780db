"""Alpha compositing of splats in plain Warp: one thread a pixel, which walks its tile's list. It shares no code with `splat_compositing` and is there to be
compared with.

Gradients are added with atomics, so that on CUDA their last digits differ from run to run; on CPU a launch is one thread.
"""

import warp as wp


@wp.func
def alpha_at(packed: wp.array2d(dtype=float), p: int, x: float, y: float):
    """Alpha before the clamp, and the offset (dx, dy) from the splat's centre."""
    dx = x - packed[p, 0]
    dy = y - packed[p, 1]
    e = packed[p, 5] - 0.5 * (packed[p, 2] * dx * dx + packed[p, 4] * dy * dy) - packed[p, 3] * dx * dy
    return wp.exp(e), dx, dy


@wp.func
def list_of(pixel: int, ends: wp.array(dtype=wp.int32), columns: int, rows: int, width: int, height: int):
    """First and last slot of a pixel's tile, and the pixel's column and row."""
    view = pixel / (width * height)
    x = pixel % width
    y = (pixel / width) % height
    tile = view * columns * rows + (y / 16) * columns + x / 16
    start = wp.int32(0)
    if tile > 0:
        start = ends[tile - 1]
    return start, ends[tile], x, y


@wp.kernel(enable_backward=False)
def forward(
    lists: wp.array(dtype=wp.int32),
    packed: wp.array2d(dtype=float),
    channels: wp.array2d(dtype=float),
    ends: wp.array(dtype=wp.int32),
    columns: int,
    rows: int,
    width: int,
    height: int,
    image: wp.array2d(dtype=float),
    through: wp.array(dtype=float),
    lasts: wp.array(dtype=wp.int32),
):
    """Channels (V * height * width, C), transmittance, and the slot of the last splat or -1."""
    pixel = wp.tid()
    start, stop, x, y = list_of(pixel, ends, columns, rows, width, height)
    t = wp.float32(1.0)
    last = wp.int32(-1)
    for i in range(channels.shape[1]):
        image[pixel, i] = 0.0
    for k in range(start, stop):
        p = lists[k]
        raw, _dx, _dy = alpha_at(packed, p, float(x) + 0.5, float(y) + 0.5)
        if raw >= 1.0 / 255.0:
            alpha = wp.min(raw, 0.99)
            after = t * (1.0 - alpha)
            if after <= 1.0e-4:
                break
            for i in range(channels.shape[1]):
                image[pixel, i] = image[pixel, i] + alpha * t * channels[p, i]
            t = after
            last = k
    through[pixel] = t
    lasts[pixel] = last


@wp.kernel(enable_backward=False)
def backward(
    lists: wp.array(dtype=wp.int32),
    packed: wp.array2d(dtype=float),
    channels: wp.array2d(dtype=float),
    ends: wp.array(dtype=wp.int32),
    columns: int,
    rows: int,
    width: int,
    height: int,
    through: wp.array(dtype=float),
    lasts: wp.array(dtype=wp.int32),
    grad_image: wp.array2d(dtype=float),
    grad_through: wp.array(dtype=float),
    gradients: wp.array2d(dtype=float),
):
    """Adds to the row of every pair: centre (2), conic (3), logarithm of opacity, channels."""
    pixel = wp.tid()
    start, _stop, x, y = list_of(pixel, ends, columns, rows, width, height)
    t = through[pixel]
    behind = t * grad_through[pixel]
    k = lasts[pixel]
    while k >= start:
        p = lists[k]
        raw, dx, dy = alpha_at(packed, p, float(x) + 0.5, float(y) + 0.5)
        if raw >= 1.0 / 255.0:
            alpha = wp.min(raw, 0.99)
            t = t / (1.0 - alpha)
            along = wp.float32(0.0)
            for i in range(channels.shape[1]):
                along += channels[p, i] * grad_image[pixel, i]
                wp.atomic_add(gradients, p, 6 + i, alpha * t * grad_image[pixel, i])
            if raw < 0.99:
                slope = alpha * (t * along - behind / (1.0 - alpha))
                wp.atomic_add(gradients, p, 0, slope * (packed[p, 2] * dx + packed[p, 3] * dy))
                wp.atomic_add(gradients, p, 1, slope * (packed[p, 3] * dx + packed[p, 4] * dy))
                wp.atomic_add(gradients, p, 2, -0.5 * slope * dx * dx)
                wp.atomic_add(gradients, p, 3, -slope * dx * dy)
                wp.atomic_add(gradients, p, 4, -0.5 * slope * dy * dy)
                wp.atomic_add(gradients, p, 5, slope)
            behind += alpha * t * along
        k -= 1
