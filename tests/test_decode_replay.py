"""The decode replay: nothing is lost, the figures are what a small trace gives by hand, and the command line works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from equipoise.benchmarks import decode_replay
from equipoise.benchmarks.decode_replay import RULES, Setting, Timeline, Trace, ours, plain, replay, simulate
from equipoise.benchmarks.decode_replay.__main__ import main
from equipoise.benchmarks.decode_replay.experiments import Cell, Results, policy_named
from equipoise.benchmarks.decode_replay.report import Spread
from equipoise.solvers.baselines.decode_snapshot import Rule, Snapshot

SMALL = Setting(workers=2, slots=1, seed=0)


def random_trace(seed: int, requests: int = 200) -> Trace:
    random = np.random.default_rng(seed)
    output = random.integers(1, 20, requests)
    return Trace("made up", random.integers(1, 1000, requests), output, output)


def hold(timeline: Timeline) -> None:
    """Every request is served once, for as long as it is long, and the loads are those of who is there."""
    trace, steps = timeline.trace, len(timeline.heaviest)
    assert (timeline.admitted >= 0).all()
    assert (timeline.finished - timeline.admitted + 1 == trace.output).all()
    assert timeline.made.sum() == trace.output.sum()
    assert (timeline.joined <= timeline.admitted).all()
    load, held = np.zeros((timeline.workers, steps)), np.zeros((timeline.workers, steps), np.int64)
    for request in range(len(trace)):
        span = np.arange(timeline.admitted[request], timeline.finished[request] + 1)
        load[timeline.worker[request], span] += trace.tokens[request] + np.arange(len(span))
        held[timeline.worker[request], span] += 1
    assert (held <= timeline.slots).all()
    assert (timeline.made == held.sum(axis=0)).all()
    assert (timeline.heaviest == load.max(axis=0)).all()
    assert (timeline.total == load.sum(axis=0)).all()


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_every_request_is_served_once_and_the_tokens_add_up(name: str, full: bool) -> None:
    for seed in range(3):
        hold(simulate(random_trace(seed), RULES[name](Setting(3, 4, seed)), np.full(3, 4), full=full))


def test_ours_serves_every_request_once() -> None:
    trace = random_trace(1, 40)
    for admission in ("fifo", "window"):
        hold(simulate(trace, ours("auto", horizon=[0, 4], admission=admission)(SMALL), np.full(2, 3)))


def test_a_request_waits_in_the_pool_in_the_order_of_the_line() -> None:
    timeline = simulate(random_trace(5), RULES["FCFS"](SMALL), np.full(2, 3), pool=8)
    assert (np.diff(timeline.joined[6:]) >= 0).all()
    assert (np.diff(timeline.admitted[6:]) >= 0).all()
    assert timeline.queue.max() <= 8


def test_the_policy_sees_tokens_steps_left_and_steps_waited() -> None:
    seen: list[Snapshot] = []

    def rule(step: Snapshot) -> np.ndarray:
        seen.append(step)
        return RULES["FCFS"](SMALL)(step)

    trace = Trace("by hand", np.array([10, 20, 30, 5]), np.array([2, 1, 4, 3]), np.array([1, 7, 9, 3]))
    simulate(trace, rule, np.array([1, 1]))
    first, second = seen[:2]
    assert (first.worker.tolist(), first.tokens.tolist()) == ([0], [11])
    assert first.remaining is not None
    assert first.remaining.tolist() == [1]  # predicted to have left: any step now
    assert first.waiting_tokens.tolist() == [30, 5]
    assert first.waiting_remaining is not None
    assert first.waiting_remaining.tolist() == [9, 3]
    assert first.waited.tolist() == [1, 1]
    assert second.tokens.tolist() == [31]
    assert second.waited.tolist() == [2]


def by_hand() -> Timeline:
    """Two workers of one slot. Loads: 10 20 | 11 30 | 5 31 | 6 8; the queue runs dry at step 3."""
    trace = Trace("by hand", np.array([10, 20, 30, 5, 8]), np.array([2, 1, 2, 2, 1]))
    return simulate(trace, RULES["FCFS"](SMALL), np.array([1, 1]))


def test_the_figures_of_a_trace_worked_out_by_hand() -> None:
    timeline = by_hand()
    assert timeline.heaviest.tolist() == [20, 30, 31, 8]
    assert timeline.total.tolist() == [30, 41, 36, 14]
    assert timeline.made.tolist() == [2, 2, 2, 2]
    assert timeline.window() == (2, 3)
    fixed, token = (0.6e-3 + 35e-3) / 16, 1.005e-7
    metrics = timeline.metrics()
    assert metrics.steps == 1
    assert metrics.imbalance == 2 * 31 - 36
    assert metrics.idle == pytest.approx(1 - 36 / 62)
    assert metrics.tokens_per_second == pytest.approx(2 / (fixed + token * 31))
    assert metrics.of_limit == pytest.approx((fixed + token * 18) / (fixed + token * 31))
    assert metrics.tpot_mean == metrics.tpot_p95 == pytest.approx(fixed + token * 30.5)  # request 2: steps 1 and 2
    assert metrics.makespan == pytest.approx(4 * fixed + token * (20 + 30 + 31 + 8))
    assert (metrics.wait_p50, metrics.wait_max, metrics.wait_longest) == (2.5, 3, 3)  # requests 3 and 4
    power = 100 + 300 * (5 / 31) ** 0.7 + 400
    assert metrics.joules_per_token == pytest.approx(power * (fixed + token * 31) / 2)


def test_workers_that_start_empty_measure_from_when_the_first_queue_has_left() -> None:
    trace = Trace("by hand", np.array([10, 20, 30]), np.array([2, 1, 3]))
    timeline = simulate(trace, RULES["FCFS"](SMALL), np.array([1, 1]), pool=2, full=False)
    assert timeline.admitted.tolist() == [0, 0, 1]
    assert timeline.initial == 2
    with pytest.raises(ValueError, match="runs dry at step 1, before the last initial request leaves at step 2"):
        timeline.window()


def test_the_window_starts_at_the_same_step_for_every_policy() -> None:
    starts = {simulate(random_trace(2), RULES[name](Setting(3, 4, 0)), np.full(3, 4)).window()[0] for name in RULES}
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda step: np.full(len(step.waiting_tokens), 7), "a worker that there is not"),
        (lambda step: np.full(len(step.waiting_tokens), -2), "a worker that there is not"),
        (lambda step: np.zeros(len(step.waiting_tokens), np.int64), "more requests than it has slots"),
        (lambda step: np.full(len(step.waiting_tokens), -1), "admits nobody although all workers are idle"),
        (lambda step: np.zeros(0, np.int64), r"int64, \(0,\)"),
        (lambda step: np.full(len(step.waiting_tokens), -1.0), "float64"),
    ],
)
def test_a_wrong_plan_is_refused(rule: Rule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(random_trace(0), plain(rule)(SMALL), np.array([1, 1]))


def test_the_same_seed_draws_the_same_requests_whatever_is_predicted() -> None:
    trace = random_trace(3)
    exact, rough = trace.drawn(500, 1), trace.drawn(500, 1, "±50 %")
    assert (exact.tokens == rough.tokens).all()
    assert (exact.output == rough.output).all()
    assert exact.predicted is not None and rough.predicted is not None
    assert (exact.predicted == exact.output).all()
    assert ((rough.predicted >= 0.5 * exact.output - 0.5) & (rough.predicted <= 1.5 * exact.output + 0.5)).all()
    assert not (rough.predicted == exact.output).all()
    short = trace.drawn(500, 1, "40 % short").predicted
    assert short is not None
    assert short.tolist() == np.maximum(np.rint(0.6 * exact.output), 1).tolist()
    assert trace.drawn(500, 1, "none").predicted is None
    assert not (trace.drawn(500, 2).tokens == exact.tokens).all()


def test_a_replay_is_repeatable_but_for_its_timing() -> None:
    def figures() -> dict[str, float]:
        found = replay(random_trace(0), RULES["power of two"], 3, 4, seed=2, rounds=20).figures()
        return {name: value for name, value in found.items() if not name.startswith("decision")}

    assert figures() == figures()


def test_predictions_reach_the_rules_that_look_ahead() -> None:
    drawn = random_trace(0)
    trace = Trace("longer", drawn.tokens, drawn.output * 10)
    found = {
        foresight: replay(trace, RULES["BF-IO H=20"], 4, 4, rounds=30, foresight=foresight).imbalance
        for foresight in ("exact", "±50 %", "40 % short", "none")
    }
    blind = replay(trace, RULES["BF-IO H=0"], 4, 4, rounds=30).imbalance
    assert len(set(found.values())) == 4
    assert found["none"] == blind


def test_ours_by_fields() -> None:
    assert policy_named("FCFS") is RULES["FCFS"]
    rule: Callable[[Snapshot], np.ndarray] = policy_named("equipoise:method=auto,horizon=0/4,objective=imbalance")(
        SMALL
    )
    step = Snapshot(*(np.array(column) for column in ([1, 1], [0], [5], [3], [4, 9], [2, 2], [1, 0])))
    assert sorted(rule(step).tolist()) == [-1, 1]
    with pytest.raises(ValueError, match="no policy 'nobody'"):
        policy_named("nobody")


def test_intervals_are_students() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread.mean == 2
    assert spread.half == pytest.approx(4.303 / np.sqrt(3))
    assert Spread.of([1.0]).shown() == "1"
    assert spread.shown(digits=1) == "2.0 ±2.5"


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A folder of three small traces, with a column that is not read and a row without output."""
    for number, name in enumerate(decode_replay.TRACES.values()):
        trace = random_trace(number)
        rows = [f"{at},{tokens},{output}" for at, (tokens, output) in enumerate(zip(trace.tokens, trace.output))]  # noqa: B905
        (tmp_path / name).write_text("\n".join(["arrival_ms,input_tokens,output_tokens", *rows, "9,5,0"]))
    return tmp_path


