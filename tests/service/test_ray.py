"""Workers on a Ray cluster: they answer as those of one machine do, and losing one costs nobody a result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ruamel.yaml import YAML
from typer.main import get_command

import equipoise as eq
from equipoise.clients.cli.app import app
from equipoise.server.protocol import equipoise_pb2 as pb
from equipoise.server.protocol import wire
from equipoise.server.protocol.failures import Refused
from equipoise.server.workers import chunks_pb2, ray_cluster, ray_worker
from equipoise.server.workers.engines import open_workers
from equipoise.server.workers.pool import Workers
from equipoise.server.workers.ray_cluster import Cluster
from equipoise.server.workers.ray_slot import Slot
from equipoise.server.workers.ray_worker import RayWorker
from equipoise.server.workers.worker import WorkerLost, WorkerSettings
from equipoise.solvers.control import Options

from .running import running as serving
from .test_workers import (
    EXAMPLES,
    LONG,
    SECONDS,
    TINY,
    Begun,
    alive,
    begin,
    fails,
    hard,
    judged,
    plan_in,
    request,
    until,
)

MEMORY = 512 * 2**20
QUIET = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
Scenario = Callable[[Workers], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that is not ours: the caller has initialised Ray. Its workers have to be as quick as the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        ray.init("local", num_cpus=2, **QUIET)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def shared(cluster: None) -> Iterator[Callable[[Scenario], None]]:
    """Runs scenarios on one worker after another: each finds it in order, whatever the last one did to it."""
    with asyncio.Runner() as runner:
        workers = open_workers("ray", 1, memory=MEMORY)
        runner.run(workers.start())

        async def whole(scenario: Scenario) -> None:
            await scenario(workers)
            await until(lambda: len(workers.pids()) == 1 and workers.running == workers.waiting == 0)

        yield lambda scenario: runner.run(asyncio.wait_for(whole(scenario), SECONDS))
        runner.run(workers.stop(0.0))
    assert ray.is_initialized()


def chunk(*specs: eq.Spec[Any] | str, **options: Any) -> chunks_pb2.Chunk:
    items = [
        chunks_pb2.Item(text=spec, source="specs.jsonl", line=number)
        if isinstance(spec, str)
        else chunks_pb2.Item(document=pb.Document.FromString(b"".join(wire.spec_fields(spec))))
        for number, spec in enumerate(specs, 1)
    ]
    return chunks_pb2.Chunk(options=wire.options(Options(**options)), check=True, items=items)


def told(result: chunks_pb2.Result) -> str:
    """What became of one task, in a word or two."""
    outcome = result.WhichOneof("outcome")
    if outcome == "record":
        return result.record.status
    return outcome if outcome != "failure" else result.failure.message


def parent(pid: int) -> int:
    """The actor of a worker process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_worker_of_a_cluster_answers_as_the_library_does(shared: Callable[[Scenario], None]) -> None:
    async def scenario(workers: Workers) -> None:
        for path in EXAMPLES:
            spec = eq.load(path)
            eq.solve(spec, "exact")  # compiled here, too
            here = eq.solve(spec, "exact")
            there = plan_in(await workers.solve(request(spec, method="exact")))
            assert there == here
            kept = {"seconds"}
            assert there.certificate.model_dump(exclude=kept) == here.certificate.model_dump(exclude=kept)
            judgement = pb.CheckResponse.FromString((await workers.check(judged(spec, there)))[0])
            assert judgement.objective == eq.check(spec, here).objective and not judgement.problems

    shared(scenario)


def test_what_is_large_travels_unchanged_both_ways(shared: Callable[[Scenario], None]) -> None:
    spec = eq.ExpertAssignment(scores=np.random.default_rng(2).random((20_000, 32)), experts_per_token=2)
    asked = request(spec, method="fast")
    assert len(asked) > 50 * ray_worker.LARGE

    async def scenario(workers: Workers) -> None:
        answer = await workers.solve(asked)
        assert len(answer) > ray_worker.LARGE
        assert plan_in(answer) == eq.solve(spec, "fast")

    shared(scenario)


