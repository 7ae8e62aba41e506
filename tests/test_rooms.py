"""The rooms of the library: imports point one way, from the command line down to the base."""

import ast
from pathlib import Path

import clipreid_lib

LIBRARY = Path(clipreid_lib.__file__).parent
# Each room may import the rooms named before it, and nothing else. `embedded` draws the demo's hands and trains the
# small CLIP; only a run's demo data set reads from it.
ORDER = ("base", "params", "data", "clip", "embedded", "method", "scores", "pages", "runs", "__init__", "__main__")
ONLY_FROM = {"embedded": {"embedded", "runs"}}


def arrows(library: Path) -> dict[str, set[str]]:
    """Return what each module of the library imports of it, by dotted names; imports for types alone count too."""
    modules = {".".join(path.relative_to(library).with_suffix("").parts): path for path in library.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        found[name.removesuffix(".__init__")] = there = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "clipreid_lib":
                below = (node.module or "").removeprefix("clipreid_lib").lstrip(".")
                for each in node.names:
                    whole = f"{below}.{each.name}".lstrip(".")
                    there.add(whole if whole in modules or f"{whole}.__init__" in modules else below or "__init__")
    return found


def wrong_ways(found: dict[str, set[str]]) -> list[str]:
    """Name every import that points up, or into a room that is not open to it."""
    wrong = []
    for module, targets in found.items():
        room = module.partition(".")[0]
        for target in sorted(targets):
            other = target.partition(".")[0]
            if room not in ORDER or other not in (*ORDER, "__init__"):
                wrong.append(f"{module} -> {target}: no such room")
            elif other == "__init__":  # the version alone
                continue
            elif ORDER.index(other) > ORDER.index(room) or room not in ONLY_FROM.get(other, {room}):
                wrong.append(f"{module} -> {target}")
    return wrong


def circle(found: dict[str, set[str]]) -> list[str]:
    """Return the modules that import themselves by way of others; none where there is no circle."""

    def reached(name: str) -> set[str]:
        seen, left = set(), list(found[name] - {name})
        while left:
            each = left.pop()
            if each not in seen:
                seen.add(each)
                left += found.get(each, set()) - {each}
        return seen

    return sorted(name for name in found if name in reached(name))


def test_imports_point_one_way():
    assert wrong_ways(arrows(LIBRARY)) == []


def test_no_modules_import_one_another_in_a_circle():
    assert circle(arrows(LIBRARY)) == []


def test_every_module_lies_in_a_room():
    loose = {path.stem for path in LIBRARY.glob("*.py")}
    assert loose == {"__init__", "__main__"}
    rooms = {path.name for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ORDER) - {"__init__", "__main__"}


def test_a_broken_import_is_seen(tmp_path):
    for name, text in {
        "base/errors.py": "from clipreid_lib.runs import run",
        "runs/run.py": "from clipreid_lib.base import errors",
        "data/demo.py": "from clipreid_lib.embedded.hands import draw",
        "embedded/hands.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = arrows(tmp_path)
    assert sorted(wrong_ways(found)) == ["base.errors -> runs.run", "data.demo -> embedded.hands"]
    assert circle(found) == ["base.errors", "runs.run"]
