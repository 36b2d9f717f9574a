"""Photos to tensors and back, as torchvision does it, for every kind of picture."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cambook.models import Preprocessing, open_photo

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224)
PLAIN = Preprocessing(0, 1, resize=None, crop=None)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("weights", [
    torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1,         # 256, 224, bilinear
    torchvision.models.EfficientNet_B1_Weights.IMAGENET1K_V1,       # 256, 240, bicubic
    torchvision.models.ResNet50_Weights.IMAGENET1K_V2,              # 232, 224
])
@pytest.mark.parametrize("size", [(301, 199), (199, 301), (256, 256), (100, 90), (1200, 61), (257, 256)])
def test_the_same_tensor_as_torchvisions_own_transforms(weights, size):
    preset = weights.transforms()
    ours = Preprocessing(tuple(preset.mean), tuple(preset.std), preset.resize_size[0], preset.crop_size[0],
                         preset.interpolation.value)
    picture = noise(*size)
    tensor = ours(picture)
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    torch.testing.assert_close(tensor, preset(Image.fromarray(picture))[None], rtol=0, atol=1e-6)


def test_without_resize_and_crop_pixels_stay_where_they_are():
    picture = noise(7, 5)
    tensor = PLAIN(picture)
    assert tensor.shape == (1, 3, 5, 7)
    assert torch.equal(tensor[0, :, 1, 6], torch.from_numpy(picture[1, 6]).float() / 255)
    assert np.array_equal(PLAIN.photo(tensor)[0], picture)


def test_one_number_stands_for_three_and_normalising_is_what_it_says():
    half = Preprocessing(mean=0.5, std=0.25, resize=None, crop=None)
    assert half.mean == (0.5,) * 3 and half.std == (0.25,) * 3
    assert half(np.full((2, 2, 3), 255, np.uint8)).unique().tolist() == [2.0]
    values = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    normal = half.normalise(values)
    torch.testing.assert_close(normal, (values - 0.5) / 0.25)
    assert normal.requires_grad and half.normalise(values[0]).shape == (3, 4, 5)


def test_back_to_pixels_for_one_image_a_batch_and_other_precisions():
    picture = noise(9, 6)
    tensor = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.1), None, None)(picture)
    back = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.1), None, None).photo
    assert np.array_equal(back(tensor)[0], picture) and np.array_equal(back(tensor[0]), picture)
    assert np.array_equal(back(tensor.double().requires_grad_())[0], picture)
    assert back(tensor).dtype == np.uint8 and back(tensor).flags.c_contiguous
    assert np.abs(back(tensor.half())[0].astype(int) - picture).max() <= 1
    assert back(tensor * 0 + 99).min() == 255 and back(tensor * 0 - 99).max() == 0      # clipped, not wrapped


def test_the_prepared_tensor_can_be_looked_at():
    picture = noise(300, 260)
    size = (int(256 * 300 / 260), 256)
    shown = IMAGENET.photo(IMAGENET(picture))[0]
    left = round((size[0] - 224) / 2)
    expected = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    assert np.array_equal(shown, expected[16:240, left:left + 224])


# Boxes

def test_a_box_follows_its_pixels():
    """A white rectangle in a black picture: its edges in the tensor are where the box says."""
    for width, height, box in [(500, 400, (151, 59, 400, 390)), (400, 500, (100, 120, 160, 400)),
                               (640, 300, (300, 10, 380, 290))]:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[box[1]:box[3], box[0]:box[2]] = 255
        white = IMAGENET.photo(IMAGENET(picture))[0, ..., 0] > 127
        columns, rows = white.any(0).nonzero()[0], white.any(1).nonzero()[0]
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.array(found) - IMAGENET.box(box, width, height)).max() <= 0.51


def test_boxes_are_clipped_to_the_crop():
    # 512×256 is resized to itself, of which columns 144 … 368 and rows 16 … 240 remain.
    assert IMAGENET.box((0, 0, 512, 256), 512, 256) == (0, 0, 224, 224)
    assert IMAGENET.box((0, 0, 100, 256), 512, 256) == (0, 0, 0, 224)       # outside: no area left
    assert IMAGENET.box((154, 26, 164, 46), 512, 256) == (10, 10, 20, 30)
    assert PLAIN.box((1, 2, 3, 4), 9, 9) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="x0 ≤ x1"):
        PLAIN.box((3, 2, 1, 4), 9, 9)


# Kinds of pictures

def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_grey_pictures(tmp_path):
    grey = noise(8, 6)[..., 0]
    expected = np.repeat(grey[..., None], 3, 2)
    assert np.array_equal(PLAIN.photo(PLAIN(grey))[0], expected)
    deep = grey.astype(np.uint16) * 257         # 16 bits
    for name, values in {"grey.png": grey, "deep.png": deep}.items():
        assert np.array_equal(open_photo(saved(tmp_path, Image.fromarray(values), name)), expected)
    one_bit = Image.fromarray(grey).convert("1")
    assert set(np.unique(np.asarray(open_photo(saved(tmp_path, one_bit, "bit.png"))))) == {0, 255}


def test_transparent_pictures_lie_on_white(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, :, 3] = 255                         # the upper row is opaque black, the lower one transparent
    got = np.asarray(open_photo(saved(tmp_path, Image.fromarray(rgba), "clear.png")))
    assert got[0].max() == 0 and got[1].min() == 255
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60] + [0] * 762)
    got = np.asarray(open_photo(saved(tmp_path, palette, "palette.gif", transparency=1)))
    assert got.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_palette_and_cmyk(tmp_path):
    palette = Image.fromarray(noise(8, 8)).quantize(16)
    assert np.array_equal(open_photo(saved(tmp_path, palette, "p.png")), palette.convert("RGB"))
    cmyk = Image.new("CMYK", (5, 4), (0, 255, 255, 0))      # red in print
    red = np.asarray(open_photo(saved(tmp_path, cmyk, "cmyk.jpg"))).mean((0, 1))
    assert red[0] > 240 and red[1:].max() < 15


def test_the_way_the_camera_was_held(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 3:] = 255                        # white on the right
    exif = Image.Exif()
    exif[0x0112] = 6                            # to be turned clockwise for viewing: white at the bottom
    got = np.asarray(open_photo(saved(tmp_path, Image.fromarray(picture), "turned.png", exif=exif)))
    assert got.shape == (6, 4, 3) and got[:3].max() == 0 and got[3:].min() == 255


def test_very_wide_and_very_small_pictures():
    assert IMAGENET(noise(1500, 40)).shape == (1, 3, 224, 224)
    assert IMAGENET(noise(1, 1)).shape == (1, 3, 224, 224)
    wide = Preprocessing(0.5, 0.5, resize=64, crop=None)
    assert wide(noise(600, 100)).shape == (1, 3, 64, 384)


def test_paths_strings_and_images_are_the_same_photo(tmp_path):
    image = Image.fromarray(noise(40, 30))
    path = saved(tmp_path, image, "photo.png")
    before = path.read_bytes()
    tensors = [PLAIN(given) for given in (path, str(path), image, np.asarray(image))]
    assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)
    assert path.read_bytes() == before


# Sentences

def test_pictures_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no picture .*nowhere.jpg"):
        open_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(FileNotFoundError, match="There is no picture"):
        open_photo(tmp_path)
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match="text.jpg is not a picture .* convert it to JPEG or PNG"):
        open_photo(text)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="not a picture"):
        open_photo(tmp_path / "empty.png")


@pytest.mark.parametrize("name", ["half.jpg", "half.png", "half.gif"])
def test_a_picture_cut_in_half(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(noise(80, 60)), name)
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read .* damaged"):
        open_photo(path)


@pytest.mark.parametrize("given, error, sentence", [
    (torch.zeros(1, 3, 4, 4), TypeError, r"a path, a PIL image or a uint8 array \(H, W, 3\), not Tensor"),
    (np.zeros((4, 4, 3)), TypeError, "must be uint8 .* not float64"),
    (np.zeros((4, 4, 4), np.uint8), ValueError, r"not \(4, 4, 4\)"),
    (np.zeros((3, 4, 4), np.uint8), ValueError, r"shape \(H, W, 3\) or \(H, W\), not \(3, 4, 4\)"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, r"not \(0, 4, 3\)"),
    (Image.new("RGB", (0, 5)), ValueError, "0×5 has no pixels"),
    (Image.new("F", (4, 5)), ValueError, "floating-point values"),
])
def test_what_is_no_photo(given, error, sentence):
    with pytest.raises(error, match=sentence):
        PLAIN(given)


def test_a_crop_larger_than_the_picture():
    with pytest.raises(ValueError, match="crop of 20 pixels does not fit .* of 30×10: set resize"):
        Preprocessing(0, 1, resize=None, crop=20)(noise(30, 10))


@pytest.mark.parametrize("values, error, sentence", [
    (torch.full((1, 3, 2, 2), 255.), ValueError, r"\[0, 1\], but reach from 255 to 255: divide"),
    (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), TypeError, "float tensor .* not torch.uint8"),
    (np.zeros((1, 3, 2, 2)), TypeError, "float tensor .* not ndarray"),
    (torch.zeros(1, 1, 2, 2), ValueError, r"not one of shape \(1, 1, 2, 2\)"),
])
def test_what_cannot_be_normalised(values, error, sentence):
    with pytest.raises(error, match=sentence):
        PLAIN.normalise(values)


@pytest.mark.parametrize("fields, sentence", [
    ({"std": 0}, "std must be positive"), ({"mean": (0.5, 0.5)}, "mean must be one number or three"),
    ({"mean": float("nan")}, "mean must be one number"), ({"crop": 300}, "crop of 300 .* resized to 256"),
    ({"resize": 0}, "resize is a number of pixels or None, not 0"), ({"crop": 22.5}, "crop is a number"),
    ({"interpolation": "cubic"}, "one of nearest, bilinear, bicubic, not 'cubic'"),
])
def test_settings_that_make_no_sense(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Preprocessing(**{"mean": 0.5, "std": 0.5, "resize": 256, "crop": 224, **fields})
