"""Notebook 05's question with a photograph of one's own: whose hand is it? In JupyterLab, any file may be uploaded."""

from dataclasses import dataclass
from typing import Any

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.photographs import open_rgb
from clipreid_lib.pages import choices, style
from clipreid_lib.pages.browser import can_click
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs.answer import Answer
from clipreid_lib.runs.recognizer import Recognizer
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.sources import split_source
from clipreid_lib.scores.enrolled import Gallery

FPIR = 0.1  # of searches for strangers: the most among the rates learned, which even a test of fifty people supports


def ask(run: Run, ranking: Ranking) -> Any:
    """Ask a gallery with a photograph, as ``photograph`` and ``gallery_root`` in the run's params say.

    Args:
        run: an evaluated run.
        ranking: its own; a query of it, drawn at random, asks where ``photograph`` is null.

    Returns:
        The answer, whose sheet is then ``figures/who_is_it.png``; in JupyterLab, below a button that uploads another
        photograph. Nothing where a line is printed that says why nobody can be asked.
    """
    photograph, root = run.params.photograph, run.params.gallery_root
    query = ranking.query["path"].iloc[choices.choose_random(ranking, run.params.seed)[0]]
    try:
        recognizer = Recognizer.load(run.folder)
        gallery = _enrol(recognizer, root)
        asked = project_path(photograph) if photograph else run.data_root / query
        answer = recognizer.identify(asked, gallery, fpir=FPIR)
    except UserError as error:
        print(error)
        return None
    style.save_image(answer.draw(), run.figure("who_is_it.png"))
    return Upload(recognizer, gallery, answer).box if can_click() else answer


def _enrol(recognizer: Recognizer, root: str | None) -> Gallery:
    """Enrol a source, or the test gallery: what was kept of it, so that whoever was forgotten stays so, if it fits."""
    if root:
        return recognizer.enrol(_from_project(root))
    try:
        return recognizer.enrol()
    except UserError:  # the run was trained again since, or a photograph was replaced
        return recognizer.enrol(again=True)


def _from_project(source: str) -> str:
    """Let a source's folder start from the project, as all paths of params do."""
    *_, folder = split_source(source)
    return source.removesuffix(folder) + str(project_path(folder))


@dataclass
class Upload:
    """A button that uploads a photograph, and what the gallery answers to it, both in ``box``."""

    recognizer: Recognizer
    gallery: Gallery
    answer: Answer

    def __post_init__(self) -> None:
        """Build the button and show the first answer."""
        import ipywidgets as widgets  # here: optional

        self.button = widgets.FileUpload(accept="image/*", description="another photograph")
        self.button.layout.width = "auto"
        self.button.observe(self._ask, "value")
        self.status, self.shown = widgets.Label(), widgets.HTML(self.answer._repr_html_())
        self.box = widgets.VBox([widgets.HBox([self.button, self.status]), self.shown])

    def _ask(self, change: Any) -> None:
        for file in change["new"]:  # none where the button is emptied
            try:
                image = open_rgb(file["name"], max(self.recognizer.backbone.image_size), bytes(file["content"]))
                self.shown.value = self.recognizer.identify(image, self.gallery, fpir=FPIR)._repr_html_()
                self.status.value = file["name"]
            except UserError as error:  # say so and leave the answer as it is
                self.status.value = str(error)
