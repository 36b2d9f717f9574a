"""The table of evidence: every number is the metric's own, none is mixed up, and a stop costs nothing."""

import json
import math
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from torch import nn

import evidence as tool
from cambook import evidence, methods, metrics, models, world
from cambook.check import check
from cambook.metrics import controls, plot, storage
from cambook.metrics.ground_truth import example
from cambook.models import Preprocessing

table_ = sys.modules["cambook.metrics.table"]    # the function of the same name hides the module
COSTS = ["forwards", "seconds"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed=0):
    """A tiny network for the ten classes that sees scenes at 32 pixels; its scores hang on every weight."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 * seed + number))
    return models.load(net, preprocessing={"mean": 0.5, "std": 0.5, "resize": 32, "crop": 32})


@pytest.fixture
def net():
    return network()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(table_, "CHUNK", 3)


def scenes(count=5):
    return [world.two_class_scene(number, siblings=number % 2 == 0) for number in range(count)]


def plain(frame):
    """The frame without the seconds, which no two runs share."""
    return frame[frame["metric"] != "seconds"].reset_index(drop=True)


def values(table, method, metric):
    frame = table.frame
    return frame[(frame["method"] == method) & (frame["metric"] == metric)]["value"].tolist()


class TestNumbers:
    def test_each_is_what_the_metric_says_of_the_whole_batch(self, net):
        given = scenes()
        wanted = [metrics.pointing_game, metrics.energy_pointing_game, metrics.energy_in_part,
                  metrics.average_drop, metrics.increase]    # fmt: skip
        assert tuple(wanted) == table_.METRICS
        wanted.append(metrics.energy_in_box)
        got = metrics.table(net, [methods.grad_cam], given, metrics=wanted)
        assert list(got.frame.columns) == ["method", "control", "metric", "image", "value"]
        assert list(got.frame["method"].unique()) == ["grad_cam", *controls.CONTROLS]
        assert list(got.frame["metric"].unique()) == [metric.__name__ for metric in wanted] + COSTS
        assert set(got.frame[got.frame["control"]]["method"]) == set(controls.CONTROLS)
        assert len(got.frame) == 8 * 8 * 5

        images = torch.cat([net.preprocessing(scene.image) for scene in given])
        targets = [scene.label for scene in given]
        masks, boxes, parts = (
            torch.stack([getattr(example(scene, net.preprocessing), field) for scene in given])
            for field in ("mask", "box", "part")
        )
        for method in (methods.grad_cam, partial(controls.exact_mask, masks=masks), controls.random):
            maps = method(net, images, targets).map
            name = storage.unwrap(method).__name__
            for metric in wanted:
                asked = {"maps": maps, "masks": masks, "boxes": boxes, "parts": parts}
                if "model" in metric.__code__.co_varnames:
                    asked = {"model": net, "images": images, "maps": maps, "targets": targets}
                asked = {key: value for key, value in asked.items() if key in metric.__code__.co_varnames}
                expected = metric(**asked).values
                got_values = torch.tensor(values(got, name, metric.__name__), dtype=torch.float64)
                torch.testing.assert_close(got_values, expected, atol=1e-6, rtol=0, equal_nan=True)
        assert set(values(got, "exact_mask", "energy_pointing_game")) == {1.0}

    def test_the_images_are_in_the_order_given_and_named(self, net):
        got = metrics.table(net, [methods.grad_cam], scenes())
        names = got.settings["images"]
        assert names == list(got.frame["image"][:5]) and len(set(names)) == 5
        first = scenes()[0]
        assert names[0] == f"0 {'+'.join(world.CLASSES[label] for label in first.labels)}"

    def test_forwards_are_the_methods_own_and_seconds_are_its_time(self, net):
        def two_a_picture(model, images, targets=None):
            return controls.random(model, images, targets).__class__(
                **vars(controls.random(model, images, targets)) | {"forwards": 2 * len(images) + 1}
            )

        got = metrics.table(net, {"two": two_a_picture}, scenes(), controls=False)
        assert values(got, "two", "forwards") == pytest.approx([7 / 3] * 3 + [5 / 2] * 2)
        assert all(seconds > 0 for seconds in values(got, "two", "seconds"))

    def test_options_and_names(self, net):
        options = {"deep": methods.grad_cam, "shallow": partial(methods.grad_cam, layers="0")}
        columns = {"near": partial(metrics.pointing_game, tolerance=5), "exact": metrics.pointing_game}
        got = metrics.table(net, options, scenes(), metrics=columns, controls=False)
        assert list(got.frame["method"].unique()) == ["deep", "shallow"]
        assert list(got.frame["metric"].unique()) == ["near", "exact", *COSTS]
        assert got.settings["rows"]["shallow"]["options"]["layers"] == "0"
        assert got.settings["rows"]["shallow"]["config"]["layer"] == "0"
        assert got.settings["metrics"]["near"] == {
            "function": "cambook.metrics.localisation.pointing_game", "options": {"tolerance": 5}
        }    # fmt: skip
        assert got.settings["rows"]["shallow"]["function"] == "cambook.methods.grad_cam.grad_cam"

    def test_metrics_that_ask_the_method_again(self, net):
        again = partial(metrics.max_sensitivity, samples=2)
        got = metrics.table(net, [methods.grad_cam], scenes(4), metrics=[again, metrics.adcc])
        assert set(values(got, "exact_mask", "max_sensitivity")) == {0.0}
        assert min(values(got, "grad_cam", "max_sensitivity")) >= 0

    def test_a_metric_gets_what_it_names(self, net):
        seen = []

        def own(maps, targets, parts):
            seen.append((maps.shape, len(targets), parts.dtype))
            return metrics.energy_pointing_game(maps, parts)

        metrics.table(net, [methods.grad_cam], scenes(4), metrics=[own], controls=False)
        assert seen == [((3, 32, 32), 3, torch.bool), ((1, 32, 32), 1, torch.bool)]


class TestGroundTruth:
    def test_a_scene_at_its_own_size(self):
        own = models.load("tiny_vgg").preprocessing
        for seed in range(40, 46):
            scene = world.two_class_scene(seed)
            got = example(scene, own)
            assert got.target == scene.label and np.array_equal(got.mask.numpy(), scene.mask())
            assert torch.equal(got.image, own(scene.image)[0])
            name = world.CLASSES[scene.label]
            parts = [part for part, pair in world.SIBLINGS.items() if name in pair]
            expected = scene.part(parts[0]) if parts else np.zeros((128, 128), bool)
            assert np.array_equal(got.part.numpy(), expected)
            assert bool(parts) == bool(got.part.any())

    def test_the_box_of_a_scene_is_that_of_the_class_alone_and_the_tightest(self):
        for seed, names in ((5, ("cat", "rocket")), (6, ("rabbit", "rabbit"))):
            scene = world.scene(seed, names)
            got = example(scene, models.load("tiny_vgg").preprocessing)
            expected = np.zeros((128, 128), bool)
            for thing in scene.objects[: 1 if names[1] == "rocket" else 2]:
                rows, columns = thing.mask.nonzero()
                expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            assert np.array_equal(got.box.numpy(), expected) and not (got.mask & ~got.box).any()
            assert got.box.sum() > got.mask.sum()

    def test_the_box_of_a_scene_takes_the_way_of_the_pixels(self):
        scene = world.scene(3, ("cat",))
        got = example(scene, Preprocessing(0.5, 0.5, resize=64, crop=48))
        expected = metrics.box_masks([[[edge / 2 - 8 for edge in scene.objects[0].box]]], (48, 48))[0]
        assert torch.equal(got.box, expected) and got.box.any()

    def test_masks_take_the_way_of_the_pixels(self):
        scene = world.scene(3)
        halved = Preprocessing(0.5, 0.5, resize=64, crop=48)
        got = example(scene, halved)
        assert got.image.shape == (3, 48, 48) and got.mask.shape == got.part.shape == (48, 48)
        whole = torch.from_numpy(scene.mask()).float()[None, None]
        centre = torch.nn.functional.avg_pool2d(whole, 2)[0, 0, 8:-8, 8:-8]
        assert got.mask[centre == 1].all() and not got.mask[centre == 0].any() and got.mask.any()

    def test_boxes_of_a_photo_through_resize_and_crop(self):
        # 40×20 to a height of 10 is 20×10; the crop takes columns 5 to 15.
        photo = np.zeros((20, 40, 3), np.uint8)
        half = Preprocessing(0.0, 1.0, resize=10, crop=10)
        got = example(metrics.Picture("one", photo, 7, [(14, 4, 22, 10)]), half)
        expected = torch.zeros(10, 10, dtype=torch.bool)
        expected[2:5, 2:6] = True
        assert torch.equal(got.mask, expected) and got.target == 7 and not got.part.any()
        assert torch.equal(got.box, expected)
        outside = example(metrics.Picture("two", photo, 7, [(0, 0, 8, 20)]), half)
        assert not outside.mask.any(), "what the crop cut off was kept"

    def test_a_photo_by_its_path(self, tmp_path):
        from PIL import Image

        Image.fromarray(world.scene(1).image).save(tmp_path / "one.png")
        own = models.load("tiny_vgg").preprocessing
        by_path, by_array = (
            example(metrics.Picture("one", photo, 0, [(1, 2, 30, 40)]), own)
            for photo in (str(tmp_path / "one.png"), world.scene(1).image)
        )
        assert torch.equal(by_path.image, by_array.image) and torch.equal(by_path.mask, by_array.mask)
        assert by_path.mask.sum() == 29 * 38

    def test_pictures_have_no_column_for_parts(self, net):
        given = [metrics.Picture(str(n), world.scene(n).image, n, [(10, 10, 90, 90)]) for n in range(3)]
        got = metrics.table(net, [methods.grad_cam], given)
        assert "energy_in_part" not in set(got.frame["metric"])
        assert values(got, "constant", "energy_pointing_game") == pytest.approx([400 / 1024] * 3)

    def test_classes_without_a_sibling_are_excluded_from_parts(self, net):
        given = [world.scene(1, ("rocket",)), world.scene(1, ("cat",))]
        got = metrics.table(net, [methods.grad_cam], given)
        rocket, cat = values(got, "exact_mask", "energy_in_part")
        assert math.isnan(rocket) and 0 < cat < 1
        line = got.summary.set_index(["method", "metric"]).loc[("exact_mask", "energy_in_part")]
        assert line["images"] == 1 and line["mean"] == cat


class Counting:
    """A method that counts the pictures it explains, and stops at a given one like a reader's Ctrl-C."""

    def __init__(self, monkeypatch, stop=math.inf):
        self.count, self.stop, own = 0, stop, methods.grad_cam

        def counted(model, images, targets=None):
            self.count += len(images)
            if self.count > self.stop:
                raise KeyboardInterrupt
            return own(model, images, targets)

        monkeypatch.setattr(sys.modules[__name__], "_counted", counted)