def test_what_cannot_be_solved_is_told_in_the_words_of_the_solve(shared: Callable[[Scenario], None]) -> None:
    impossible = eq.RolloutBudgets(prompts={"successes": [1, 2], "trials": [4, 4]}, total=1000)
    unknown = dict.fromkeys((f"field_{number}" for number in range(200)), 1)  # more problems than a status tells of
    invalid = json.dumps({"kind": "rollout_budgets", "prompts": {"successes": [1], "trials": [4]}, **unknown})
    with pytest.raises(eq.InfeasibleError) as no_plan:
        eq.solve(impossible)

    async def scenario(workers: Workers) -> None:
        lost = workers.lost
        response = pb.SolveResponse.FromString(await workers.solve(request(impossible)))
        assert response.infeasible.message == no_plan.value.message
        await fails(workers.solve(request(TINY, backend="flow")), eq.UnsupportedError, "flow")
        document = pb.SolveRequest(spec=pb.Document(json=invalid)).SerializeToString()
        await fails(workers.solve(document), eq.SpecError, r"and \d\d+ more problems")
        assert workers.lost == lost

    shared(scenario)


def test_a_chunk_is_solved_in_order_and_a_bad_task_in_it_fails_alone(shared: Callable[[Scenario], None]) -> None:
    tiny = '{"kind": "rollout_budgets", "prompts": {"successes": [1, 2], "trials": [4, 4]}, "total": %d}'
    results: list[chunks_pb2.Result] = []

    async def scenario(workers: Workers) -> None:
        await workers.solve_all(chunk(tiny % 8, "{broken", tiny % 1000, tiny % 9), results.extend)

    shared(scenario)
    assert [told(result) for result in results][::2] == ["optimal", "infeasible"]
    assert "specs.jsonl:2" in str(results[1].failure) and told(results[3]) == "optimal"


def test_progress_comes_and_a_stop_brings_the_best_plan_so_far(shared: Callable[[Scenario], None]) -> None:
    async def scenario(workers: Workers) -> None:
        lost, stop = workers.lost, asyncio.Event()
        begun = Begun()
        solving = asyncio.create_task(workers.solve(LONG, progress=begun, stop=stop))
        await until(lambda: begun.plan)
        stop.set()
        plan = plan_in(await solving)
        assert plan.certificate.stopped == "interrupted"
        assert eq.check(hard(), plan).ok
        assert workers.lost == lost

    shared(scenario)


def test_the_callers_time_is_a_limit(shared: Callable[[Scenario], None]) -> None:
    async def scenario(workers: Workers) -> None:
        plan = plan_in(await workers.solve(LONG, within=1.0))
        assert plan.certificate.stopped == "time limit"

    shared(scenario)


def test_a_caller_who_leaves_frees_the_worker(shared: Callable[[Scenario], None]) -> None:
    async def scenario(workers: Workers) -> None:
        lost, pids = workers.lost, workers.pids()
        solving = await begin(workers)
        solving.cancel()
        await fails(solving, asyncio.CancelledError)
        await until(lambda: workers.running == 0)
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"
        assert workers.lost == lost and workers.pids() == pids

    shared(scenario)


def test_a_caller_who_fails_at_a_result_gets_that_error_and_frees_the_worker(
    shared: Callable[[Scenario], None],
) -> None:
    def full(_: object) -> None:
        raise eq.ServiceError("the disk is full")

    async def scenario(workers: Workers) -> None:
        (pid,) = workers.pids()
        await fails(
            workers.solve_all(chunk(TINY, hard(), method="exact", backend="highs"), full), eq.ServiceError, "full"
        )
        await until(lambda: not alive(pid))
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"

    shared(scenario)


# -- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["actor", "process"])
def test_a_worker_that_is_killed_amid_a_chunk_costs_no_result(victim: str, shared: Callable[[Scenario], None]) -> None:
    tasks = [TINY, TINY, hard(30, 5), TINY]
    limit = {"method": "exact", "backend": "highs", "time_limit": 2.0}
    results: list[chunks_pb2.Result] = []

    async def scenario(workers: Workers) -> None:
        (pid,) = workers.pids()
        lost = workers.lost
        solving = asyncio.create_task(workers.solve_all(chunk(*tasks, **limit), results.extend))
        await until(lambda: len(results) == 2)  # the third is under way
        os.kill(parent(pid) if victim == "actor" else pid, signal.SIGKILL)
        await solving
        assert workers.lost == lost + 1 and not alive(pid)

    shared(scenario)
    assert [told(result) for result in results] == ["optimal", "optimal", "feasible", "optimal"]


