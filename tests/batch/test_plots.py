"""What the picture of a sweep shows: every point, its bound, what has no plan; and nothing that runs into another."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyarrow import parquet

import equipoise as eq
from equipoise.clients.batch.layout import Layout
from equipoise.clients.batch.plots import draw, picture
from equipoise.clients.batch.swept import Swept, gather

Line = dict[str, Any]


def result(point: Mapping[str, Any], objective: float | str, bound: float | str | None = None, **more: Any) -> Line:
    certificate = {"objective": objective, "bound": objective if bound is None else bound, "gap": 0.0}
    fields = {"kind": "rollout_budgets", "name": None, "plan": {}, "certificate": certificate, "check": {"ok": True}}
    return {"file": "specs/a.yaml", "sweep": dict(point)} | fields | more


def failure(point: Mapping[str, Any], error: str = "InfeasibleError", **more: Any) -> Line:
    fields = {"kind": "rollout_budgets", "name": None, "type": error, "reason": "no", "exit_code": 3}
    return {"file": "specs/a.yaml", "sweep": dict(point)} | fields | more


def grid(
    value: Callable[..., float | None] = lambda *values: 1.0 + len(values), /, **axes: Sequence[Any]
) -> Iterator[Line]:
    """A result for each point; a failure where the value is None."""
    for values in product(*axes.values()):
        point, objective = dict(zip(axes, values, strict=True)), value(*values)
        yield failure(point) if objective is None else result(point, objective, objective * 1.1)


def one(results: Iterable[Line]) -> Swept:
    [swept] = gather(results)
    return swept


def frames(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def lines(axes: Axes, style: str) -> list[Any]:
    return [line for line in axes.lines if line.get_linestyle() == style and line.get_marker() != "x"]


def crosses(axes: Axes) -> list[float]:
    return sorted(float(x) for line in axes.lines if line.get_marker() == "x" for x in np.asarray(line.get_xdata()))


def legend(axes: Axes) -> list[str]:
    there = axes.get_legend()
    return [] if there is None else [text.get_text() for text in there.get_texts()]


def layout(**axes: Sequence[Any]) -> Layout:
    return Layout.of(one(grid(**axes)))


# -- which field is told by what -----------------------------------------------------------------------------------


def test_the_numeric_field_with_the_most_values_is_the_axis() -> None:
    assert layout(a=[1, 2], b=[1, 2, 3], c=list("wxyz")).across == "b"
    assert layout(c=list("wxyz"), a=[1, 2]).across == "a"
    assert layout(c=list("wxyz"), a=[1]).across == "c"
    assert layout(a=[1, 2, True]).along_numbers is False
    assert layout(a=[1]).across == "a"


def test_a_few_combinations_are_lines_of_one_frame_and_more_are_frames() -> None:
    few = layout(a=[1, 2, 3, 4], b=[1, 2], c=["x", "y"])
    assert (few.up, few.colours, few.frames, few.shown) == (None, ("b", "c"), (), ((),))
    more = layout(a=[1, 2, 3, 4, 5], b=[1, 2, 3], c=["x", "y", "z", "w"])
    assert (more.up, more.colours, more.frames, len(more.shown)) == (None, ("c",), ("b",), 3)


def test_two_fields_of_many_numbers_are_a_map() -> None:
    two = layout(a=list(range(10)), b=list(range(9)), c=["x", "y"])
    assert (two.across, two.up, two.colours, two.frames) == ("a", "b", (), ("c",))


def test_frames_for_which_there_is_no_room_are_counted() -> None:
    swept = one(grid(a=[1, 2], b=[f"w{number}" for number in range(15)]))
    assert Layout.of(swept).left_out == 3
    assert "3 more frames not drawn" in title(picture(swept))


# -- what is seen --------------------------------------------------------------------------------------------------


def test_a_line_goes_through_every_plan_with_the_bound_beside_it() -> None:
    figure = picture(one(grid(lambda most: most / 2, most=[64, 32, 128])))
    [axes] = frames(figure)
    [objective], [bound] = lines(axes, "-"), lines(axes, "--")
    assert objective.get_xdata().tolist() == bound.get_xdata().tolist() == [32, 64, 128]
    assert objective.get_ydata().tolist() == [16, 32, 64]
    assert bound.get_ydata() == pytest.approx([17.6, 35.2, 70.4])
    assert legend(axes) == ["bound"]
    assert figure.get_supxlabel() == "most"


def test_unit_and_sense_are_told() -> None:
    figure = picture(one(grid(most=[1, 2])))
    assert title(figure).startswith("a: expected gradient value (maximised) over most\nspecs/a.yaml · 2 points")
    assert figure.get_supylabel() == "expected gradient value"
    named = picture(one({**line, "kind": "decode_allocation", "name": "night", "line": 7} for line in grid(a=[1, 2])))
    assert title(named).startswith("night: discounted tokens (minimised) over a\nspecs/a.yaml:7 · 2 points")


def test_the_gap_is_told() -> None:
    gaps = [0.0, 0.0321]
    swept = one(result({"a": n}, 1.0, certificate={"objective": 1.0, "gap": gap}) for n, gap in enumerate(gaps))
    assert "gap at most 3.2 %" in title(picture(swept))
    assert "all proven optimal" in title(picture(one([result({"a": 1}, 1.0)])))


def test_points_without_a_plan_are_marked_at_the_foot_counted_and_break_the_line() -> None:
    swept = one(grid(lambda a: None if a in (2, 5) else float(a), a=[1, 2, 3, 4, 5]))
    figure = picture(swept)
    [axes] = frames(figure)
    assert crosses(axes) == [2, 5]
    assert lines(axes, "-")[0].get_ydata().tolist() == pytest.approx([1, math.nan, 3, 4, math.nan], nan_ok=True)
    assert "5 points, 2 without a plan (2 InfeasibleError)" in title(figure)
    assert legend(axes) == ["bound", "no plan"]


def test_crosses_stand_below_all_plans_each_line_on_its_own_height() -> None:
    figure = picture(one(grid(lambda a, b: None if a == b else 5.0 + a, a=[1, 2, 3, 4], b=[1, 2, 3])))
    [axes] = frames(figure)
    marks = [line for line in axes.lines if line.get_marker() == "x"]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in marks]
    assert len(set(heights)) == 3
    lowest = axes.transAxes.inverted().transform(axes.transData.transform((0, 6.0)))[1]
    assert 0 < min(heights) < max(heights) < lowest
    assert min(axes.get_yticks()) >= 6.0 * 0.9


def test_a_sweep_without_any_plan_says_so() -> None:
    figure = picture(one([failure({"a": 1}), failure({"a": 2}, "SolveTimeout", kind=None)]))
    [axes] = frames(figure)
    assert crosses(axes) == [1, 2]
    assert "no point has a plan" in [text.get_text() for text in axes.texts]
    assert "2 points, 2 without a plan (1 InfeasibleError, 1 SolveTimeout)" in title(figure)


def test_lines_are_told_by_colour_and_named() -> None:
    figure = picture(one(grid(a=[1, 2, 3], b=[2048, 0.5, 1], word=["x", "y"])))
    [axes] = frames(figure)
    assert legend(axes) == ["0.5, x", "0.5, y", "1, x", "1, y", "2,048, x", "2,048, y", "bound"]
    assert len({str(line.get_color()) for line in lines(axes, "-")}) == 6


def test_values_that_span_much_are_on_logarithmic_axes_with_plain_labels() -> None:
    figure = picture(one(grid(lambda a: 1000.0 / a, a=[1, 4, 16, 64, 1024])))
    [axes] = frames(figure)
    figure.draw_without_rendering()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "16", "64", "1,024"]
    [axes] = frames(picture(one(grid(lambda a: a - 1.0, a=[1, 2, 30]))))
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_values_in_equal_ratios_are_on_a_logarithmic_axis_too() -> None:
    [axes] = frames(picture(one(grid(most=[32, 64, 128]))))
    assert axes.get_xscale() == "log"
    [axes] = frames(picture(one(grid(most=[32, 64, 96]))))
    assert axes.get_xscale() == "linear"


def test_a_line_that_others_run_over_is_broader_and_the_rest_are_not() -> None:
    """Three lines, of which the first two are the same and the third is another."""
    [axes] = frames(picture(one(grid(lambda a, b: a + 10.0 * (b == 3), a=[1, 2, 4], b=[1, 2, 3]))))
    first, second, third = (line.get_linewidth() for line in lines(axes, "-"))
    assert first > second == third


def test_words_stand_beside_each_other_and_are_not_joined() -> None:
    figure = picture(one(grid(lambda word: float(len(word or "")), word=["posterior", "vip", None])))
    [axes] = frames(figure)
    assert lines(axes, "-") == []
    assert [label.get_text() for label in axes.get_xticklabels()] == ["null", "posterior", "vip"]


def test_a_map_has_a_cell_for_each_point_and_crosses_where_there_is_no_plan() -> None:
    figure = picture(one(grid(lambda a, b: None if a == b == 3 else a * b + 1.0, a=range(12), b=range(10))))
    [axes] = frames(figure)
    [mesh] = axes.collections
    heights: Any = mesh.get_array()
    assert heights.shape == (10, 12)
    assert heights[2, 5] == 11.0 and np.ma.getmaskarray(heights).sum() == 1
    assert crosses(axes) == [3.0]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("a", "b")


@pytest.mark.parametrize(
    "axes",
    [
        {"a": [1, 2, 3]},
        {"a": [1, 10**6, 2 * 10**6], "b": [1, 2]},
        {"a": [100 * 2**n for n in range(10)], "b": [1, 2, 3], "c": ["x", "y"]},
        {"a": list(range(1000, 1050)), "word": [f"a long name of an option {n}" for n in range(9)]},
        {"word": [f"option number {n}" for n in range(8)]},
        {"a": list(range(10)), "b": [10**n for n in range(9)], "c": ["x", "y", "z", "w"]},
        {"a": [-5, 0, 2.5, 2.6, 100]},
    ],
    ids=["one", "large", "many", "frames", "words", "maps", "uneven"],
)
def test_nothing_runs_into_anything(axes: dict[str, list[Any]]) -> None:
    """Labels of ticks, titles and legends, as they are drawn."""
    first = next(iter(axes.values()))[0]
    figure = picture(one(grid(lambda *values: None if values[0] == first else 7.0, **axes)))
    figure.draw_without_rendering()
    boxes = list[tuple[str, Any]]()
    for frame in frames(figure):
        for axis in (frame.xaxis, frame.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            shown = [tick.label1 for tick in ticks if tick.label1.get_visible()]
            boxes += [(label.get_text(), label.get_window_extent()) for label in shown if label.get_text()]
        boxes += [(text.get_text(), text.get_window_extent()) for text in (frame._left_title,)]  # pyright: ignore
        there = frame.get_legend()
        boxes += [("legend", there.get_window_extent())] if there is not None else []
    boxes.append((title(figure), figure._suptitle.get_window_extent()))  # pyright: ignore
    edge = figure.bbox
    for number, (name, box) in enumerate(boxes):
        assert edge.x0 - 1 <= box.x0 and box.x1 <= edge.x1 + 1 and box.y1 <= edge.y1 + 1, f"{name!r} is cut off"
        for other, beside in boxes[number + 1 :]:
            turned = "option" in name and "option" in other and len(axes) == 1  # slanted words: only their boxes meet
            assert turned or not name or not other or not box.overlaps(beside), f"{name!r} runs into {other!r}"


# -- what is read --------------------------------------------------------------------------------------------------


def test_sweeps_are_told_apart_by_file_and_line_and_the_rest_is_left() -> None:
    results = [
        result({"a": 1}, 1.0, file="b.jsonl", line=2),
        result({"a": 1}, 1.0, file="b.jsonl", line=1),
        result({"a": 2}, 1.0, file="b.jsonl", line=1),
        {name: value for name, value in result({"a": 1}, 1.0).items() if name != "sweep"},
        failure({"a": 1}, file="a.yaml"),
    ]
    found = [(swept.file, swept.line, len(swept.outcomes)) for swept in gather(results)]
    assert found == [("a.yaml", None, 1), ("b.jsonl", 1, 2), ("b.jsonl", 2, 1)]


def test_the_last_outcome_of_a_point_counts() -> None:
    [outcome] = one([failure({"a": 1}), result({"a": 1}, 1.0), result({"a": 1}, 2.0)]).outcomes
    assert (outcome.objective, outcome.failure) == (2.0, None)
    assert len(one([result({"a": 1}, 1.0), result({"a": True}, 2.0)]).outcomes) == 2


def test_numbers_that_are_not_finite_are_no_bound_and_no_objective() -> None:
    first, second = one([result({"a": 1}, 1.0, "inf"), result({"a": 2}, "-inf")]).outcomes
    assert (first.objective, first.bound, first.failure) == (1.0, None, None)
    assert second.failure == "no finite objective"


def test_a_file_is_read_with_its_failures_as_lines_and_as_a_table(tmp_path: Path) -> None:
    results = [result({"a": 1}, 1.0, 1.5), result({"a": 2}, 2.0, 2.5)]
    (tmp_path / "out.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in results))
    for out in ("out.jsonl", "out.parquet"):
        (tmp_path / f"{out}.failures.jsonl").write_text(json.dumps(failure({"a": 3})) + "\n")
    columns = [
        {**line["certificate"], "file": line["file"], "line": None, "sweep": json.dumps(line["sweep"])}
        for line in results
    ]
    columns = [{**row, "kind": "rollout_budgets", "name": None} for row in columns]
    parquet.write_table(pa.Table.from_pylist(columns), tmp_path / "out.parquet")
    assert gather(tmp_path / "out.jsonl") == gather(tmp_path / "out.parquet")
    assert [outcome.failure for outcome in one(gather_lines(tmp_path)).outcomes] == [None, None, "InfeasibleError"]


def gather_lines(folder: Path) -> Iterator[Any]:
    for file in ("out.jsonl", "out.jsonl.failures.jsonl"):
        yield from (folder / file).read_bytes().splitlines()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"sweep": ', "out.jsonl:1: is not a result of a batch"),
        ('["sweep"]', "out.jsonl:1: is not a result of a batch"),
        ('{"sweep": {"a": 1}}', "names its file and its point, got None"),
        ('{"file": "a", "line": "b", "sweep": {"a": 1}}', "names its file"),
        ('{"file": "a", "sweep": {}}', "names its file and its point"),
        ('{"file": "a", "sweep": {"a": [1]}}', r"a swept field of a is \[1\]: it must be a number"),
    ],
)
def test_what_is_no_result_is_told(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text(f"{line}\n")
    with pytest.raises(eq.SpecError, match=words):
        draw(tmp_path / "out.jsonl", tmp_path)
    with pytest.raises(eq.SpecError, match=r"nowhere\.jsonl: No such file"):
        draw(tmp_path / "nowhere.jsonl", tmp_path)


# -- what is written -----------------------------------------------------------------------------------------------


def test_each_sweep_is_a_png_and_an_svg_of_its_own_name(tmp_path: Path) -> None:
    files = [("a/b.yaml", None), ("a-b.yaml", None), ("../c.jsonl", 3), ("$x^{.yaml", None), ("/ü/" + "n" * 300, 12)]
    results = [result({"a": a}, 1.0, file=file, line=line) for file, line in files for a in (1, 2)]
    written = draw(results, tmp_path / "new" / "folder")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    stems = ["c-3", "n" * 80 + "-12", "a-b", "a-b-2", "x"]
    assert sorted(path.name for path in written) == sorted(f"{stem}.{end}" for stem in stems for end in ("png", "svg"))
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_the_same_results_in_any_order_are_the_same_files(tmp_path: Path) -> None:
    results = list(grid(lambda a, b: None if a == b else a + 2.0 * b, a=[1, 2, 3], b=[1, 2]))
    first, second = draw(results, tmp_path / "1"), draw(reversed(results), tmp_path / "2")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_names_in_any_script_and_with_signs_of_formulas_are_drawn(tmp_path: Path) -> None:
    assert len(draw([result({"a$_{": 1, "単位": "$\\frac{"}, 1.0, name="予算 $x^2 \n\\")], tmp_path)) == 2


def test_without_sweeps_there_are_no_pictures_and_no_folder(tmp_path: Path) -> None:
    assert draw([{"file": "a.yaml", "kind": "rollout_budgets"}], tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(eq.SpecError, match=r"file: cannot be a folder for pictures: .*file is a file"):
        draw([result({"a": 1}, 1.0)], tmp_path / "file")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(eq.UnsupportedError, match=r"pip install 'equipoise\[plot\]'"):
        draw([result({"a": 1}, 1.0)], tmp_path)
