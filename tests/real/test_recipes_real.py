"""Every recipe from its file to its summary, on real pictures: one of them, small, and another network.

This shows that they run. It says nothing about the papers, whose networks and pictures are not here.
"""

import json

import pytest
from distributed import LocalCluster

from cambook.__main__ import main
from cambook.evaluate.plan import RECIPES, read_recipe

pytestmark = [pytest.mark.real, pytest.mark.slow]
WEIGHTS = "models/squeezenet1_1_onnxzoo-a4caa091.pth"


@pytest.fixture(scope="module")
def scheduler():
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.toml")))
def test_recipe_runs_from_end_to_end(name, scheduler, real, tmp_path):
    recipe, _ = read_recipe(name)
    size = ["--squash", "48"] if recipe.squash else ["--resize", "48", "--crop", "48"]
    if recipe.metrics.get("insertion") == {"protocol": "groupcam"}:    # whose blur needs larger pictures
        size = ["--squash", "64"]
    status = main([
        "evaluate", "--recipe", name, "--network", "squeezenet1_1", "--weights", str(real / WEIGHTS), *size,
        "--data-set", "folder", "--data", str(real / "imagenet_val"), "--images", "1", "--device", "cpu",
        "--scheduler", scheduler, "--out", str(tmp_path),
    ])  # fmt: skip
    assert status == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["results"]["pictures"] == 1 and not run["results"]["unreadable"]
    assert list(run["settings"]["methods"]) == list(recipe.methods)
    summary = (tmp_path / "summary.txt").read_text()
    assert f"NOT the recipe's experiment: network squeezenet1_1 instead of {recipe.network}" in summary
    for row in recipe.methods:
        assert (tmp_path / f"squeezenet1_1_{row}.npz").is_file()
