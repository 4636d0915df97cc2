"""JupyterLab in a real browser: a notebook opens, runs to its end, and shows its claims. `make test-lab`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
STATUS = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
CELLS = "Array.from(jupyterapp.shell.currentWidget.content.model.cells).filter(c => c.type === 'code')"
DONE = f"() => {STATUS} === 'idle' && {CELLS}.every(c => c.executionCount !== null)"
OUTPUTS = f"() => JSON.stringify({CELLS}.map(c => c.sharedModel.getOutputs()))"

pytestmark = [pytest.mark.lab, pytest.mark.skipif(not CHROMIUM, reason="needs chromium on the path")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab of its own, with copies of the notebooks and no settings of the user's."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    options += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={home / 'notebooks'}"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | folders, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.mark.parametrize("name", ["00_start_here", "01_likelihood_landscapes", "05_critical_momenta"])
def test_a_notebook_runs_to_its_end(lab: str, name: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{lab}/lab/tree/{name}.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_function(f"() => {STATUS} === 'idle'", timeout=60_000)
        page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(DONE, timeout=300_000)
        outputs = json.loads(page.evaluate(OUTPUTS))
        browser.close()
    assert not errors
    flat = [output for cell in outputs for output in cell]
    assert not [output for output in flat if output["output_type"] == "error"]
    mimes = {mime for output in flat for mime in output.get("data", {})}
    assert "image/png" in mimes
    assert ("application/vnd.flatlab.claims+json" in mimes) == (name != "00_start_here")
