"""The command line: what can be asked, and with which options. All of the work is done elsewhere.

What a command needs is imported when it runs, so that help and completion answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...solvers.control import Method
from ..failures import CHECK_FAILED
from .terminal import DEBUG, answering, leave, messages, open_streams, results, tell

EXAMPLES = Path(__file__).parents[2] / "specs" / "examples" / "minimal"

app = typer.Typer(
    name="equipoise",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Begin with an example:
$ equipoise example rollout_budgets > spec.yaml
$ equipoise solve spec.yaml -o plan.json
$ equipoise check plan.json

Exit codes: 0 solved, 1 a check failed, 2 bad usage or a bad spec,
3 no plan can satisfy the spec, 4 no plan in time, 5 a backend failed,
130 interrupted; for several specs the largest.""",
)


def _kind_names() -> list[str]:
    """The kinds of task that have an example, which is all of them; without importing any."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line, instead of tables.")]
Whole = Annotated[bool, typer.Option("--all", help="Print every row of long tables.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"equipoise {version('equipoise')}")
        raise typer.Exit


@app.callback()
def equipoise(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="EQUIPOISE_DEBUG", help="Show the traceback of an internal error.")
    ] = False,
) -> None:
    """Balancing decisions for machine learning, each with a proof of how good it is.

    You describe a task in a YAML or JSON file, the spec. `solve` finds a plan,
    the bound that no plan can beat, and the gap between the two; `check`
    recomputes all of it without any solver.
    """
    DEBUG.set(debug)


@app.command(
    epilog="""Examples:
$ equipoise solve spec.yaml
$ equipoise solve spec.yaml --compare -o plan.json
$ equipoise solve *.yaml --json --time-limit 10 > plans.jsonl
$ equipoise example rollout_budgets | equipoise solve -"""
)
@answering
def solve(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC", help="Spec files, YAML or JSON; - reads standard input.")
    ],
    method: Annotated[
        Method,
        typer.Option(
            help="exact: search until nothing is left to gain. auto: stop at 0.1 % where it takes a search. "
            "fast: the task's own algorithm, without a search.",
        ),
    ] = "auto",
    backend: Annotated[
        str | None,
        typer.Option(help="The solver to use: highs, flow or pyomo:SOLVER; chosen by the task if absent."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop after so long, with the best plan so far.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Stop at this relative gap, such as 0.01, instead of the method's own."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the solver.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the solver.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Save plan and spec in a .json, .yaml or .safetensors file; for several specs, in a folder.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show what the plan gains over what people do today.")
    ] = False,
    json: Json = False,
    whole: Whole = False,
) -> int:
    """Find the best plan for each SPEC, and prove how good it is.

    Every plan is checked against its spec before it is shown. Ctrl-C stops a
    long solve with the best plan so far; a second Ctrl-C quits at once.
    """
    from ...solvers.control import Options
    from ...solvers.records import line
    from .documents import outcome_document
    from .interrupt import Interrupt
    from .progress import ProgressDisplay
    from .reports import print_outcome
    from .solving import Job, solve_all, targets

    job = Job(Options(method, backend, time_limit, gap, seed, threads), targets(out, specs), compare)
    console, aside, code = results(), messages(), 0
    with Interrupt() as interrupt:
        outcomes = solve_all(specs, job, interrupt, lambda: ProgressDisplay(aside, interrupt))
        for number, outcome in enumerate(outcomes):
            if json:
                print(line(outcome_document(outcome)), flush=True)
            else:
                if number:
                    console.print()
                print_outcome(outcome, console, whole)
            if outcome.failure is not None:
                tell(outcome.failure, outcome.file)
            code = max(code, outcome.code)
    return code


@app.command(
    epilog="""Examples:
$ equipoise batch specs/ -o results.jsonl
$ equipoise batch 'runs/**/*.yaml' tasks.jsonl -o results.parquet --workers 8
$ equipoise batch tasks.jsonl -o results.jsonl --resume
$ equipoise batch sweep.yaml -o sweep.jsonl --plot plots/
$ make-specs | equipoise batch - -o results.jsonl --engine ray --address auto"""
)
@answering
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, patterns, spec files, .jsonl files, Parquet tables; - reads JSON lines from standard input.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="Where results go: a .jsonl or .parquet file.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in OUT: nothing is solved twice.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume, try again what has failed.")
    ] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where specs are solved: on this machine, or on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The Ray cluster; one on this machine if absent.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes; as many as cores if absent.")
    ] = None,
    worker_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of one worker, as 4GiB; its share of half the machine's if absent."),
    ] = None,
    method: Annotated[Method, typer.Option(help="As for solve.")] = "auto",
    backend: Annotated[str | None, typer.Option(help="As for solve.")] = None,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="Of each spec; the best plan by then is its answer.")
    ] = 3600.0,
    gap: Annotated[float | None, typer.Option(metavar="SHARE", help="As for solve.")] = None,
    seed: Annotated[int, typer.Option(help="As for solve.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of each worker's solver.")] = 1,
    check_plans: Annotated[
        bool, typer.Option("--check/--no-check", help="Hold each plan against its spec, by code that shares nothing.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw the trade-offs of sweeps, as PNG and SVG.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> int:
    """Solve thousands of specs, and keep what came of each.

    Results go to OUT, a line each as soon as it is there; what fails goes to
    OUT.failures.jsonl with its file, line and reason, and stops nothing. A
    batch that was stopped, however it was, goes on with --resume. The exit
    code is that of the worst spec.
    """
    from ...solvers.control import Options
    from .batching import BatchCommand
    from .sizes import size

    options = Options(method, backend, time_limit, gap, seed, threads)
    memory = None if worker_memory is None else size("--worker-memory", worker_memory)
    command = BatchCommand(
        sources, out, options, resume, retry_failed, check_plans, engine, address, workers, memory, plot
    )
    return command.run(results(), messages(), json)


@app.command(
    epilog="""Examples:
