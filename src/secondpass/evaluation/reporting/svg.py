"""matplotlib's drawings as SVG that lives inside a page: its text and colours are the page's own.

Colours are drawn as stand-ins and then named: `currentColor` for text, CSS variables for the rest, so that one
drawing suits a dark page and a light one. Text stays text.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from secondpass.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GAIN, LOSS, FIRST, SECOND, THIRD = (f"#0102{place:02x}" for place in range(1, 8))
NAMES = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    GAIN: "var(--gain)",
    LOSS: "var(--loss)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}
WIDTH = 330
TEXT_SIZE = 10.5
MARGIN = 14
POINTS_PER_INCH = 72
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secondpass",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT_SIZE,
    "axes.labelsize": TEXT_SIZE,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": TEXT_SIZE - 1,
    "ytick.labelsize": TEXT_SIZE - 1,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
}
# matplotlib's settings are global: two threads would draw in each other's style.
DRAWING = threading.Lock()


def draw(
    name: str,
    title: str,
    paint: Callable[[Axes], None],
    *,
    height: float = 230,
    width: float = WIDTH,
    top: float = 14,
    left: float = 52,
    bottom: float = 42,
) -> str:
    """Draw one plot.

    Args:
        name: what the ids inside begin with; one page may hold it once.
        title: what the plot shows, for those who do not see it.
        paint: draws on the axes it is given.
        height: in units of which ten and a half are the size of the text.
        width: in the same units.
        top: room above the axes.
        left: room for the labels of the vertical axis.
        bottom: room for those of the horizontal one.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context, rcParamsDefault
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra('matplotlib is not installed: pip install "secondpass[eval]"') from error
    stream = io.StringIO()
    with DRAWING, warnings.catch_warnings(), rc_context():
        # Fonts that this machine lacks are the reader's browser's business.
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        _apply(rcParamsDefault)
        figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)
        figure.subplots_adjust(left / width, bottom / height, 1 - MARGIN / width, 1 - top / height)
        paint(figure.add_subplot())
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), name, title)


def _apply(defaults: Any) -> None:
    import matplotlib

    # A user's matplotlibrc must not show; the backend is not ours to change.
    matplotlib.rcParams.update({key: value for key, value in defaults.items() if "backend" not in key} | STYLE)


def _inline(document: str, name: str, title: str) -> str:
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # matplotlib's own rule would hold for the whole page; the page has it for its plots.
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    # Some versions write one property, others two; the family is the page's in any case.
    body = re.sub(r"font: (?:[a-z]+ )*([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour, variable in NAMES.items():
        body = body.replace(colour, variable)
    box = re.search(r'viewBox="([^"]*)"', body)
    opening = (
        f'<svg class="plot" viewBox="{box[1] if box else ""}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{escape(title)}</title>'
    )
    return re.sub(r"\s*\n\s*", "\n", opening + body[body.index(">") + 1 :].strip())
