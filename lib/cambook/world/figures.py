"""The ten object classes: each a list of strokes, painted one over the other.

A stroke is (part, colour, distance): the name of the part it belongs to, which of the object's three colours paints
it, and its signed distance. Every class uses all three colours, so that colours tell nothing about the class.

Siblings share every stroke except those of one part. That part is the only evidence which tells them apart, and its
exact pixels are known: this is what the picture world can test and photographs cannot.
"""

from collections.abc import Callable

from .shapes import Array, box, ellipse, intersection, polygon, union

Stroke = tuple[str, int, Array]
MAIN, SECOND, DARK = 0, 1, 2


def _head(u: Array, v: Array) -> list[Stroke]:
    return [
        ("head", MAIN, ellipse(u, v, 0, .25, .62, .54)),
        ("head", SECOND, ellipse(u, v, 0, .48, .30, .22)),
        ("face", DARK, union(ellipse(u, v, -.25, .15, .09, .12), ellipse(u, v, .25, .15, .09, .12))),
        ("face", DARK, ellipse(u, v, 0, .40, .10, .07)),
    ]


def cat(u: Array, v: Array) -> list[Stroke]:
    outer = union(polygon(u, v, (-.62, -.62), (-.12, -.16), (-.58, .14)),
                  polygon(u, v, (.62, -.62), (.58, .14), (.12, -.16)))
    inner = union(polygon(u, v, (-.54, -.44), (-.27, -.14), (-.50, .02)),
                  polygon(u, v, (.54, -.44), (.50, .02), (.27, -.14)))
    return [("ears", MAIN, outer), ("ears", SECOND, inner), *_head(u, v)]


def rabbit(u: Array, v: Array) -> list[Stroke]:
    outer = union(ellipse(u, v, -.24, -.50, .15, .46), ellipse(u, v, .24, -.50, .15, .46))
    inner = union(ellipse(u, v, -.24, -.50, .07, .32), ellipse(u, v, .24, -.50, .07, .32))
    return [("ears", MAIN, outer), ("ears", SECOND, inner), *_head(u, v)]


def _fish_body(u: Array, v: Array) -> list[Stroke]:
    return [
        ("fin", SECOND, polygon(u, v, (.02, -.66), (.34, -.26), (-.30, -.26))),
        ("body", MAIN, ellipse(u, v, .20, 0, .66, .42)),
        ("body", SECOND, intersection(ellipse(u, v, .20, 0, .66, .42), box(u, v, .14, 0, .07, .42))),
        ("eye", DARK, ellipse(u, v, .56, -.10, .09, .09)),
    ]


def minnow(u: Array, v: Array) -> list[Stroke]:
    tail = union(polygon(u, v, (-.96, -.50), (-.56, -.36), (-.26, .12), (-.62, .06)),
                 polygon(u, v, (-.62, -.06), (-.26, -.12), (-.56, .36), (-.96, .50)))
    return [("tail", SECOND, tail), *_fish_body(u, v)]


def guppy(u: Array, v: Array) -> list[Stroke]:
    tail = union(ellipse(u, v, -.68, 0, .27, .44), box(u, v, -.40, 0, .10, .10))
    return [("tail", SECOND, tail), *_fish_body(u, v)]


def _walls(u: Array, v: Array) -> list[Stroke]:
    return [
        ("walls", MAIN, box(u, v, 0, .36, .56, .40)),
        ("door", DARK, box(u, v, -.22, .50, .13, .26)),
        ("window", DARK, box(u, v, .25, .34, .16, .14)),
        ("window", SECOND, union(box(u, v, .25, .34, .16, .025), box(u, v, .25, .34, .025, .14))),
    ]


def house(u: Array, v: Array) -> list[Stroke]:
    return [*_walls(u, v), ("roof", SECOND, polygon(u, v, (0, -.78), (.78, .02), (-.78, .02)))]