def test_a_worker_that_dies_with_nothing_to_do_is_replaced(shared: Callable[[Scenario], None]) -> None:
    async def scenario(workers: Workers) -> None:
        (pid,) = workers.pids()
        os.kill(parent(pid), signal.SIGKILL)
        await until(lambda: not alive(pid) and workers.pids() not in ([], [pid]))
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"

    shared(scenario)


def test_a_task_that_needs_too_much_memory_fails_alone(shared: Callable[[Scenario], None]) -> None:
    huge = eq.ExpertAssignment(scores=np.random.default_rng(2).random((100_000, 32)), experts_per_token=2)
    results: list[chunks_pb2.Result] = []

    async def scenario(workers: Workers) -> None:
        await workers.solve_all(chunk(TINY, huge, TINY, method="exact", backend="highs"), results.extend)

    shared(scenario)
    assert [told(result) for result in results][::2] == ["optimal", "optimal"]
    assert "WORKER_OUT_OF_MEMORY" in str(results[1].failure)
    assert "the 536,870,912 bytes that a worker may take" in results[1].failure.message


def test_an_actor_that_hangs_is_lost_after_a_while(
    shared: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(workers: Workers) -> None:
        monkeypatch.setattr(ray_worker, "SILENCE", 3.0)
        solving = await begin(workers)
        (pid,) = workers.pids()
        actor = parent(pid)
        os.kill(actor, signal.SIGSTOP)
        try:
            await fails(solving, WorkerLost, "did not answer in time")
        finally:
            os.kill(actor, signal.SIGCONT)
        monkeypatch.undo()
        await until(lambda: not alive(pid))  # now that it can
        assert plan_in(await workers.solve(request(TINY))).certificate.status == "optimal"

    shared(scenario)


def test_a_node_with_another_version_is_refused_and_keeps_its_slot(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_worker, "version", lambda _: "9.9")

    async def scenario() -> None:
        with pytest.raises(Refused, match=rf"it has equipoise {eq.__version__}, and this is 9\.9; every node needs"):
            await open_workers("ray", 1).start()

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))


ELSEWHERE = """
import sys
class Nothing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "equipoise":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Nothing())
"""


def test_a_node_without_equipoise_is_refused(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE)
    there = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    actor = ray.remote(Slot).options(num_cpus=1, max_restarts=0, runtime_env=there)
    with pytest.raises(Refused, match=r"cannot run a worker: ModuleNotFoundError: No module named 'equipoise'"):
        asyncio.run(asyncio.wait_for(RayWorker.start(actor.remote(), WorkerSettings()), SECONDS))


# -- the cluster -----------------------------------------------------------------------------------------------------


def test_a_service_solves_on_a_cluster(cluster: None, tmp_path: Path) -> None:
    spec = hard(8, 2)
    with serving(tmp_path, engine="ray", worker_memory=MEMORY) as server:
        plan = eq.connect(server.address).solve(spec, method="exact", backend="highs")
        (pid,) = server.server.workers.pids()
        assert parent(pid) != os.getpid()
    assert plan == eq.solve(spec, method="exact", backend="highs")
    asyncio.run(asyncio.wait_for(until(lambda: not alive(pid)), SECONDS))
    assert ray.is_initialized()


def test_a_process_that_is_part_of_one_cluster_joins_no_other(cluster: None) -> None:
    there = ray.get_runtime_context().gcs_address
    with pytest.raises(Refused, match=rf"initialised with the cluster at {there} already, not '10\.0\.0\.1:6379'"):
        Cluster("10.0.0.1:6379", WorkerSettings())
    assert Cluster(there, WorkerSettings()).count == Cluster("auto", WorkerSettings()).count == 2


