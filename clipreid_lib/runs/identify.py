"""`clipreid identify`: whose hand is on these photographs? `clipreid forget`: take a person out of kept galleries."""

import json
from pathlib import Path

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.pages.identified import tabulate
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs.recognizer import Recognizer
from clipreid_lib.scores.enrolled import Gallery

OUT = "outputs/identify"  # sheets show hands, so they lie where git looks away


def ask(
    run: str, photographs: list[str], gallery: str | None, top: int, fpir: float, together: bool, as_json: bool,
    out: str | None, again: bool,
) -> None:  # fmt: skip
    """Print whom photographs show, and write sheets and a page; arguments as `clipreid identify --help` explains them.

    Raises:
        UserError: as :meth:`Recognizer.load`, :meth:`Recognizer.enrol`, :meth:`Recognizer.identify`.
    """
    recognizer = Recognizer.load(run)
    for name in photographs:
        if Path(name).is_dir():
            raise UserError(f"{name}: is a folder; give photographs, such as {name.rstrip('/')}/*.jpg")
    enrolled = recognizer.enrol(gallery, again)
    answer = recognizer.identify(photographs, enrolled, top, fpir, together)
    folder = Path(out) if out else project_path(OUT)
    written = answer.write(folder)
    kept = enrolled.files[0]
    if as_json:
        files = {"sheets": [path.name for path in written[:-1]], "page": written[-1].name}
        print(json.dumps(answer.to_dict() | files, indent=2, ensure_ascii=False))
        return
    holds = enrolled.describe()
    print(f"gallery: kept in {kept}, {holds['holds']}")
    for one in answer.searches:
        print(f"\n{', '.join(one.asked)}: {one.verdict}", *one.notes, sep="\n")
        print(tabulate(one).to_string(index=False))
    print("", *answer.list_notes(), *(f"written: {path}" for path in written), sep="\n")


def forget(person: str, files: list[str]) -> None:
    """Remove a person from kept galleries, and print for each file what went and what stays.

    Raises:
        UserError: a file is no gallery, or no file has the person: then none is changed. A file cannot be written: then
            those before it are.
    """
    galleries = {file: Gallery.load(file) for file in files}
    having = [file for file, gallery in galleries.items() if person in gallery.names]
    for file in having or files[:1]:  # the first one offers the nearest names
        gallery = galleries[file]
        before = len(gallery)
        gallery.forget(person)
        holds = gallery.describe()
        gone = counted(before - len(gallery), "image")
        print(f"{file}: {gone} of {person} removed; {holds['images']:,} images of {holds['people']:,} people stay")
    print("Sheets and copies made of a gallery, and the photographs themselves, are not touched.")
    print(f"Whoever enrols these photographs again enrols {person} again, as --again does: delete them first.")