def dome(u: Array, v: Array) -> list[Stroke]:
    roof = intersection(ellipse(u, v, 0, .02, .62, .62), box(u, v, 0, -.39, .70, .41))
    return [*_walls(u, v), ("roof", SECOND, roof)]


def mushroom(u: Array, v: Array) -> list[Stroke]:
    cap = intersection(ellipse(u, v, 0, .06, .80, .74), box(u, v, 0, -.33, .85, .41))
    spots = union(ellipse(u, v, -.38, -.18, .14, .12), ellipse(u, v, .06, -.42, .15, .12),
                  ellipse(u, v, .42, -.12, .13, .12))
    return [
        ("stem", SECOND, union(box(u, v, 0, .44, .20, .36), ellipse(u, v, 0, .74, .28, .14))),
        ("stem", DARK, box(u, v, 0, .12, .36, .05)),
        ("cap", MAIN, cap),
        ("spots", SECOND, spots),
    ]


def rocket(u: Array, v: Array) -> list[Stroke]:
    hull = union(intersection(ellipse(u, v, -.42, -.05, .78, .92), ellipse(u, v, .42, -.05, .78, .92)),
                 box(u, v, 0, .36, .25, .20))
    fins = union(polygon(u, v, (-.22, .10), (-.22, .56), (-.62, .74), (-.58, .42)),
                 polygon(u, v, (.22, .10), (.58, .42), (.62, .74), (.22, .56)))
    return [
        ("flame", SECOND, polygon(u, v, (-.20, .54), (.20, .54), (0, .98))),
        ("fins", SECOND, fins),
        ("hull", MAIN, hull),
        ("window", DARK, ellipse(u, v, 0, -.16, .15, .15)),
        ("window", SECOND, ellipse(u, v, 0, -.16, .08, .08)),
    ]


def butterfly(u: Array, v: Array) -> list[Stroke]:
    wings = union(ellipse(u, v, -.44, -.28, .40, .36), ellipse(u, v, .44, -.28, .40, .36),
                  ellipse(u, v, -.34, .34, .30, .32), ellipse(u, v, .34, .34, .30, .32))
    marks = union(ellipse(u, v, -.48, -.30, .18, .16), ellipse(u, v, .48, -.30, .18, .16),
                  ellipse(u, v, -.36, .36, .12, .13), ellipse(u, v, .36, .36, .12, .13))
    feelers = union(polygon(u, v, (-.26, -.86), (-.18, -.86), (.02, -.46), (-.04, -.46)),
                    polygon(u, v, (.18, -.86), (.26, -.86), (.04, -.46), (-.02, -.46)))
    return [
        ("wings", MAIN, wings),
        ("marks", SECOND, marks),
        ("body", DARK, union(ellipse(u, v, 0, .04, .09, .58), feelers)),
    ]


def sailboat(u: Array, v: Array) -> list[Stroke]:
    return [
        ("mast", DARK, box(u, v, 0, -.16, .04, .66)),
        ("sails", SECOND, polygon(u, v, (.08, -.82), (.70, .30), (.08, .30))),
        ("sails", SECOND, polygon(u, v, (-.08, -.60), (-.08, .30), (-.56, .30))),
        ("hull", MAIN, polygon(u, v, (-.84, .40), (.84, .40), (.54, .80), (-.54, .80))),
        ("hull", DARK, intersection(polygon(u, v, (-.84, .40), (.84, .40), (.54, .80), (-.54, .80)),
                                    box(u, v, 0, .56, .9, .035))),
    ]


FIGURES: dict[str, Callable[[Array, Array], list[Stroke]]] = {
    figure.__name__: figure
    for figure in (cat, rabbit, minnow, guppy, house, dome, mushroom, rocket, butterfly, sailboat)
}
CLASSES: tuple[str, ...] = tuple(FIGURES)
SIBLINGS: dict[str, tuple[str, str]] = {"ears": ("cat", "rabbit"), "tail": ("minnow", "guppy"),
                                        "roof": ("house", "dome")}
