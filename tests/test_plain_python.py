"""The library without runs: what the README of the library shows works on a folder of images."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.training
@pytest.mark.heavy
def test_the_script_of_the_readme_trains_and_ranks(tmp_path, hands):
    text = (ROOT / "clipreid_lib" / "README.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(# Stages 2a and 2b.*?)```", text, re.DOTALL).group(1)
    assert len([line for line in script.splitlines() if not line.startswith("#")]) <= 25
    assert not re.search(r"clipreid_lib\.(params|runs)|outputs", script)
    from clipreid_lib.data.datasets import load_images

    table = load_images("11k", hands)
    for row in table[table["aspect"] == "dorsal_r"].itertuples():
        place = tmp_path / "photos" / f"person {row.identity}"
        place.mkdir(parents=True, exist_ok=True)
        Image.open(hands / row.path).save(place / Path(row.path).name)
    query = min((tmp_path / "photos").glob("*/*.jpg"))
    Image.open(query).save(tmp_path / "query.jpg", quality=60)
    place = tmp_path / "script.py"
    place.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, str(place)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{query.parent.name}/" in done.stdout.splitlines()[-5]  # the most similar image is the query's own
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "photos",
        "query.jpg",
        "script.py",
    ]  # it has left nothing


def test_the_snippet_of_the_readme_scores_features_of_ones_own(tmp_path, hands, monkeypatch):
    text = (ROOT / "clipreid_lib" / "README.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(# Scores of your own features.*?)```", text, re.DOTALL).group(1)
    from clipreid_lib.data.datasets import load_images

    table = load_images("11k", hands)
    for row in table[table["aspect"] == "dorsal_r"].itertuples():
        place = tmp_path / "photos" / f"person {row.identity}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(hands / row.path, place)
    monkeypatch.chdir(tmp_path)
    people = load_images("folder", "photos")["identity"].to_numpy()
    for rows, expected in ((np.eye(people.max() + 1)[people], 1.0), (np.ones((len(people), 3)), 0.0)):
        np.save("features.npy", rows)  # one direction for each person, then one for all: ties count against it
        found: dict = {}
        exec(script, found)  # the script of our own page
        assert found["found"].summary()["rank1"] == expected
        assert set(found["manifest"].test["identity"]).isdisjoint(found["manifest"].train["identity"])


def test_the_eight_lines_of_the_readme_name_a_person(tmp_path, hands, monkeypatch):
    text = (ROOT / "clipreid_lib" / "README.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(# Whose hand.*?)```", text, re.DOTALL).group(1)
    assert len([line for line in script.splitlines() if line and not line.startswith("#")]) <= 8
    from clipreid_lib.data.datasets import load_images
    from clipreid_lib.runs import recognizer

    table = load_images("11k", hands)
    for row in table[table["aspect"] == "dorsal_r"].itertuples():
        place = tmp_path / "photos" / f"person {row.identity}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(hands / row.path, place)
    last = sorted((tmp_path / "photos").glob("*/*.jpg"))[-1]
    shutil.copy(last, tmp_path / "who.jpg")
    monkeypatch.setattr(recognizer, "project_path", lambda place: tmp_path / place)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(script, found)  # the script of our own page
    assert found["answer"].people["person"].iloc[0] == last.parent.name
    made = {"gallery.safetensors", "outputs", "photos", "sheet.png", "who.jpg"}
    assert {path.name for path in tmp_path.iterdir()} == made
    assert found["gallery"].files[0].is_relative_to(tmp_path / "outputs" / "enrolled")


@pytest.mark.parametrize("told", [None, "7"])
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(told):
    code = "import sys, clipreid_lib, os; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": told} if told else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (told or "3000")
