"""The benchmarks measure what they say. Nothing here looks at how long anything takes."""

import json
import sys

import pytest
import torch
from torch import nn

import harness
import report
import rows
import run
from harness import COPY, Contender, Row


def row(ours: dict, others: dict, ratio: str = "theirs / ours", **more) -> dict:
    """A row as it stands in the JSON."""
    results = {name: {"figures": figures, "forwards": None} for name, figures in (ours | others).items()}
    return {
        "title": "a row", "ratio": ratio, "goal": "≥ 2", "note": "", "measures": "seconds", "bytes": None,
        "ours": list(ours), "results": results,
    } | more    # fmt: skip


def test_ratio_is_of_medians_and_against_the_best_of_the_others():
    measured = row({"ours": [1, 9, 2]}, {"slow": [8, 8, 8], "quick": [6, 5, 100], COPY: [0.1, 0.1, 0.1]})
    assert report.ratio(measured, "ours") == 6 / 2
    measured["ratio"] = "ours / theirs"
    assert report.ratio(measured, "ours") == 2 / 6
    assert report.ratio(row({"ours": [1]}, {}), "ours") is None


def test_table_says_what_was_measured():
    measured = row(
        {"ours": [2.0, 1.0, 3.0]}, {"theirs": [5.0], COPY: [1.0]}, bytes=4_000_000_000, note="On a Tuesday."
    )
    measured["results"]["ours"]["forwards"] = 513
    page = report.table("name", measured)
    assert "| ours | 2 (1 to 3) | 513 | **2.50** |" in page
    assert "| theirs | 5 |  |  |" in page
    assert "4000.0 MB must move at least: 2.0 GB/s, 50% of what copying reaches." in page
    assert page.rstrip().endswith("On a Tuesday.")


@pytest.mark.parametrize("value, text", [(123.4, "123"), (12.34, "12.3"), (0.01234, "0.0123")])
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_page_says_what_was_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    found = {"date": "2026-01-01", "machine": {"device": "an abacus", "torch": "2.15"}}
    found["rows"] = {"name": row({"ours": [1.0]}, {"theirs": [2.0]})}
    (tmp_path / "cpu.json").write_text(json.dumps(found), encoding="utf-8")
    page = report.page()
    assert "an abacus; 2026-01-01; torch 2.15." in page and "**2.00**" in page
    assert page.rstrip().endswith("## CUDA\n\nNot measured.")


def test_the_stored_page_is_the_stored_figures():
    assert (report.ROOT / "BENCHMARKS.md").read_text(encoding="utf-8") == report.page()


def test_contenders_take_turns_and_the_warm_up_is_not_counted():
    log, prepared = [], []

    def contender(name):
        def prepare():
            prepared.append(name)
            return lambda: log.append(name), None

        return Contender(name, prepare)

    told = []
    found = harness.compare(
        Row("r", "", [contender("a")], [contender("b")], "theirs / ours", ""), 3, "cpu", told.append
    )
    assert prepared == ["a", "b"] and log == ["a", "b"] * 4 and told
    assert all(len(result.figures) == 3 and min(result.figures) >= 0 for result in found.values())


def test_forwards_are_images_not_calls():
    model = nn.Conv2d(3, 1, 1)

    def call():
        for size in (4, 4, 2):
            model(torch.zeros(size, 3, 2, 2))

    measured = Row("r", "", [Contender("a", lambda: (call, model))], [], "theirs / ours", "")
    assert harness.compare(measured, 1, "cpu", lambda _: None)["a"].forwards == 10
    assert not model._forward_pre_hooks


def test_a_copy_moves_as_many_bytes():
    call, model = harness.copying(80_000, "cpu").prepare()
    target = call()
    assert model is None and 2 * target.nbytes == 80_000
    measured = Row("r", "", [Contender("a", lambda: (lambda: None, None))], [], "theirs / ours", "", bytes=80)
    assert list(harness.compare(measured, 1, "cpu", lambda _: None)) == ["a", COPY]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_is_the_height_and_not_the_end():
    def prepare():
        held = torch.ones(50_000_000 // 4)    # there before, so it does not count

        def call():
            torch.ones(200_000_000 // 4)    # gone at the end
            return held

        return call, None

    assert 190 < harness.peak_megabytes(Contender("a", prepare), "cpu") < 230


def test_a_run_keeps_its_figures_and_adds_to_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "BUILD", tmp_path / "bench")
    for name in ("perturb_batch", "weighted_sum"):
        monkeypatch.setattr(sys, "argv", ["run.py", "--rows", name, "--rounds", "1"])
        run.main()
    found = json.loads((tmp_path / "bench" / "cpu.json").read_text(encoding="utf-8"))
    assert list(found["rows"]) == ["weighted_sum", "perturb_batch"] and found["machine"]["torch"]
    assert (tmp_path / "bench" / "cpu.png").read_bytes().startswith(b"\x89PNG")
    assert "plain torch" in capsys.readouterr().out


def test_poly_cam_and_its_bare_forwards_do_the_same_work():
    """All but the clean pass; of channels that are dead or equal neither asks."""
    found = harness.compare(rows.poly_cam("cpu", "tiny_vgg", 32), 0, "cpu", lambda _: None)
    assert found["cambook, exact"].forwards == found["bare forwards"].forwards + 1 > 200
    maps = torch.zeros(5, 2, 2)
    maps[1:, 0, 0] = torch.tensor([1.0, 1, 2, 3])
    maps[4, 0, 1] = 1
    assert rows.distinct(maps) == 2


def test_union_cam_asks_three_times_more_than_its_score_cam():
    """K + 5 passes against K + 2: the candidates."""
    found = harness.compare(rows.union_cam("cpu", "tiny_vgg", 32), 0, "cpu", lambda _: None)
    assert found["cambook"].forwards == found["cambook's Score-CAM"].forwards + 3 > 20


def test_increment_cam_asks_as_often_as_score_cam():
    """Without Score-CAM's baseline; with a clean pass of the small picture. At half of the side."""
    row = rows.increment_cam("cpu", "tiny_vgg", 64)
    found = harness.compare(row, 0, "cpu", lambda _: None)
    assert found["cambook"].forwards == found["cambook's Score-CAM"].forwards > 40
    call, _ = row.ours[0].prepare()
    assert call().config["phase2_used"] == (32, 32)


def test_the_memory_of_poly_cam_is_measured_alone():
    row = rows.poly_cam_memory("cpu")
    assert row.measures == "megabytes" and not row.others
