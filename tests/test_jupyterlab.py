"""Notebook 05 as a person meets it: opened in JupyterLab, run to its end, and browsed."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from clipreid_lib.params import schema
from clipreid_lib.params.read import read_yaml

NOTEBOOK = schema.ROOT / "notebooks" / "05_retrieval_visualisation.ipynb"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell stays in the page, to be read
}


@pytest.fixture
def lab(ladder, tmp_path, chromium):
    """JupyterLab, serving a copy of notebook 05 that is set to a copy of the ladder's clipid run."""
    place, made = ladder
    assert made.returncode == 0
    outputs = shutil.copytree(place / "out", tmp_path / "out", ignore=shutil.ignore_patterns(".locks"))
    given = read_yaml(place / "mine.yaml") | {"variant": "clipid", "outputs_root": str(outputs)}
    served = tmp_path / "served"
    served.mkdir()
    content = load_notebook_node(str(NOTEBOOK))
    content = parameterize_notebook(content, given)
    nbformat.write(content, served / NOTEBOOK.name)
    for name, settings in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    environment = os.environ | folders | {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += [f"--ServerApp.root_dir={served}", "--IdentityProvider.token=t"]
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=served)
    try:
        for line in server.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+/lab", line):
                break
        else:
            pytest.fail(f"JupyterLab ended with status {server.wait()}")
        yield f"{found.group()}/tree/{NOTEBOOK.name}?token=t"
    finally:
        server.terminate()
        server.stderr.close()
        server.wait(20)
        shutil.rmtree(served)


@pytest.mark.heavy
def test_notebook_05_runs_to_its_end_and_its_browser_answers(lab, ladder, chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(lab)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    page.get_by_text("| Idle").wait_for(timeout=60_000)  # the kernel is there, and no dialog asks for one
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    last = cells.nth(cells.count() - 1).locator(".jp-InputPrompt")
    deadline = 120_000
    page.wait_for_function(
        "prompt => /\\[\\d+\\]/.test(prompt.textContent)", arg=last.element_handle(), timeout=deadline
    )
    errors = page.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type$="stderr"]')
    assert errors.all_inner_texts() == []

    browser = page.locator(".jp-OutputArea .widget-vbox").first
    said, picture = browser.locator(".widget-label").last, browser.locator("img.widget-image")
    first = picture.get_attribute("src")
    assert re.fullmatch(r"1 to 4 of \d+ queries", said.inner_text())
    browser.get_by_role("button", name="next").click()  # picture and sentence arrive in messages of their own
    page.wait_for_function("one => one.textContent.startsWith('5 to 8 of ')", arg=said.element_handle(), timeout=20_000)
    page.wait_for_function("([one, old]) => one.src !== old", arg=[picture.element_handle(), first], timeout=20_000)
    browser.locator("select").first.select_option(label="easiest first")
    page.wait_for_function("one => one.textContent.startsWith('1 to 4 of ')", arg=said.element_handle(), timeout=20_000)
    photograph = next(ladder[0].glob("out/demo_hands/*/Hands/*.jpg"))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="another photograph").click()
    chooser.value.set_files(photograph)
    page.locator(".widget-label", has_text=photograph.name).wait_for(timeout=20_000)
    page.close()
