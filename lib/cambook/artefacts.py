"""Results on disk as Poly-CAM's authors publish theirs, so that others can measure maps without making them.

For each network and method one .npz with the maps, and one .csv with the metrics; both are keyed by the
picture's file name. Whoever has another method reads the same pictures by the same names.
"""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .files import whole
from .show.paint import array


def path(folder: str | Path, network: str, method: str, kind: str) -> Path:
    """folder/NETWORK_METHOD.npz, or .csv: kind is "npz" or "csv"."""
    for name in (network, method):
        if not name or set(name) & set('/\\:*?"<>|'):
            raise ValueError(f"Network and method are part of a file's name, which {name!r} cannot be.")
    return Path(folder) / f"{network}_{method}.{kind}"


def save_maps(folder: str | Path, network: str, method: str, maps: Mapping[str, np.ndarray]) -> Path:
    """Write maps (H, W), tensors or arrays of any sizes, as float32 under the file names of their pictures.

    For a batch, maps is dict(zip(names, explanation.map)). The folder is made where it is not there, and an
    older file is replaced as a whole. Returns the file's path. Raises ValueError for an empty mapping, a key
    that is no file name, and a map that is not (H, W) or not finite.
    """
    _check_names(maps)
    arrays = {name: array(one).astype(np.float32) for name, one in maps.items()}
    for name, one in arrays.items():
        if one.ndim != 2 or not np.isfinite(one).all():
            raise ValueError(f"The map of {name} must be (H, W) and finite, but has shape {one.shape}.")
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return _write(path(folder, network, method, "npz"), file.getvalue())


def load_maps(folder: str | Path, network: str, method: str) -> dict[str, np.ndarray]:
    """The maps by the file names of their pictures, float32. FileNotFoundError where there are none."""
    with np.load(path(folder, network, method, "npz"), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def save_metrics(
    folder: str | Path, network: str, method: str, metrics: Mapping[str, Mapping[str, float]]
) -> Path:
    """Write picture's file name → metric's name → number as a table with a line for each picture.

    Numbers are written so that they come back exactly; NaN, of a picture that a metric excludes, is an empty
    field. Returns the file's path. Raises ValueError for an empty mapping, a key that is no file name, and
    pictures that differ in their metrics.
    """
    _check_names(metrics)
    columns = list(next(iter(metrics.values())))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", *columns])
    for name, values in metrics.items():
        if list(values) != columns:
            raise ValueError(f"{name} has the metrics {list(values)}, but the first picture has {columns}.")
        numbers = [float(values[column]) for column in columns]
        table.writerow([name, *("" if math.isnan(number) else repr(number) for number in numbers)])
    return _write(path(folder, network, method, "csv"), text.getvalue().encode())


def load_metrics(folder: str | Path, network: str, method: str) -> dict[str, dict[str, float]]:
    """Picture's file name → metric's name → number, NaN for an empty field."""
    with path(folder, network, method, "csv").open(encoding="utf-8", newline="") as file:
        return {
            row.pop("image"): {column: float(value or "nan") for column, value in row.items()}
            for row in csv.DictReader(file)
        }


def _check_names(names: Mapping[str, object]) -> None:
    if not names:
        raise ValueError("There is nothing to write: give at least one picture.")
    for name in names:
        # With its extension: numpy takes some bare words for options of its own.
        if Path(name).name != name or not Path(name).suffix:
            raise ValueError(f"Results are keyed by file names of pictures, such as 'dog.jpg', not {name!r}.")


def _write(file: Path, content: bytes) -> Path:
    with whole(file) as part:
        part.write_bytes(content)
    return file
