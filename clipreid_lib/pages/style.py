"""The look all pictures share: theme, colours, sizes and fonts, and how a picture is saved.

Right and wrong are Okabe and Ito's blue and vermilion, which stay apart for colour-blind readers. Files are made for
print: 300 dots per inch, and fonts embedded in a PDF as outlines that journals accept (TrueType, type 42).
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from clipreid_lib.base.files import replacing

if TYPE_CHECKING:  # plots are slow to import, and who draws photographs alone needs none
    import matplotlib.pyplot as plt

RIGHT, WRONG, MISSED = "#0072b2", "#d55e00", "#757575"
INK, PALE = "#1f1f1f", "#ededed"
WIDE, HALF = (9.0, 3.2), (4.6, 3.4)  # inches: a full text width, and half of one
PRINT = 300  # dots per inch
# Families with Chinese, Japanese and Korean signs, which DejaVu Sans lacks; the first that is installed writes them.
EASTERN = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "Malgun Gothic", "PingFang SC", "Hiragino Sans GB"),
)


def use() -> None:
    """Set the theme of all figures: seaborn's white grid and its colour-blind-safe palette."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": PRINT, "pdf.fonttype": 42, "figure.autolayout": True})
    plt.rcParams["font.family"] = ["sans-serif", *_list_eastern()]


def escape(text: str) -> str:
    """Write a name from a data set so that matplotlib does not read a dollar sign as mathematics."""
    return text.replace("$", r"\$")


def draw_sentence(text: str) -> "plt.Figure":
    """Say in a figure's place why there is none."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDE[0], 0.8))
    axes.axis("off")
    axes.text(0, 0.5, text, va="center")
    return figure


def write_line(text: str) -> Image.Image:
    """Say in a picture's place why there is none."""
    face = font(28, text=text)
    canvas = Image.new("RGB", (max(1400, round(face.getlength(text)) + 32), 80), "white")
    ImageDraw.Draw(canvas).text((16, 24), text, INK, face)
    return canvas


def font(size: int, bold: bool = False, text: str = "") -> ImageFont.FreeTypeFont:
    """Return a face for a text: DejaVu Sans, which Matplotlib brings along, so that sheets look alike everywhere.

    Chinese, Japanese and Korean signs get another, where the machine has one.
    """
    if any(sign >= "\u2e80" for sign in text) and (families := _list_eastern()):
        from matplotlib.font_manager import FontProperties, findfont

        return ImageFont.truetype(findfont(FontProperties(families[0])), size)
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _list_eastern() -> list[str]:
    from matplotlib.font_manager import get_font_names

    there = set(get_font_names())
    return [family for family in EASTERN if family in there]


def save_figure(figure: "plt.Figure", path: Path) -> "plt.Figure":
    """Save a figure and hand it back for the notebook to show once."""
    import matplotlib.pyplot as plt

    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], bbox_inches="tight")
    plt.close(figure)
    return figure


def encode_half(image: Image.Image) -> bytes:
    """Encode a picture that was drawn for print as a JPEG of half its size, for a screen."""
    memory = io.BytesIO()
    image.reduce(2).save(memory, "JPEG", quality=88)
    return memory.getvalue()


def save_image(image: Image.Image, path: Path) -> Image.Image:
    """Save a drawn picture for print and hand back one of half its size for the notebook to show."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", dpi=(PRINT, PRINT), compress_level=4)  # half the time, a twentieth larger
    return image.reduce(2)