_counted = None


def counted(model, images, targets=None):
    return _counted(model, images, targets)


class TestCache:
    def table(self, net, cache, rows=None, given=None, **options):
        rows, given = rows or {"row": counted}, given or scenes(8)
        return metrics.table(net, rows, given, controls=False, cache=cache, **options)

    def test_an_interrupted_table_goes_on_and_is_the_same(self, net, tmp_path, monkeypatch):
        Counting(monkeypatch)
        whole = self.table(net, None)
        first = Counting(monkeypatch, stop=6)
        with pytest.raises(KeyboardInterrupt):
            self.table(net, tmp_path)
        assert first.count == 8 and len(list(tmp_path.glob("row-*.json"))) == 2
        assert not list(tmp_path.glob("*.part"))
        second = Counting(monkeypatch)
        got = self.table(net, tmp_path)
        assert second.count == 2, "what was finished was computed again"
        assert plain(got.frame).equals(plain(whole.frame))
        assert got.settings == whole.settings
        third = Counting(monkeypatch)
        assert self.table(net, tmp_path).frame.equals(got.frame) and third.count == 0

    def test_what_the_numbers_depend_on_is_computed_again(self, net, tmp_path, monkeypatch):
        counting = Counting(monkeypatch)

        def fresh(net=net, **options):
            before = counting.count
            self.table(net, tmp_path, **options)
            return counting.count - before

        assert fresh() == 8 and fresh() == 0
        assert fresh(net=network(seed=1)) == 8
        assert fresh(metrics=[partial(metrics.pointing_game, tolerance=5)]) == 8
        assert fresh(metrics=[partial(metrics.pointing_game, tolerance=6)]) == 8
        assert fresh(metrics=[metrics.energy_pointing_game]) == 8
        assert fresh(given=scenes(9)) == 3, "only the last chunk has other scenes"
        other = [world.scene(900), *scenes(8)[1:]]
        assert fresh(given=other) == 3
        net.preprocessing = Preprocessing(0.5, 0.4, 32, 32)
        assert fresh() == 8
        net[1] = nn.ReLU6()    # the same weights
        assert fresh() == 8

    def test_options_of_a_method(self, net, tmp_path):
        for layers in ("0", "1", "1"):
            rows = {"row": partial(methods.grad_cam, layers=layers)}
            got = self.table(net, tmp_path, rows)
            assert got.settings["rows"]["row"]["config"]["layer"] == layers
        assert len(list(tmp_path.iterdir())) == 6

    def test_a_damaged_file_is_computed_again(self, net, tmp_path, monkeypatch):
        Counting(monkeypatch)
        whole = self.table(net, tmp_path)
        file = sorted(tmp_path.iterdir())[0]
        file.write_text(file.read_text()[:50])
        counting = Counting(monkeypatch)
        assert plain(self.table(net, tmp_path).frame).equals(plain(whole.frame))
        assert counting.count in (2, 3)

    def test_values_of_a_surrounding_function_cannot_be_known(self, net, tmp_path):
        layers = "0"

        def hidden(model, images, targets=None):
            return methods.grad_cam(model, images, targets, layers=layers)

        with pytest.raises(ValueError, match="hand them over by functools.partial"):
            self.table(net, tmp_path, {"row": hidden})
        self.table(net, None, {"row": hidden})
        for cache in (None, tmp_path):    # two lambdas look alike in the settings
            with pytest.raises(ValueError, match="An option is the function .*<lambda>"):
                odd = partial(metrics.average_drop, score=lambda output: output.sigmoid())
                self.table(net, cache, {"row": methods.grad_cam}, metrics=[odd])

    def test_the_code_is_known_by_what_it_does(self, tmp_path, monkeypatch):
        package = tmp_path / "pocketbook"
        (package / "inner").mkdir(parents=True)
        files = {
            "__init__.py": "",
            "far.py": "X = 1\n",
            "other.py": "Y = 1\n",
            "near.py": "from .inner import deep\nfrom . import far\n",
            "inner/__init__.py": "",
            "inner/deep.py": "Z = 1\n",
            "top.py": '"""Words."""\nfrom pocketbook.near import far\n\n'
            'def method():\n    """Words."""\n    return 1\n',
        }
        for name, text in files.items():
            (package / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(storage, "LIBRARY", package)
        from pocketbook.top import method

        def code():
            storage._code.cache_clear()
            return storage.sources(method)

        before = code()
        for name, text, same in [
            ("top.py", files["top.py"].replace("Words", "Other words") + "# a comment\n", True),
            ("other.py", "Y = 2\n", True),
            ("top.py", files["top.py"].replace("return 1", "return 2"), False),
            ("far.py", "X = 2\n", False),
            ("inner/deep.py", "Z = 2\n", False),
        ]:
            (package / name).write_text(text)
            assert (code() == before) == same, name
            (package / name).write_text(files[name])
        assert code() == before

    def test_a_write_that_fails_leaves_the_file(self, tmp_path, monkeypatch):
        path = tmp_path / "one.json"
        storage.write(path, {"a": 1})
        monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            storage.write(path, {"a": 2})
        assert storage.read(path) == {"a": 1}


def made(rows, images=4, functions=None):
    """A table with these values: row → column → list; rows called like controls are controls."""
    columns = list(next(iter(rows.values())))
    functions = functions or {}
    settings = {
        "model": {"network": "Net", "weights": "w"},
        "targets": "annotated",
        "rows": {
            name: {"function": name, "options": {}, "control": name in controls.CONTROLS, "config": {}}
            for name in rows
        },
        "metrics": {
            name: {"function": functions.get(name, f"m.{name}"), "options": {}}
            for name in columns if name not in COSTS
        },
        "images": [f"scene {number}" for number in range(images)],
    }    # fmt: skip
    return metrics.Table.of(rows, settings)


NAN = math.nan
ROWS = {
    "grad_cam": {"increase": [0, 1, 1, 0], "average_drop": [0.5, 0.25, NAN, 0.75], "seconds": [9, 1, 2, 3]},
    "score_cam": {"increase": [1, 1, 1, 0], "average_drop": [0.25, 0.25, 0.5, 0.5], "seconds": [1, 1, 1, 1]},
    "exact_mask": {"increase": [1, 1, 1, 1], "average_drop": [0, 0, 0, 0], "seconds": [0, 0, 0, 0]},
    "fake_cam": {"increase": [1, 0, 0, 0], "average_drop": [0.1, 0.1, 0.1, 0.1], "seconds": [0, 0, 0, 0]},
}


class TestSummary:
    def test_means_intervals_and_counts(self):
        lines = made(ROWS).summary.set_index(["method", "metric"])
        drop = lines.loc[("grad_cam", "average_drop")]
        assert drop["mean"] == 0.5 and drop["images"] == 3
        assert (drop["low"], drop["high"]) == metrics.interval([0.5, 0.25, 0.75])
        assert 0.25 <= drop["low"] < 0.5 < drop["high"] <= 0.75
        seconds = lines.loc[("grad_cam", "seconds")]
        assert seconds["mean"] == 2.5 and math.isnan(seconds["low"]), "the median, without an interval"

    def test_bootstrap(self):
        values = np.random.default_rng(3).normal(5, 2, 400)
        low, high = metrics.interval(values)
        half = 1.96 * values.std() / 20
        assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
        assert (low, high) == metrics.interval([*values, NAN, NAN]) == metrics.interval(values)
        assert metrics.interval([0.3] * 9) == pytest.approx((0.3, 0.3))
        assert all(map(math.isnan, metrics.interval([NAN]))) and all(map(math.isnan, metrics.interval([])))

    def test_differences_are_taken_image_by_image(self):
        lines = made(ROWS).against("grad_cam").set_index(["method", "metric"])
        drop = lines.loc[("score_cam", "average_drop")]
        gaps = [-0.25, 0, -0.25]    # the third image is excluded in one of the two
        assert drop["difference"] == pytest.approx(-1 / 6) and drop["images"] == 3
        assert (drop["low"], drop["high"]) == metrics.interval(gaps)
        assert lines.loc[("score_cam", "increase")]["difference"] == 0.25
        assert "seconds" not in lines.index.get_level_values("metric")
        with pytest.raises(ValueError, match="no row 'gig_cam'; it has"):
            made(ROWS).against("gig_cam")

    def test_a_metric_that_a_control_wins_is_named(self):
        got = made(ROWS)
        assert got.fooled() == {"average_drop": "fake_cam"}, "the oracle does not count, less drop is better"
        renamed = {"drop": "cambook.metrics.confidence.average_drop"}
        rows = {name: {"drop": row["average_drop"]} for name, row in ROWS.items()}
        assert made(rows, functions=renamed).fooled() == {"drop": "fake_cam"}
        assert made({"a": {"own": [1.0] * 4}, "fake_cam": {"own": [2.0] * 4}}).fooled() == {}

    def test_text(self):
        lines = repr(made(ROWS)).splitlines()
        head = [["increase", "average", "seconds"], ["↑", "drop"], ["↓"]]
        assert [line.split() for line in lines[:3]] == head
        assert re.search(r"^grad_cam +0\.500 ±0\.\d+ +0\.500 ±0\.\d+ \(3\) +2\.5$", lines[4])
        assert re.search(r"^score_cam +0\.750 ±0\.\d+\* +0\.375 ±0\.\d+\* +1$", lines[5])
        assert re.search(r"^exact_mask +1\.000 ±0\.000 +0\.000 ±0\.000 +0$", lines[7]), "controls get no star"
        assert set(lines[3]) == set(lines[6]) == {"-"}
        assert "4 images" in lines[-4] and "So few" in lines[-2]
        assert lines[-1].endswith("on average_drop (fake_cam).")

    def test_html(self):
        from bs4 import BeautifulSoup

        page = BeautifulSoup(made({"a<b": ROWS["grad_cam"], **ROWS})._repr_html_(), "html.parser")
        titles = [cell.text.strip() for cell in page.thead.find_all("th")]
        assert titles == ["", "increase ↑", "average drop ↓", "seconds"]
        rows = [[cell.text for cell in row.find_all(["th", "td"])] for row in page.tbody.find_all("tr")]
        assert [row[0] for row in rows] == ["a<b", *ROWS]
        assert [cell.text for cell in page.tbody.find_all("b")] == [rows[2][1], rows[2][2]]
        assert "fake_cam" in page.p.text

    def test_an_empty_column(self):
        rows = {"grad_cam": {"increase": [NAN] * 4}, "fake_cam": {"increase": [NAN] * 4}}
        assert "none" in repr(made(rows)) and made(rows).fooled() == {}
        made(rows).plot()

    def test_plot(self, capsys):
        fig, alt = plot.dots(made(ROWS))
        drawn = [axis for axis in fig.axes if axis.get_visible()]
        assert [axis.get_title() for axis in drawn] == ["increase →", "average drop ←"]
        dots = [line for line in drawn[0].lines if line.get_marker() in "os"]
        assert [line.get_xdata()[0] for line in dots] == [0.5, 0.75, 1.0, 0.25]
        assert [line.get_marker() for line in dots] == ["o", "o", "s", "s"]
        assert "average_drop: best method score_cam 0.38, best degenerate control fake_cam 0.10" in alt
        made(ROWS).plot()
        assert capsys.readouterr().out.strip() == " ".join(alt.split())


class TestStored:
    @pytest.fixture
    def found(self, net):
        columns = [metrics.energy_in_part, metrics.average_drop]
        return metrics.table(net, [methods.grad_cam], scenes(), metrics=columns)

    def test_round_trip(self, found, tmp_path):
        found.save(tmp_path / "x.csv")
        read = metrics.read_table(tmp_path / "x.csv")
        assert read.settings == found.settings
        pandas.testing.assert_frame_equal(read.frame, found.frame, rtol=1e-3, atol=1e-12)
        read.save(tmp_path / "y.csv")
        assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "y.csv").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.json", "y.csv", "y.json"]

    def test_damaged(self, found, tmp_path):
        found.save(tmp_path / "x.csv")
        text = (tmp_path / "x.csv").read_text()
        for broken in (text.rsplit("\n", 2)[0] + "\n", "", text.replace("grad_cam", "cam", 1)):
            (tmp_path / "x.csv").write_text(broken)
            with pytest.raises(ValueError, match="do not belong together"):
                metrics.read_table(tmp_path / "x.csv")
        (tmp_path / "x.csv").write_text(text)
        (tmp_path / "x.json").unlink()
        with pytest.raises(ValueError, match="do not belong together"):
            metrics.read_table(tmp_path / "x.csv")
        with pytest.raises(FileNotFoundError, match="There is no stored table"):
            metrics.read_table(tmp_path / "y.csv")
        with pytest.raises(ValueError, match="ends in .csv, unlike 'x.json'"):
            found.save(tmp_path / "x.json")

    def test_a_few_scenes_computed_again_agree(self, net, found, tmp_path, capsys):
        found.save(tmp_path / "x.csv")
        stored = metrics.read_table(tmp_path / "x.csv")
        wanted = {"edges": controls.edges, "grad_cam": methods.grad_cam}    # in another order
        columns = [metrics.average_drop, metrics.energy_in_part]
        live = metrics.table(net, wanted, [scenes()[4], scenes()[1]], metrics=columns, controls=False)
        got, expected = stored.beside(live)
        assert len(got) == 2 * 2 * 2
        check("again", got, expected, atol=1e-3)
        excluded = math.isnan(values(live, "edges", "energy_in_part")[1])
        assert expected.count(-1) == got.count(-1) == (2 if excluded else 0)
        assert expected[0] == values(stored, "edges", "average_drop")[4]

    def test_what_does_not_compare(self, net, found):
        columns = [metrics.energy_in_part, metrics.average_drop]

        def live(net=net, rows=None, given=None, metrics_=columns):
            rows = rows or [methods.grad_cam]
            return metrics.table(net, rows, given or scenes(2), metrics=metrics_, controls=False)

        found.beside(live())
        for what, other in {
            "model: weights": live(net=network(seed=1)),
            "rows: grad_cam": live(rows={"grad_cam": partial(methods.grad_cam, layers="0")}),
            "metrics: average_drop": live(metrics_=[columns[0], partial(columns[1], score=torch.sigmoid)]),
        }.items():
            with pytest.raises(ValueError, match=re.escape(f"different settings ({what})")):
                found.beside(other)
        assert len(found.beside(live(metrics_=columns[1:]))[0]) == 2
        with pytest.raises(ValueError, match="stored table has no grad_cam, increase"):
            found.beside(live(metrics_=[metrics.increase]))
        with pytest.raises(ValueError, match="stored table has no layer_cam"):
            found.beside(live(rows=[methods.layer_cam]))
        with pytest.raises(ValueError, match="stored table has no grad_cam, average_drop, 77 cat"):
            found.beside(live(given=[world.scene(77, ("cat",))]))


