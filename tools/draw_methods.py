"""Draw the README's picture: one scene, and all finished methods on both embedded networks.

.venv/bin/python tools/draw_methods.py          # writes assets/methods.png
"""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cambook import methods, models, show, world

PICTURE = Path(__file__).parent.parent / "assets" / "methods.png"
SCENE, TARGET = 12, "rabbit"  # a rabbit beside its sibling, the cat
TITLES = {
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "layer_cam": "Layer-CAM",
    "score_cam": "Score-CAM",
    "gig_cam": "GIG-CAM",
    "gig_cam_f": "GIG-CAM(F)",
    "increment_cam": "Increment-CAM",
    "poly_cam": "PCAM±",
    "union_cam": "UnionCAM",
    "fusion_cam": "Fusion-CAM",
}
COLUMNS = 6


def panels() -> dict[str, dict[str, object]]:
    """Network -> title -> picture: the scene, then each method's map over it; CAM only where it exists."""
    drawn = world.scene(SCENE, (TARGET, "cat"))
    rows = {}
    for name in ("tiny_vgg", "tiny_resnet"):
        net = models.load(name)
        images, target = net.preprocessing(drawn.image), world.CLASSES.index(TARGET)
        rows[name] = {f"the scene, for {name}": drawn.image}
        for method, title in TITLES.items():
            try:
                rows[name][title] = show.overlay(
                    drawn.image, getattr(methods, method)(net, images, target).map[0]
                )
            except ValueError:  # CAM needs a network that ends in an average
                rows[name][title] = None
    return rows


def main() -> None:
    pictures = [titled for row in panels().values() for titled in row.items()]
    fig = Figure(figsize=(12, 2.25 * len(pictures) / COLUMNS), dpi=96, facecolor="white")
    for axis, (title, picture) in zip(fig.subplots(len(pictures) // COLUMNS, COLUMNS).flat, pictures, strict=True):
        if picture is None:
            axis.text(
                0.5, 0.5, "does not exist\nfor this head", ha="center", va="center", transform=axis.transAxes
            )
            axis.set_frame_on(False)
        else:
            axis.imshow(picture, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10)
    fig.suptitle(
        f"“Where is the {TARGET}?” Bright means: here. The line runs at half the maximum.", x=0.01, ha="left"
    )
    fig.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    FigureCanvasAgg(fig).print_png(str(PICTURE))
    print(PICTURE.name, f"{PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
