"""Signed distances of simple shapes, in the object's own coordinates (u to the right, v downwards).

A distance is negative inside, zero on the outline, positive outside. Only + − × ÷ √ and comparisons are used, which
IEEE 754 fixes to the last bit: that is why a scene has the same bytes on every machine (sines and exponentials would
not do).
"""

import numpy as np

Array = np.ndarray


def ellipse(u: Array, v: Array, cu: float, cv: float, a: float, b: float) -> Array:
    """Ellipse with centre (cu, cv) and half axes a, b. Exact on the outline, approximate away from it."""
    du, dv = (u - cu) / a, (v - cv) / b
    return (np.sqrt(du * du + dv * dv) - 1) * min(a, b)


def box(u: Array, v: Array, cu: float, cv: float, a: float, b: float) -> Array:
    """Rectangle with centre (cu, cv) and half sides a, b."""
    return np.maximum(np.abs(u - cu) - a, np.abs(v - cv) - b)


def polygon(u: Array, v: Array, *corners: tuple[float, float]) -> Array:
    """Convex polygon, corners in clockwise order as seen on the screen."""
    distance = None
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1]):
        length = ((u1 - u0) * (u1 - u0) + (v1 - v0) * (v1 - v0)) ** 0.5
        nu, nv = (v1 - v0) / length, (u0 - u1) / length          # points outwards
        side = (u - u0) * nu + (v - v0) * nv
        distance = side if distance is None else np.maximum(distance, side)
    return distance


def union(*distances: Array) -> Array:
    out = distances[0]
    for distance in distances[1:]:
        out = np.minimum(out, distance)
    return out


def intersection(*distances: Array) -> Array:
    out = distances[0]
    for distance in distances[1:]:
        out = np.maximum(out, distance)
    return out
