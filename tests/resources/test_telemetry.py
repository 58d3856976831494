from __future__ import annotations

from pathlib import Path

from resources.telemetry import (
    METRICS_FILE,
    Metrics,
    Progress,
    Tail,
    describe_step,
    duration,
    emit,
    read_curves,
    read_events,
    read_metrics,
    subscribe,
)


def test_a_reader_gets_each_step_once_and_never_half_a_line(tmp_path: Path):
    tail = Tail(tmp_path / METRICS_FILE)
    metrics = Metrics(tmp_path)
    metrics.log("train", 1, 3, loss=2.5)
    assert [record["loss"] for record in tail.new()] == [2.5]
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"phase": "train", "st')
        stream.flush()
        assert tail.new() == []
        assert [record["step"] for record in read_metrics(tmp_path / METRICS_FILE)] == [1]
        stream.write('ep": 2, "total": 3, "loss": 2.0}\n')
    assert [record["loss"] for record in tail.new()] == [2.0]


def test_a_reader_that_starts_after_a_killed_run_reads_the_next_run_whole(tmp_path: Path):
    Metrics(tmp_path).log("train", 1, 3, loss=2.5)
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"phase": "train", "st')  # the process was killed here
    tail = Tail(tmp_path / METRICS_FILE)
    Metrics(tmp_path).log("train", 2, 3, loss=2.0)
    assert [record["loss"] for record in tail.new()] == [2.0]


def test_a_step_is_described_with_its_metrics_its_rate_and_the_time_left():
    record = {"phase": "train", "step": 4, "total": 10, "seconds": 90.0, "seconds_per_step": 2.5, "loss": 1.25}
    text, metrics = describe_step(record)
    assert text == "train · loss 1.25 · 2.5 s/step · 15 s left"
    assert metrics == {"loss": 1.25}


def test_the_rate_counts_only_the_time_of_its_own_phase(tmp_path: Path):
    metrics = Metrics(tmp_path)
    for step in (1, 2):
        metrics.log("train", step, 2, loss=1.0)
    first, second = read_metrics(tmp_path / METRICS_FILE)
    assert "seconds_per_step" not in first
    assert second["seconds_per_step"] < 1


def test_a_file_that_was_started_again_is_read_from_its_beginning(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    Metrics(tmp_path).log("train", 100, 100, loss=1.0, grad_norm=2.0)
    tail = Tail(path)
    path.unlink()
    assert tail.new() == []
    Metrics(tmp_path).log("train", 1, 100)
    assert [record["step"] for record in tail.new()] == [1]


def test_listeners_are_called_until_they_unsubscribe():
    heard: list[Progress] = []
    leave = subscribe(heard.append)
    emit(Progress(asset="a", kind="start"))
    leave()
    emit(Progress(asset="b", kind="start"))
    assert [progress.asset for progress in heard] == ["a"]


def test_a_step_done_again_after_going_back_counts_once_on_a_curve(tmp_path: Path):
    metrics = Metrics(tmp_path)
    for step, loss in ((1, 3.0), (2, 2.0), (3, 9.0)):
        metrics.log("train", step, 3, loss=loss)
    metrics.log("eval", 3, 3, eval_loss=1.5)
    metrics.event("resume", 1, "goes on from checkpoint-1")
    for step, loss in ((2, 2.5), (3, 1.0)):
        metrics.log("train", step, 3, loss=loss)
    path = tmp_path / METRICS_FILE
    assert read_curves(path) == {"loss": [3.0, 2.5, 1.0], "eval_loss": [1.5]}
    assert read_events(path) == ["step 1: goes on from checkpoint-1"]
    assert describe_step(list(read_metrics(path))[4]) == ("goes on from checkpoint-1", {})


def test_half_a_line_of_a_killed_process_is_removed_before_the_next_line(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    path.write_text('{"phase": "train", "step": 1, "total": 2, "loss": 2.0}\n{"phase": "tr')
    Metrics(tmp_path).log("train", 2, 2, loss=1.0)
    assert [record["loss"] for record in read_metrics(path)] == [2.0, 1.0]


def test_a_duration_has_its_unit():
    assert [duration(s) for s in (4.2, 59.4, 187, 3727)] == ["4.2 s", "59 s", "3 min 07 s", "1 h 02 min"]
