from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training


def run(**changes: Any) -> dict[str, Any]:
    return {
        "step_seconds": [2.0, 4.0],
        "step_cpu_seconds": [3.0, 5.0],
        "ahead_seconds": 1.0,
        "ahead_cpu_seconds": 1.0,
        "wall_seconds": 20.0,
        "cpu_seconds": 30.0,
        "peak_mib": 1000,
        "losses": [2.0, 1.0],
        "load_before": 0.5,
    } | changes


def test_rows_are_the_same_every_time_and_mixed_in_length():
    rows = training.generate(60)
    assert rows == training.generate(60)
    passages = {len(row["context"]) for row in rows}
    assert {1, 2} < passages
    answers = sorted(len(row["answer"]) for row in rows)
    assert answers[0] < 20 and answers[-1] > 200
    assert all(row["answer"] and row["question"] for row in rows)


def test_each_step_counts_with_its_best_time_and_the_reference_is_part_of_training():
    found = training.summarise([run(), run(step_seconds=[3.0, 3.0], ahead_seconds=2.0, peak_mib=900)], tokens=600)
    assert found["step_seconds"] == 2.5  # 2.0 of one run, 3.0 of the other
    assert found["training_seconds"] == 6.0
    assert found["tokens_per_second"] == 100.0
    assert found["peak_mib"] == 900


def test_a_ratio_above_one_means_that_the_other_takes_longer():
    mine, other = (training.summarise([one], 600) for one in (run(), run(step_seconds=[4.0, 8.0], losses=[2.0, 1.25])))
    ratios = training.compare({"ft-assets": mine, "TRL defaults": other})
    assert list(ratios) == ["TRL defaults"]
    assert ratios["TRL defaults"]["step_seconds"] == 2.0
    assert ratios["TRL defaults"]["largest_loss_difference"] == 0.25


@pytest.mark.slow
@pytest.mark.skipif("FT_BENCHMARKS" not in os.environ, reason="takes five minutes and 9 GB: FT_BENCHMARKS=1 runs it")
def test_the_platform_has_the_losses_of_a_tuned_script(project: Path, tmp_path: Path):
    out = tmp_path / "training.json"
    command = [sys.executable, "benchmarks/training.py", "--repeats", "1", "--sft-steps", "2", "--dpo-steps", "1"]
    subprocess.run(
        [*command, "--only", "TRL tuned as ours", "--out", str(out)],
        cwd=project,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    report = json.loads(out.read_text("utf-8"))
    for method in ("sft", "dpo"):
        assert report[method]["others_over_ours"]["TRL tuned as ours"]["largest_loss_difference"] < 5e-3
