"""From a photo to a network's input, and back to pixels."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Photo = str | Path | Image.Image | np.ndarray

INTERPOLATIONS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
                  "bicubic": Image.Resampling.BICUBIC}


def open_photo(path: str | Path) -> Image.Image:
    """The picture in a file, as RGB, turned the way the camera was held.

    Transparent pictures are laid on white: the colour under transparent pixels is arbitrary. Raises
    FileNotFoundError where there is no such file, ValueError where it is no picture or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no picture {path}: check the path.")
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture in a format that Pillow knows: convert it to JPEG or "
                         "PNG.") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"The picture {path} cannot be read ({error}): it seems to be damaged, "
                         "so fetch it again.") from error


def _rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):          # 16 bits of grey, which Pillow would clip to white
        grey = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("A picture of floating-point values has no fixed white: save it with 8 or 16 bits.")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


@dataclass(frozen=True)
class _Frame:
    """Where a picture lands: its size after resizing, and the window that is cut out of that."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Preprocessing:
    """What a network was trained to see. Calling it turns a photo into an input tensor.

    mean, std: of each channel, for values in [0, 1]; one number stands for three equal ones. resize: length
    in pixels to which the shorter side is brought (None: as it is). crop: side of the square cut from the
    centre (None: all of it). interpolation: "bilinear" (the default, as in most of torchvision), "bicubic"
    or "nearest". The arithmetic is torchvision's, so that its published accuracies hold.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None
    crop: int | None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            object.__setattr__(self, field, _three(field, getattr(self, field)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}.")
        for field in ("resize", "crop"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{field} is a number of pixels or None, not {value!r}.")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"A crop of {self.crop} pixels does not fit into a picture resized to "
                             f"{self.resize}: make crop the smaller one.")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not "
                             f"{self.interpolation!r}.")

    def __call__(self, photo: Photo) -> Tensor:
        """The photo as a normalised float32 tensor (1, 3, H, W).

        photo: a path, a PIL image, or a uint8 array (H, W, 3) or (H, W).
        Grey, transparent, palette and CMYK pictures become RGB; a rotation noted by the camera is carried
        out.
        Raises FileNotFoundError, ValueError or TypeError with a sentence for anything else.
        """
        image = _image(photo)
        frame = self._frame(*image.size)
        if (frame.width, frame.height) != image.size:
            image = image.resize((frame.width, frame.height), INTERPOLATIONS[self.interpolation])
        image = image.crop((frame.left, frame.top, frame.right, frame.bottom))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        return self.normalise(pixels.float() / 255).contiguous()

    def normalise(self, values: Tensor) -> Tensor:
        """(B, 3, H, W) or (3, H, W) in [0, 1] -> the same shape, normalised; differentiable."""
        self._check(values)
        if values.numel() and (values.min() < 0 or values.max() > 1):
            raise ValueError(f"Values must lie in [0, 1], but reach from {values.min().item():.3g} to "
                             f"{values.max().item():.3g}: divide pixels by 255 first.")
        mean, std = self._columns(values)
        return (values - mean) / std

    def photo(self, images: Tensor) -> np.ndarray:
        """Input tensor (B, 3, H, W) or (3, H, W) -> uint8 pixels (B, H, W, 3) or (H, W, 3), clipped."""
        self._check(images)
        values = images.detach().to("cpu", torch.float32)
        mean, std = self._columns(values)
        pixels = ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels.movedim(-3, -1).contiguous().numpy()

    def box(self, box: tuple[float, float, float, float], width: int, height: int
            ) -> tuple[float, float, float, float]:
        """A box (x0, y0, x1, y1) in a picture of `width`×`height` pixels -> the same box in the input tensor.

        Edges, not pixel centres, are counted: (0, 0, width, height) is the whole picture. What lies outside
        the crop is cut off, so a box without any area left has x0 == x1 or y0 == y1.
        """
        x0, y0, x1, y1 = box
        if x0 > x1 or y0 > y1:
            raise ValueError(f"A box is (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1, not {tuple(box)}.")
        frame = self._frame(width, height)

        def across(x: float) -> float:
            return min(max(x * frame.width / width - frame.left, 0.0), float(frame.right - frame.left))

        def down(y: float) -> float:
            return min(max(y * frame.height / height - frame.top, 0.0), float(frame.bottom - frame.top))

        return across(x0), down(y0), across(x1), down(y1)

    def _frame(self, width: int, height: int) -> _Frame:
        if min(width, height) < 1:
            raise ValueError(f"A picture of {width}×{height} has no pixels.")
        if self.resize is not None:
            long = int(self.resize * max(width, height) / min(width, height))
            width, height = (self.resize, long) if width <= height else (long, self.resize)
        if self.crop is None:
            return _Frame(width, height, 0, 0, width, height)
        if self.crop > min(width, height):
            raise ValueError(f"A crop of {self.crop} pixels does not fit into a picture of {width}×{height}: "
                             "set resize as well.")
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return _Frame(width, height, left, top, left + self.crop, top + self.crop)

    def _columns(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(side, dtype=values.dtype, device=values.device)[:, None, None]
                     for side in (self.mean, self.std))

    @staticmethod
    def _check(values: Tensor) -> None:
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = str(values.dtype) if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"This takes a float tensor (B, 3, H, W) or (3, H, W), not {kind}.")
        if values.ndim not in (3, 4) or values.shape[-3] != 3:
            raise ValueError("This takes a tensor (B, 3, H, W) or (3, H, W), not one of shape "
                             f"{tuple(values.shape)}.")


def _three(field: str, value: float | tuple) -> tuple[float, float, float]:
    numbers = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{field} must be one number or three, not {value!r}.")
    return tuple(float(number) for number in numbers)


def _image(photo: Photo) -> Image.Image:
    if isinstance(photo, (str, Path)):
        return open_photo(photo)
    if isinstance(photo, Image.Image):
        return _rgb(photo)
    if not isinstance(photo, np.ndarray):
        raise TypeError("A photo is a path, a PIL image or a uint8 array (H, W, 3), not "
                        f"{type(photo).__name__}.")
    if photo.dtype != np.uint8:
        raise TypeError(f"An array of pixels must be uint8 (0 … 255), not {photo.dtype}.")
    if photo.size == 0 or not (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)):
        raise ValueError(f"An array of pixels must have shape (H, W, 3) or (H, W), not {photo.shape}.")
    return Image.fromarray(photo).convert("RGB")