def options(traces: Path, *more: str) -> list[str]:
    return ["--traces", str(traces), "--workers", "3", "--slots", "4", "--rounds", "12", "--seeds", "2", *more]


def test_a_trace_is_read_without_rows_that_make_no_token(traces: Path) -> None:
    assert len(decode_replay.read_trace(traces / "azure2023_conv.csv")) == 200


def test_the_command_line_prints_a_table(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(options(traces, "--trace", "azure", "r1", "--without", "equipoise"))
    shown = capsys.readouterr().out
    assert shown.count("3 workers × 4 slots") == 2
    assert all(shown.count(name) >= 2 for name in RULES)
    main(options(traces, "--trace", "azure", "--policy", "FCFS", "longest first + swaps", "--markdown"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| policy", "| ---", "| FCFS", "| longest first + swaps"]


def test_samples_are_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--trace", "azure", "--policy", "FCFS", "--seeds", "1", "--rounds", "8"])
    shown = capsys.readouterr().out
    assert "samples" in shown
    assert "FCFS" in shown


def test_the_command_line_prints_json_and_keeps_what_it_ran(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = traces / "kept.jsonl"
    chosen = "--trace", "azure", "--policy", "FCFS", "longest first + swaps", "--results", str(kept), "--json"
    main(options(traces, *chosen))
    first = json.loads(capsys.readouterr().out)
    assert len(first["replays"]) == 4
    reference = first["summaries"][1]
    assert reference["policy"] == "longest first + swaps"
    assert reference["ratios"]["imbalance"] == [1.0, 0.0]
    assert first["summaries"][0]["metrics"]["imbalance"][0] > 0
    kept.write_text(kept.read_text().replace('"imbalance": ', '"imbalance": 1'))
    main(options(traces, *chosen))
    assert json.loads(capsys.readouterr().out)["replays"][0]["imbalance"] > first["replays"][0]["imbalance"]
    assert len(Results(kept).found) == 4
    cell = Cell("azure", 3, 4, "exact", 12.0, True, "FCFS", 0)
    assert cell in Results(kept)


def test_the_frontier_is_drawn(
    traces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("equipoise.benchmarks.decode_replay.__main__.FRONTIER", ("equipoise:method=auto,horizon=0",))
    picture = traces / "frontier.png"
    main(
        options(traces, "--trace", "azure", "--policy", "FCFS", "BF-IO H=0", "--seeds", "1", "--frontier", str(picture))
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "equipoise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--policy", "nobody"], "no policy 'nobody'"),
        (["--workers", "0"], "must be at least 1"),
        (["--first-seed", "-1"], "must be at least 0"),
    ],
)
def test_bad_options_are_refused(
    traces: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options(traces, *more))
    assert message in capsys.readouterr().err


def test_a_trace_that_is_too_short_is_told_of(traces: Path) -> None:
    with pytest.raises(SystemExit, match=r"azure, 3 workers, seed 0: FCFS: the queue runs dry .* more rounds"):
        main(options(traces, "--trace", "azure", "--policy", "FCFS", "--rounds", "1"))


def test_a_missing_trace_is_named(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (traces / "azure2023_conv.csv").unlink()
    with pytest.raises(SystemExit):
        main(options(traces))
    assert "azure2023_conv.csv is not there" in capsys.readouterr().err