class TestBadInput:
    def test_sentences(self, net):
        bare = nn.Sequential(nn.Conv2d(3, 2, 3))
        for error, words, arguments in [
            (ValueError, "pass it through models.load first", (bare, [methods.grad_cam], scenes(1))),
            (ValueError, "no method: give at least one", (net, [], scenes(1))),
            (TypeError, r"for one, write \[method\]", (net, methods.grad_cam, scenes(1))),
            (TypeError, "Methods and metrics of a table are functions", (net, ["x"], scenes(1))),
            (ValueError, "Two methods have the same name", (net, [methods.grad_cam] * 2, scenes(1))),
            (ValueError, "called 'random' like a control", (net, {"random": methods.grad_cam}, scenes(1))),
            (ValueError, "no scene: give at least one", (net, [methods.grad_cam], [])),
            (ValueError, "Two scenes have the same name", (net, [methods.grad_cam], scenes(1) * 2)),
            (TypeError, "made of scenes .* not of ndarray", (net, [methods.grad_cam], [scenes(1)[0].image])),
        ]:
            with pytest.raises(error, match=words):
                metrics.table(*arguments)

    def test_methods_and_metrics_that_are_none(self, net):
        with pytest.raises(TypeError, match="The first argument is the method"):
            metrics.table(net, {"net": net}, scenes(1))
        with pytest.raises(TypeError, match="must return an Explanation"):
            metrics.table(net, {"x": lambda *_: 1}, scenes(1))
        for metric in (lambda masks: 1, lambda maps, other: 1):
            with pytest.raises(TypeError, match="The metric 'own' must take maps or method"):
                metrics.table(net, [methods.grad_cam], scenes(1), metrics={"own": metric})

    def test_sizes(self):
        net = network()
        net.preprocessing = Preprocessing(0.5, 0.5, None, None)
        wide = metrics.Picture("wide", np.zeros((20, 40, 3), np.uint8), 0, [(0, 0, 5, 5)])
        with pytest.raises(ValueError, match="several sizes .* give the network a preprocessing with a crop"):
            metrics.table(net, [methods.grad_cam], [scenes(1)[0], wide])

    def test_without_pandas(self, net, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match="A table needs pandas"):
            metrics.table(net, [methods.grad_cam], scenes(1))


