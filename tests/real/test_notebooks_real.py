"""The notebooks, unchanged, on ImageNet networks and photographs that are grey or very wide."""

from pathlib import Path

import papermill
import pytest

pytestmark = pytest.mark.real

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SQUEEZENET = {"MODEL": "squeezenet1_1", "WEIGHTS": "models/squeezenet1_1_onnxzoo-a4caa091.pth"}
MOBILENET = {
    "MODEL": "mobilenet_v2",
    "WEIGHTS": "models/mobilenet_v2_tfslim-34f9d2d0.pth",
    "PREPROCESSING": {"mean": 0.5, "std": 0.5, "crop": 225},
}
GREY = "imagenet_val/ILSVRC2012_val_00033079.JPEG"  # one channel
WIDE = "imagenet_samples/n02364673_guinea_pig.JPEG"  # 964 × 406
COLOUR = "imagenet_val/ILSVRC2012_val_00000077.JPEG"


def run(name: str, real: Path, tmp_path: Path, network: dict, photo: str) -> None:
    paths = {"WEIGHTS": str(real / network["WEIGHTS"]), "IMAGE": str(real / photo)}
    assert all(Path(path).is_file() for path in paths.values()), paths
    [notebook] = FOLDER.glob(f"{name}_*.ipynb")
    parameters = network | paths
    unknown = set(parameters) - set(papermill.inspect_notebook(str(notebook)))
    assert not unknown, f"{notebook.name} has no parameter {unknown}: papermill would run its defaults"
    nb = papermill.execute_notebook(
        str(notebook),
        str(tmp_path / "out.ipynb"),
        parameters,
        cwd=str(FOLDER),
        kernel_name="python3",
        progress_bar=False,
    )
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    lines = "".join(output.text for output in outputs if output.get("name") == "stdout").splitlines()
    assert sum(line.startswith("PASS eq.") for line in lines) > 3
    assert any("image/png" in output.get("data", {}) for output in outputs)


# One class a notebook: `--dist loadscope` hands out classes, so they run side by side. Every day a grey and a very
# wide photo and another preprocessing, with one notebook; the others take a minute or more each, in
# `make test-all`.
class TestCamAndGradCam:
    def test_mobilenet_with_its_own_preprocessing_on_a_grey_photo(self, real, tmp_path):
        run("01", real, tmp_path, MOBILENET, GREY)

    @pytest.mark.slow
    def test_squeezenet_on_a_grey_photo(self, real, tmp_path):
        run("01", real, tmp_path, SQUEEZENET, GREY)

    def test_squeezenet_on_a_wide_photo(self, real, tmp_path):
        run("01", real, tmp_path, SQUEEZENET, WIDE)


class TestScoreCam:
    @pytest.mark.slow
    def test_squeezenet_on_a_wide_photo(self, real, tmp_path):
        run("02", real, tmp_path, SQUEEZENET, WIDE)

    @pytest.mark.slow
    def test_squeezenet_on_a_grey_photo(self, real, tmp_path):
        run("02", real, tmp_path, SQUEEZENET, GREY)

    @pytest.mark.slow
    def test_mobilenet_with_its_own_preprocessing(self, real, tmp_path):
        run("02", real, tmp_path, MOBILENET, COLOUR)


class TestGigPath:
    @pytest.mark.slow
    def test_squeezenet_on_a_photo(self, real, tmp_path):
        run("03", real, tmp_path, SQUEEZENET, COLOUR)

    @pytest.mark.slow
    def test_mobilenet_with_its_own_preprocessing(self, real, tmp_path):
        run("03", real, tmp_path, MOBILENET, WIDE)


class TestMeasuring:
    @pytest.mark.slow
    def test_squeezenet_on_a_grey_photo(self, real, tmp_path):
        run("08", real, tmp_path, SQUEEZENET, GREY)

    @pytest.mark.slow
    def test_mobilenet_with_its_own_preprocessing(self, real, tmp_path):
        run("08", real, tmp_path, MOBILENET, COLOUR)


class TestMultiScaleFusion:
    """With the scale robustness of the network measured on a folder of photos."""

    @pytest.mark.slow
    def test_squeezenet_and_a_folder_of_photos(self, real, tmp_path):
        run("04", real, tmp_path, SQUEEZENET | {"PHOTOS": str(real / "imagenet_val")}, COLOUR)

    @pytest.mark.slow
    def test_mobilenet_with_its_own_preprocessing(self, real, tmp_path):
        run("04", real, tmp_path, MOBILENET, COLOUR)


class TestIncrementCam:
    @pytest.mark.slow
    def test_squeezenet_on_a_photo(self, real, tmp_path):
        run("05", real, tmp_path, SQUEEZENET, COLOUR)


class TestPolyCam:
    @pytest.mark.slow
    def test_squeezenet_on_a_wide_photo(self, real, tmp_path):
        run("06", real, tmp_path, SQUEEZENET, WIDE)

    @pytest.mark.slow
    def test_squeezenet_on_a_grey_photo(self, real, tmp_path):
        run("06", real, tmp_path, SQUEEZENET, GREY)


class TestUnionCam:
    @pytest.mark.slow
    def test_squeezenet_on_a_photo(self, real, tmp_path):
        run("07", real, tmp_path, SQUEEZENET, COLOUR)

    @pytest.mark.slow
    def test_squeezenet_on_a_wide_photo(self, real, tmp_path):
        run("07", real, tmp_path, SQUEEZENET, WIDE)


class TestSideBySide:
    @pytest.mark.slow
    def test_squeezenet_on_a_photo(self, real, tmp_path):
        run("09", real, tmp_path, SQUEEZENET, COLOUR)