$ equipoise check plan.json            (saved with its spec, as solve -o does)
$ equipoise check spec.yaml plan.json  (held against this very spec)"""
)
@answering
def check(
    first: Annotated[str, typer.Argument(metavar="SPEC|PLAN", help="A spec; or a plan saved with its spec.")],
    second: Annotated[str | None, typer.Argument(metavar="PLAN", help="A saved plan, if the first is a spec.")] = None,
    json: Json = False,
) -> int:
    """Recompute a saved plan's rules, objective and bound, without any solver.

    Exit code 1 means that a rule is broken, or that the certificate claims
    what does not hold.
    """
    from ...solvers.check import check as recompute
    from ...solvers.records import line, plan_document
    from .reports import print_check
    from .sources import pair

    spec, plan, file = pair(first, second)
    result = recompute(spec, plan)
    if json:
        print(line({"file": file, **plan_document(plan, spec, result)}))
    else:
        print_check(result, plan, file, results())
    return 0 if result.ok else CHECK_FAILED


@app.command(epilog="Example:\n$ equipoise show plan.json --all")
@answering
def show(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan that solve -o has saved.")],
    json: Json = False,
    whole: Whole = False,
) -> int:
    """Print a saved plan as solve does, checked if its spec was saved with it."""
    from ...solvers.check import check as recompute
    from ...solvers.records import line, plan_document
    from .reports import print_plan
    from .sources import read_bundle

    bundle = read_bundle(plan)
    result = None if bundle.spec is None else recompute(bundle.spec, bundle.plan)
    if json:
        print(line({"file": plan, **plan_document(bundle.plan, bundle.spec, result)}))
    else:
        print_plan(bundle.plan, bundle.spec, result, plan, results(), whole)
    return 0 if result is None or result.ok else CHECK_FAILED


@app.command(
    epilog="""Examples:
$ equipoise schema > equipoise.schema.json
$ equipoise schema rollout_budgets

Editors with the YAML language server complete and check a spec that begins
with the comment
# yaml-language-server: $schema=equipoise.schema.json"""
)
@answering
def schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="A kind of task; all of them if absent.", autocompletion=_kind_names),
    ] = None,
) -> int:
    """Print what a spec may say as JSON Schema, for completion in editors."""
    import json

    from ...specs.schema import json_schema

    print(json.dumps(json_schema(kind, swept=True), indent=2, allow_nan=False))
    return 0


@app.command(
    epilog="""Examples:
$ equipoise example rollout_budgets > spec.yaml
$ equipoise example rollout_budgets | equipoise solve -"""
)
@answering
def example(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind of task.", autocompletion=_kind_names)],
) -> int:
    """Print a commented spec that is ready to solve."""
    from ...specs.errors import SpecError
    from ...specs.sources import suggest

    if kind not in (names := _kind_names()):
        raise SpecError(f"there is no kind of task {kind!r}{suggest(kind, names)}")
    typer.echo((EXAMPLES / f"{kind}.yaml").read_bytes(), nl=False)
    return 0


@app.command(epilog="Example:\n$ equipoise export spec.yaml --to model.mps")
@answering
def export(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A spec file; - reads standard input.")],
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="Where to: a .mps, .lp or .nl file.")],
) -> int:
    """Write the program that a spec stands for, for other solvers to read."""
    from ...solvers.export import export as write
    from .sources import read_spec

    write(read_spec(spec), to)
    results().print(f"wrote {to}", soft_wrap=True)
    return 0


@app.command(epilog="Example:\n$ equipoise warmup")
@answering
def warmup(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="KIND", help="Kinds of task; all of them if absent.", autocompletion=_kind_names),
    ] = None,
) -> int:
    """Compile the machine code of the algorithms, once, and keep it on disk.

    Without this, the first solve of each kind on a machine takes seconds
    longer, and says so in its certificate.
    """
    from .interrupt import Interrupt
    from .progress import ProgressDisplay
    from .warming import warm_up

    with Interrupt() as interrupt:
        warm_up(kinds or _kind_names(), results(), lambda: ProgressDisplay(messages(), interrupt))
    return 0


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[OPTIONS]",
)
def serve(context: typer.Context) -> None:
    """Run the service: solves, sessions and jobs behind gRPC."""

    @answering
    def run() -> int:
        import os

        # gRPC's C library writes past every logger, usually a line for each stranger whose handshake fails. It looks
        # here when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        from .serving import serve_with

        serve_with(context.args)
        return 0

    run()


@app.command(epilog="Example:\n$ equipoise token trainer-team")
@answering
def token(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whom the token is for.")],
    json: Json = False,
) -> int:
    """Make a random token for a tenant of a server, and the line for its file of tenants."""
    from .serving import make_token

    make_token(tenant, json)
    return 0


def main() -> None:
    """Run the command line."""
    open_streams()
    try:
        app()
    except SystemExit as end:
        leave(end.code)
        raise