BARE = """
import asyncio, ray, sys
from equipoise.server.workers.engines import open_workers
from equipoise.server.workers.ray_cluster import Cluster
from equipoise.server.workers.worker import WorkerSettings
async def main():
    workers = open_workers("ray", 1)
    await workers.start()
    print(*workers.pids(), flush=True)
    if sys.argv[1] == "stay":
        await asyncio.sleep(600)
    other = Cluster(None, WorkerSettings())
    await workers.stop(0.0)
    print(other.count, ray.is_initialized())
    other.close()
    try:
        await other.start()
    except Exception as error:
        print(error, ray.is_initialized())
asyncio.run(main())
"""


def family(pid: int) -> set[int]:
    """The processes of a session that a process started, however deep."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = {pid}
    while more := {child for child, above in pairs if above in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_cluster_that_was_started_here_leaves_no_process(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    command = [sys.executable, "-P", "-c", BARE, "stay" if end == "kill" else "leave"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        members = family(process.pid)
        assert {pid, parent(pid)} < members
        if end == "kill":
            members = {pid, parent(pid)}  # Ray's own helpers take a minute
            process.kill()
        else:
            # The last one who uses it ends it; and Ray itself has nothing to say.
            assert process.stdout.read() == "1 True\nRay was shut down in this process False\n"
        process.wait(SECONDS)
    asyncio.run(asyncio.wait_for(until(lambda: not any(map(alive, members))), SECONDS))


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(Refused, match=r"Ray cluster at 127\.0\.0\.1:1 cannot be reached: .*refused; name the HOST"):
        Cluster("127.0.0.1:1", WorkerSettings())


def test_a_cluster_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def init(self, *_: object, **__: object) -> None:
            asyncio.run(asyncio.sleep(5.0))

        def shutdown(self) -> None:
            pass

        is_initialized = staticmethod(lambda: False)

    monkeypatch.setattr(ray_cluster, "require_ray", Endless)
    monkeypatch.setattr(ray_cluster, "CONNECTED", 0.1)
    with pytest.raises(Refused, match=r"did not answer within 0\.1 s"):
        Cluster("auto", WorkerSettings())


@pytest.mark.parametrize("address", ["nonsense", "head:", ":6379", "head:0", "head:66000", "ray://head:10001"])
def test_an_address_that_cannot_be_one_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(eq.UnsupportedError, match="HOST:PORT"):
        Cluster(address, WorkerSettings())


@pytest.mark.parametrize("how", [{"engine": "ray"}, {"engine": "ray", "address": "head:6379"}])
def test_without_ray_one_is_told_what_to_install(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(eq.UnsupportedError, match=r"engine 'ray' needs Ray .*pip install 'equipoise\[ray\]'"):
        open_workers(**how)


def test_a_service_without_ray_says_what_to_install(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['ray'] = None; from equipoise.clients.cli.app import main; main()"
    command = [sys.executable, "-P", "-c", blocked, "serve", "--engine", "ray", "--listen", "127.0.0.1:0"]
    ended = subprocess.run([*command, "--data", str(tmp_path)], capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 2
    assert "error: engine 'ray' needs Ray" in ended.stderr and "pip install 'equipoise[ray]'" in ended.stderr


def test_the_manifest_for_kubernetes_says_what_the_command_line_takes() -> None:
    manifest = Path(eq.__file__).parent / "docs" / "kuberay.yaml"
    job, claim = YAML(typ="safe").load_all(manifest.read_text("utf-8"))
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    (solvers,) = cluster["workerGroupSpecs"]
    # The fields of these types in KubeRay 1.2; the operator drops others without a word.
    assert set(spec) == {
        *("entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec")
    }
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    assert set(solvers) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], solvers)]
    head = pods[0]  # which reads what specs refer to, and writes: the workers need no disk
    assert head["containers"][0]["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    words = spec["entrypoint"].split()
    cpus = solvers["replicas"] * int(pods[1]["containers"][0]["resources"]["limits"]["cpu"])
    assert words[words.index("--workers") + 1] == str(cpus)
    known = {option for parameter in get_command(app).commands["batch"].params for option in parameter.opts}  # pyright: ignore[reportAttributeAccessIssue]
    assert {word for word in words if word.startswith("-")} < known
