"""The playground of notebook 02 in a real browser: moved by keyboard, the picture changes, fast enough to feel direct.

JupyterLab serves a copy of the notebooks, Chromium opens it, nobody touches a mouse except to run all cells.
"""

import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser

NOTEBOOK = "02_score_cam.ipynb"
LIMIT = 100  # milliseconds from the key to the picture
MOVES = 10
SECONDS_TO_START = 60
SECONDS_TO_RUN = 300  # all cells, on a machine that has other things to do
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No sandbox: as root there is none. The rest keeps the browser from asking the network for anything.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PICTURE = "img.cambook-picture"
ERROR = "application/vnd.jupyter.error"

# From a key on its way to the page to a picture that is decoded and due to be painted, by the page's own clock.
STOPWATCH = """
() => {
    window.moves = [];
    let pressed = null;
    document.addEventListener("keydown", () => { pressed = performance.now(); }, true);
    new MutationObserver(async (changes) => {
        const added = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.querySelectorAll);
        const picture = added.map((node) => node.matches("%(img)s") ? node : node.querySelector("%(img)s")).find(Boolean);
        if (!picture || pressed === null) return;
        const begin = pressed;
        pressed = null;
        await picture.decode();
        window.moves.push(performance.now() - begin);
    }).observe(document.body, { childList: true, subtree: true });
}
""" % {"img": PICTURE}


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    """JupyterLab on a free port, over a copy of the notebooks without outputs; yields its address and its token."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: on Debian, apt-get install chromium")
    pytest.importorskip("playwright", reason="needs Playwright: pip install 'cambook[test]'")
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(root / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".*"))
    strip(home / "notebooks" / NOTEBOOK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    folders = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {f"JUPYTERLAB_{name}_DIR": str(home / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
             "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'notebooks'}"],
            env=os.environ | folders | {"JUPYTER_PREFER_ENV_PATH": "1"}, cwd=home, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, home / "log")
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()  # the kernels with it
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def strip(path: Path) -> None:
    """Take the stored outputs out, so that whatever the page shows comes from this run."""
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, path)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS_TO_START:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page(lab):
    """The notebook in JupyterLab, all of its cells executed, the stopwatch running."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            address, token = lab
            page = browser.new_page(
                base_url=address, viewport={"width": 1280, "height": 1000},
                extra_http_headers={"Authorization": f"token {token}"},
            )  # fmt: skip
            page.set_default_timeout(1000 * SECONDS_TO_START)
            page.goto(f"/lab/tree/{NOTEBOOK}?token={token}", wait_until="domcontentloaded")
            run_all_cells(page)
            page.locator(PICTURE).scroll_into_view_if_needed()
            page.evaluate(STOPWATCH)
            yield page
        finally:
            browser.close()


def run_all_cells(page) -> None:
    """Through the menu, as a reader does it, and wait until the last cell has its output."""
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for()
    wait_for_kernel(page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell").last.locator(".jp-OutputArea-output")
    error = page.locator(f'[data-mime-type="{ERROR}"]')
    last.or_(error).first.wait_for(state="attached", timeout=1000 * SECONDS_TO_RUN)
    assert error.count() == 0, f"a cell failed:\n{error.first.text_content()}"


def wait_for_kernel(page) -> None:
    """Until the page is connected to a kernel; what is run before that is lost, though the page calls it idle."""
    dialog = page.locator(".jp-Dialog button.jp-mod-accept")  # a new notebook may first ask for its kernel
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS_TO_START:
        if dialog.is_visible():
            dialog.click()
        kernels = page.request.get("/api/kernels").json()
        if any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels):
            return
        page.wait_for_timeout(200)
    raise RuntimeError(f"no kernel within {SECONDS_TO_START} s, but {kernels}")


def press(page, key: str) -> str:
    """Press a key, wait until the stopwatch has seen the picture, and return what the picture says it shows."""
    before = page.evaluate("window.moves.length")
    page.keyboard.press(key)
    page.wait_for_function("count => window.moves.length > count", arg=before, timeout=10_000)
    return page.locator(PICTURE).get_attribute("alt")


def slider(page, name: str):
    return page.locator(".widget-slider", has=page.get_by_text(name, exact=True)).locator(".noUi-handle")


def test_the_slider_changes_the_picture_in_less_than_100_ms(page):
    slider(page, "scene").focus()
    first = page.locator(PICTURE).get_attribute("src")
    shown = [press(page, key) for key in ("ArrowRight", "ArrowLeft", "ArrowRight")]  # warm-up
    assert page.locator(PICTURE).get_attribute("src") != first, "the picture did not change"
    assert shown[0] == shown[2] != shown[1], "right, left, right must show the second scene, the first, the second"
    page.evaluate("window.moves = []")
    for move in range(MOVES):
        press(page, "ArrowLeft" if move % 2 == 0 else "ArrowRight")
    times = page.evaluate("window.moves")
    median = statistics.median(times)
    print(f"\nkey to picture: median {median:.0f} ms of {MOVES} moves, from {min(times):.0f} to {max(times):.0f} ms")
    assert median < LIMIT, f"{MOVES} moves took {[round(ms) for ms in times]} ms, median {median:.0f}: it must be < {LIMIT} ms"


@pytest.mark.parametrize("name", ["asked", "layer", "method"])
def test_every_choice_is_made_by_keyboard(page, name):
    slider(page, name).focus()
    before = page.locator(PICTURE).get_attribute("src")
    said = press(page, "ArrowRight")
    assert page.locator(PICTURE).get_attribute("src") != before, "the picture did not change"
    readout = page.locator(".widget-slider", has=page.get_by_text(name, exact=True)).locator(".widget-readout")
    assert f"{name} {readout.text_content()}" in said, "the picture's alt text does not name the choice"


def test_tab_goes_from_choice_to_choice(page):
    slider(page, "scene").focus()
    page.keyboard.press("Tab")
    for _ in range(3):  # a slider's number beside it can be typed in as well, and has a stop of its own
        if slider(page, "asked").evaluate("handle => handle === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("Tab does not lead from the first slider to the second")
