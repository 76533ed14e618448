"""What all pictures share: colours, letters, and how a picture becomes PNG bytes."""

import io
import math
import warnings
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Any

from msa_jax.report.page import one_line

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
# Okabe and Ito's colours, told apart with any colour vision; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
REFERENCE = "#5F6B76"  # what is compared with: a constant predictor, the diagonal
_LONGEST_LABEL = 48  # letters
_PANELS_A_ROW = 3
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#5F6B76",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.unicode_minus": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#E1E5E9",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a name may hold dollar signs
    "text.usetex": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


def png(width: float, height: float, paint: Callable[["Figure"], None]) -> bytes:
    """A picture of `width` by `height` inches, `DPI` dots each, that `paint` fills.

    The same painting gives the same bytes with the same version of matplotlib.
    """
    import matplotlib  # slow to import, and needed by few commands
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is shown as boxes: no reason to have no report.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def refuse_nothing(drawn: Sized) -> None:
    """Raises ValueError where there is nothing to draw."""
    if len(drawn) == 0:
        raise ValueError("There is nothing to draw")


def rows_and_columns(panels: int) -> tuple[int, int]:
    """A grid of at most three columns with few gaps: four panels are two by two."""
    rows = math.ceil(panels / _PANELS_A_ROW)
    return rows, math.ceil(panels / rows)


def grid(figure: "Figure", rows: int, columns: int, used: int, **options: Any) -> "list[Axes]":
    """The first `used` panels of a grid, row by row; the others are taken away."""
    panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for panel in panels[used:]:
        panel.remove()
    return panels[:used]


def legend_columns(width: float, names: Sequence[str]) -> int:
    """How many names of a legend fit side by side in `width` inches; at least one, at most four."""
    longest = max(len(label(name)) for name in names)
    return max(1, min(len(names), 4, int(width / (0.085 * longest + 0.6))))


def legend(figure: "Figure", handles: "Sequence[Artist]") -> None:
    """What the lines and colours mean, below the panels."""
    names = [str(handle.get_label()) for handle in handles]
    columns = legend_columns(figure.get_figwidth(), names)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def title(text: str) -> str:
    """A name fit to stand above one panel of several."""
    return label(text, longest=32)


def label(text: str, *, longest: int = _LONGEST_LABEL) -> str:
    """A name fit for a picture: one line, cut where it is longer than so many letters."""
    text = one_line(text)
    if len(text) > longest:
        text = f"{text[: longest - 1]}\u2026"
    # matplotlib leaves names that start with an underscore out of legends; a space no one sees
    # before it keeps them in.
    return f"\u200a{text}" if text.startswith("_") else text


def colour(index: int) -> str:
    """The colour of the system, modality or line of this index; they come round again."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """The marker of a line; eleven markers and seven colours tell 77 lines apart."""
    return MARKERS[index % len(MARKERS)]


def number(value: Any) -> float:
    """A value as a float; NaN where there is none, or it is not finite."""
    if value is None or not math.isfinite(value):
        return math.nan
    return float(value)