def test_importing_the_metrics_imports_no_pandas():
    code = "import sys, cambook.metrics, cambook.evidence; print({'pandas', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_progress_bar(net, capsys):
    metrics.table(net, [methods.grad_cam], scenes(4), metrics=[metrics.pointing_game], progress=True)
    assert re.search(r"explained and measured: 100%.* 32/32", capsys.readouterr().err)


class TestEvidence:
    @pytest.fixture
    def short(self, monkeypatch):
        monkeypatch.setattr(evidence, "CHAPTERS", {
            "01_one": evidence.Chapter({"grad_cam": methods.grad_cam}, [metrics.energy_pointing_game]),
            "02_two": evidence.Chapter({"layer_cam": methods.layer_cam}, [metrics.average_drop]),
        })    # fmt: skip

    def test_stored_by_the_command_and_computed_again(self, short, tmp_path, capsys):
        arguments = ["02", "--networks", "tiny_vgg", "--count", "4", "--folder", str(tmp_path / "kept"),
                     "--cache", str(tmp_path / "cache")]    # fmt: skip
        assert tool.main(arguments) == 0
        assert "TinyVGG, 4 images" in capsys.readouterr().out
        assert {path.stem for path in (tmp_path / "kept").iterdir()} == {"02_two.tiny_vgg"}
        assert len(list((tmp_path / "cache").iterdir())) == 8 * 2
        where = {"folder": tmp_path / "kept"}
        stored = evidence.stored("02_two", "tiny_vgg", **where)
        assert stored.settings["images"][0].startswith(f"{evidence.FIRST_SEED} ")
        got, expected = evidence.again("02_two", "tiny_vgg", (3, 1), ["layer_cam", "exact_mask"], **where)
        check("two scenes", got, expected, atol=1e-3)
        assert len(got) == 4
        with pytest.raises(ValueError, match="no row"):
            evidence.again("02_two", "tiny_vgg", (0,), ["grad_cam"], **where)
        kept = json.loads((tmp_path / "kept" / "02_two.tiny_vgg.json").read_text())
        assert {"model", "rows", "metrics", "images", "targets", "environment"} <= set(kept)
        assert str(tmp_path) not in json.dumps(kept)

    def test_a_chapter_may_do_without_controls(self, monkeypatch):
        alone = evidence.Chapter({"grad_cam": methods.grad_cam}, [metrics.pointing_game], controls=False)
        monkeypatch.setattr(evidence, "CHAPTERS", {"01_one": alone})
        assert list(evidence.compute("01_one", "tiny_vgg", 1, progress=False).settings["rows"]) == ["grad_cam"]

    def test_scenes_take_turns(self):
        turns = [(0, 1, False), (1, 2, None), (2, 2, True), (3, 1, False), (5, 2, True)]
        for number, classes, siblings in turns:
            names = [world.CLASSES[label] for label in evidence.scene(number).labels]
            assert len(names) == classes
            if siblings is not None:
                assert (set(names) in map(set, world.SIBLINGS.values())) == siblings
        assert evidence.scene(4).seed == evidence.FIRST_SEED + 4

    def test_every_chapter_has_rows_and_columns_that_settings_can_tell(self):
        for name, chapter in evidence.CHAPTERS.items():
            assert re.fullmatch(r"0[0-9]_[a-z_]+", name) and not set(chapter.methods) & set(controls.CONTROLS)
            for function in (*chapter.methods.values(), *chapter.metrics):
                assert json.dumps(storage.describe_function(function)) and storage.sources(function)

    def test_unknown_names(self, short, tmp_path):
        for call in (evidence.stored, evidence.compute, evidence.again):
            with pytest.raises(ValueError, match="No chapter with a table is called '09'"):
                call("09", "tiny_vgg")
        with pytest.raises(ValueError, match="There are tables for tiny_vgg, tiny_resnet, not for 'vgg16'"):
            evidence.compute("01_one", "vgg16")
        with pytest.raises(FileNotFoundError, match="make evidence"):
            evidence.stored("01_one", "tiny_vgg", tmp_path)
        with pytest.raises(SystemExit, match="No chapter with a table begins with '7'"):
            tool.main(["7"])
        with pytest.raises(SystemExit):
            tool.main(["01", "--networks", "squeezenet1_1"])


@pytest.mark.real
def test_real_pictures(real):
    given = evidence.real_pictures(real)
    assert len(given) == 33
    net = evidence.load(evidence.REAL_NETWORK, real)
    columns = [metrics.energy_pointing_game, metrics.energy_in_part]
    got = metrics.table(net, [methods.grad_cam], given[:3], metrics=columns)
    assert list(got.frame["metric"].unique()) == ["energy_pointing_game", *COSTS]
    assert all(0 < value < 1 for value in values(got, "grad_cam", "energy_pointing_game"))
    assert got.settings["images"][0] == "ILSVRC2012_val_00000011"
