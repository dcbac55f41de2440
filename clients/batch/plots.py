"""Sweeps as pictures: the objective over the swept fields, with the bound that no plan can beat beside it."""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...specs.certificate import OPTIMAL_GAP
from ...specs.errors import SpecError, UnsupportedError
from ...specs.saving import write_atomically
from ...specs.spec import kinds
from .layout import Layout
from .swept import Result, Swept, gather

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")

_LONGEST_NAME = 80
_LETTERS = 14
"""Characters on an inch of the title."""
_STYLE: Any = {
    "text.parse_math": False,  # a name with a dollar sign is a name
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "equipoise",  # the same results are the same file
}


def require(folder: Path) -> None:
    """Raises `UnsupportedError` without matplotlib, and `SpecError` for what can be no folder of pictures."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UnsupportedError("pictures need matplotlib: pip install 'equipoise[plot]'") from None
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise _no_folder(folder, f"{there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _no_folder(folder, f"{there} cannot be written to")


def _no_folder(folder: Path, why: str) -> SpecError:
    return SpecError(f"{folder}: cannot be a folder for pictures: {why}; name another")


def draw(results: Path | Iterable[Result], folder: Path) -> list[Path]:
    """A picture of each sweep among the results of a batch, as PNG and as SVG; the files that were written.

    results: the file of a batch, whose failures stand beside it; or its lines, failures among them. The folder is made
    where it is missing. Raises `UnsupportedError` without matplotlib, and `SpecError` for results that cannot be read
    or pictures that cannot be written.
    """
    require(folder)
    import matplotlib as mpl

    sweeps = gather(results)
    if sweeps:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _no_folder(folder, error.strerror or str(error)) from None
    written, names = list[Path](), set[str]()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that the font has not
        for swept in sweeps:
            name = _file_name(swept, names)
            figure = picture(swept)
            for suffix in FORMATS:
                written.append(folder / f"{name}.{suffix}")
                write_atomically(written[-1], _printed(figure, suffix))
    return written


def picture(swept: Swept) -> Figure:
    """The figure of one sweep."""
    from .frames import fill

    layout = Layout.of(swept)
    spec = kinds().get(swept.kind or "")
    unit = "objective" if spec is None else spec.unit or "objective"
    figure = fill(swept, layout, unit)
    sense = "" if spec is None else f" ({spec.sense}d)"
    heading = f"{swept.name or Path(swept.file).stem}: {unit}{sense} {layout.title()}"
    where = swept.file if swept.line is None else f"{swept.file}:{swept.line}"
    width = int(figure.get_figwidth() * _LETTERS)
    account = f"{where} · {_account(swept, layout.left_out)}"
    lines = [*textwrap.wrap(heading, width), *textwrap.wrap(account, width)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5)
    return figure


def _account(swept: Swept, left_out: int) -> str:
    """What came of the points, in words."""
    text = f"{len(swept.outcomes):,} points"
    if swept.failures:
        told = ", ".join(f"{count:,} {failure}" for failure, count in swept.failures.most_common())
        text += f", {swept.failures.total():,} without a plan ({told})"
    gaps = [outcome.gap for outcome in swept.solved if outcome.gap is not None]
    if gaps:
        text += f" · gap at most {_percent(max(gaps))}" if max(gaps) > OPTIMAL_GAP else " · all proven optimal"
    return text + (f" · {left_out:,} more frames not drawn" if left_out else "")


def _percent(part: float) -> str:
    return f"{100 * part:,.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def _file_name(swept: Swept, taken: set[str]) -> str:
    """A name like that of the sweep's file, which no other picture of this batch has."""
    stem = re.sub(r"[^\w.-]+", "-", swept.file.removesuffix(Path(swept.file).suffix)).strip("-.") or "sweep"
    stem = stem[-_LONGEST_NAME:] + ("" if swept.line is None else f"-{swept.line}")
    name, repeat = stem, 1
    while name in taken:
        repeat += 1
        name = f"{stem}-{repeat}"
    taken.add(name)
    return name


def _printed(figure: Figure, suffix: str) -> bytes:
    stream = BytesIO()
    undated = {"Date": None} if suffix == "svg" else {"Software": None}
    figure.savefig(stream, format=suffix, dpi=150, metadata=undated)
    return stream.getvalue()
