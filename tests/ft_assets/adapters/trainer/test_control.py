from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState, TrainingArguments

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.trainer.checkpoints import checkpoints, find_damage
from ft_assets.adapters.trainer.control import CONTROL_FILE, ControlFile, Requests, Stop, build_control
from resources.telemetry import Metrics, read_metrics

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_after_the_current_step_and_the_next_run_ends_the_same(
    lab: Any, trained: Any, at_step: Any, number: signal.Signals
) -> None:
    _, sft, _ = trained
    job = lab.sft_job(lab.instructions())
    before = signal.getsignal(number)
    at_step(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Refused, match=rf"FT-TRAIN-030.*stopped by {number.name}:.*'checkpoint-3'"):
        train.main(job)
    assert signal.getsignal(number) is before
    (kept,) = checkpoints(lab.state / "runs/sft_adapter")
    assert find_damage(kept) == []
    artifact = train.main(job)
    assert artifact.manifest.files[WEIGHTS] == sft.manifest.files[WEIGHTS]


def test_outside_a_step_a_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"FT-TRAIN-030.*SIGTERM.*no checkpoint yet"), Stop(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("unreachable")


def test_signals_are_left_alone_outside_the_main_thread(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[Any] = []

    def work() -> None:
        with Stop(tmp_path):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_the_control_file_changes_cadences_ignores_invalid_content_and_stops(lab: Any, at_step: Any) -> None:
    run = lab.state / "runs/sft_adapter"
    control = run / CONTROL_FILE
    run.mkdir(parents=True)
    control.write_text("stop: true\nsave_steps: 5")  # left from an earlier run
    job = lab.sft_job(lab.instructions(), epochs=4)  # 12 steps
    at_step(3, lambda: control.write_text("logging_steps: 2\neval_steps: 4\nsave_step: 1"))
    with pytest.MonkeyPatch.context() as patch:
        from transformers import TrainerCallback

        def end(self: Any, args: Any, state: Any, control_: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                control.write_text("logging_steps: 2\neval_steps: 4\n")
            if state.global_step == 9:
                control.write_text("stop: true")

        patch.setattr(TrainerCallback, "on_step_end", end)
        with pytest.raises(Refused, match=rf"FT-TRAIN-030.*stopped by {CONTROL_FILE}:.*'checkpoint-9'"):
            train.main(job)
    records = list(read_metrics(run / "metrics.jsonl"))
    events = [f"{r['step']} {r['event']}: {r['text'].split(': ')[-1]}" for r in records if r["phase"] == "event"]
    assert events == [
        "0 changed: save_steps is 5 from here on, was 20",
        "0 ignored: `stop` in control.yaml is older than this run and is ignored",
        "3 ignored: Extra inputs are not permitted",
        "5 changed: logging_steps is 2 from here on, was 1",
        "5 changed: eval_steps is 4 from here on, was 20",
        "9 stop: control.yaml requested a stop",
    ]
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4, 5, 6, 8]
    assert [r["step"] for r in records if "eval_loss" in r] == [0, 8]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("eval_steps: 0", "eval_steps: Input should be greater than 0"),
        ("save_steps: '5'", "save_steps: Input should be a valid integer"),
        ("stop: maybe", "stop: Input should be a valid boolean"),
        ("stop: true\nstop: false", "found duplicate key"),
        ("[1, 2]", "Input should be"),
        ("stop: [", "while parsing"),
        ("stop: 2026-13-45", "month must be"),
    ],
)
def test_an_invalid_request_is_returned_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / CONTROL_FILE).write_text(text)
    read = ControlFile(tmp_path / CONTROL_FILE).read()
    assert isinstance(read, str)
    assert reason in read


def test_the_control_file_is_read_again_only_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / CONTROL_FILE
    file = ControlFile(path)
    assert file.read() is None
    path.write_text("")
    assert file.read() == Requests()
    assert file.read() is None
    path.write_text("stop: true")
    assert file.read() == Requests(stop=True)


def test_a_stop_before_the_first_step_counts_and_one_of_an_earlier_run_does_not(tmp_path: Path) -> None:
    control = tmp_path / CONTROL_FILE
    control.write_text("stop: true")
    os.utime(control, (1, 1))
    stop, metrics = Stop(tmp_path), Metrics(tmp_path)
    callback: Any = build_control(tmp_path, metrics, stop)
    arguments, state = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState()
    callback.on_train_begin(arguments, state, None)
    assert not stop.requested_by
    control.write_text("stop: true\n")  # while the model is loaded
    callback = build_control(tmp_path, metrics, stop)
    callback.on_train_begin(arguments, state, None)
    assert stop.requested_by == CONTROL_FILE
    metrics.close()
