"""Type hints: mypy reads the whole library and finds nothing wrong."""

import re
import subprocess
import sys
import tomllib

import pytest

from clipreid_lib.params.schema import ROOT

# What it must find wrong, or the check would be asleep: no hints, a wrong type, a value that may be None.
WRONG = """
from clipreid_lib.method.prompt_bank import PromptBank, text_logits
from clipreid_lib.runs.chain import Chain
from clipreid_lib.scores.metrics import score_similarity


def unhinted(rows):
    return rows


def mistaken(bank: PromptBank, chain: Chain) -> None:
    score_similarity(bank.sentences.tokens, 1, [])
    text_logits(bank.learned_tokens(bank.sentences.tokens), bank.sentences.tokens, "dot", 1.0)
    chain.begin_again()
"""


def test_type_checkers_of_users_see_the_types():
    """PEP 561's marker travels with the package."""
    assert (ROOT / "clipreid_lib" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["clipreid_lib"]


@pytest.mark.heavy
def test_every_function_has_hints_and_they_agree(tmp_path):
    pytest.importorskip("mypy", reason="mypy comes with the test extra: pip install -e '.[test]'")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    # One process for both. What it has learned about torch and numpy stays in .mypy_cache for the next time.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "clipreid_lib", str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert not done.stderr, done.stderr
    here = [line for line in done.stdout.splitlines() if "wrong.py:" not in line]
    assert not here, "\n" + "\n".join(here)
    found = re.findall(r"wrong\.py:.*error: .*\[([\w-]+)\]$", done.stdout, re.M)
    assert found == ["no-untyped-def", "arg-type", "arg-type", "arg-type", "attr-defined"], done.stdout
