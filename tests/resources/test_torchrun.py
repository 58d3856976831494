import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from resources import accelerator, torchrun
from resources.artifacts import ArtifactStore, Recipe
from resources.dagster_resources import LauncherResource
from resources.launcher import job_environment

REPOSITORY = Path(__file__).parents[2]


def test_a_single_process_is_the_main_one_and_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (torchrun.rank(), torchrun.local_rank(), torchrun.world_size()) == (0, 0, 1)
    assert torchrun.is_main()
    torchrun.wait_for_all()
    assert torchrun.gather("value") == ["value"]


@pytest.mark.parametrize(
    ("setting", "environment", "threads"),
    [
        ((8, 1), None, "8"),
        ((8, 2), None, "4"),
        ((1, 2), None, "1"),
        ((8, 2), "3", "4"),
        ((8, 2), "4", "4"),
        ((None, 2), "3", "3"),
    ],
)
def test_threads_are_shared_and_the_setting_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    setting: tuple[int | None, int],
    environment: str | None,
    threads: str,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert job_environment(*setting)["OMP_NUM_THREADS"] == threads
    assert ("is not used" in caplog.text) is (environment is not None and environment != threads)


def test_one_process_gets_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert torchrun.gpu_environment(1) == {"CUDA_VISIBLE_DEVICES": "3"}
    assert torchrun.gpu_environment(2) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert torchrun.gpu_environment(1) == {}
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert torchrun.visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(torchrun.visible_gpus()) == len(accelerator.gpus())


def test_the_command_starts_the_worker_on_its_job_and_logs_each_rank_in_the_run_folder() -> None:
    command = torchrun.torchrun_command("ft_assets.adapters.train", Path("/runs/a/job.json"), 2)
    assert command[0] == sys.executable
    assert command[-4:] == ["-m", "ft_assets.adapters.train", "--job", "/runs/a/job.json"]
    assert command[command.index("--nproc-per-node") + 1] == "2"
    assert command[command.index("--log-dir") + 1] == "/runs/a/ranks"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
@pytest.mark.parametrize(
    ("launcher", "rank", "ends"), [("parent", None, False), ("another", None, True), ("grandparent", "0", False)]
)
def test_a_worker_whose_launcher_ended_before_it_registered_ends_at_once(
    launcher: str, rank: str | None, ends: bool
) -> None:
    pids = {"parent": os.getpid(), "another": 2**22 + 1, "grandparent": os.getppid()}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), torchrun.LAUNCHER: str(pids[launcher])}
    if rank:
        environment["RANK"] = rank
    code = "from resources import torchrun; torchrun.end_with_parent()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == (-signal.SIGTERM if ends else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_rank_ends_with_its_parent() -> None:
    child = (
        "import time; from resources import torchrun as t; t.end_with_parent(); print('', flush=True); time.sleep(60)"
    )
    parent = f"""
import subprocess, sys
process = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", parent], env=environment, capture_output=True, text=True, check=True)
    rank = Path("/proc") / done.stdout.strip() / "cmdline"
    deadline = time.monotonic() + 5
    while rank.exists() and rank.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not rank.exists() or not rank.read_bytes(), "gone, or waiting to be buried"


_WORKER = """
import os
from resources import torchrun
from resources.launcher import run_worker
def main(job):
    if torchrun.world_size() > 1:
        import torch.distributed
        torch.distributed.init_process_group("gloo")
    ranks = torchrun.gather(torchrun.rank())
    if torchrun.is_main():
        with job.artifacts().stage(job.recipe) as staging:
            (staging.path / "threads.txt").write_text(os.environ["OMP_NUM_THREADS"])
            staging.publish({"ranks": ranks})
    torchrun.wait_for_all()
    return job.published()
if __name__ == "__main__":
    run_worker(main)
"""


@pytest.mark.slow
def test_a_distributed_worker_runs_as_several_processes_and_any_other_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_ranks.py").write_text(_WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    @dg.asset
    def both(context: dg.AssetExecutionContext, launcher: LauncherResource) -> dg.MaterializeResult[None]:
        launcher.run(context, "toy_ranks", Recipe("several", "1"), {}, distributed=True)
        launcher.run(context, "toy_ranks", Recipe("alone", "1"), {})
        return dg.MaterializeResult()

    launcher = LauncherResource(state_dir=str(tmp_path / "state"), kind="torchrun", processes=2, threads=2)
    assert dg.materialize([both], resources={"launcher": launcher}).success
    store = ArtifactStore(tmp_path / "state" / "artifacts")
    (several,), (alone,) = store.versions("several"), store.versions("alone")
    assert several.summary["ranks"] == [0, 1]
    assert several.file("threads.txt").read_text() == "1"
    assert alone.summary["ranks"] == [0]
    assert alone.file("threads.txt").read_text() == "2"
    run = tmp_path / "state" / "runs" / "several" / several.recipe_id
    assert {path.name for path in run.glob("*.log")} == {"training.log", "rank-1.log"}
    assert len(list(run.glob("ranks/**/stderr.log"))) == 2
