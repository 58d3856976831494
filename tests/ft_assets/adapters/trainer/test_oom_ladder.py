from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ft_assets.adapters import train
from ft_assets.adapters.trainer.oom_ladder import next_rung, take_all_fallbacks
from ft_assets.config.model import SftSettings
from resources.accelerator import Device
from resources.artifacts import Artifact
from resources.telemetry import read_curves, read_metrics
from tests.ft_assets.adapters.tiny_llm import instruction

pytestmark = pytest.mark.slow

PLAIN = {"lora": {"dropout": 0.0}, "epochs": 2}  # dropout would draw other numbers for other batches


@pytest.fixture
def out_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, Any], bool]], None]:
    """Make a step raise CUDA's error after its backward pass, wherever `happens(trainer, inputs)`."""
    import torch
    from transformers import Trainer

    step = Trainer.training_step

    def arrange(happens: Callable[[Any, Any], bool]) -> None:
        def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = step(self, model, inputs, *args, **kwargs)
            if happens(self, inputs):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return loss

        monkeypatch.setattr(Trainer, "training_step", training_step)

    return arrange


def rungs(artifact: Artifact) -> list[str]:
    return [event for event in artifact.summary["events"] if "out of memory" in event]


def rows_of(inputs: Any) -> int:
    return len(inputs["input_ids"])


@pytest.fixture(scope="session")
def curve(tmp_path_factory: pytest.TempPathFactory, tiny_base: Any) -> list[float]:
    """The loss of every step of an undisturbed run."""
    from tests.ft_assets.adapters.conftest import Lab

    lab = Lab(tmp_path_factory.mktemp("undisturbed"), tiny_base)
    return read_curves(train.main(lab.sft_job(lab.instructions(), **PLAIN)).file("metrics.jsonl"))["loss"]


@pytest.mark.parametrize(("save_steps", "resumes_from"), [(2, "checkpoint-2"), (20, "no checkpoint yet")])
def test_after_a_fallback_the_loss_curve_is_the_same(
    lab: Any, curve: list[float], out_of_memory: Any, save_steps: int, resumes_from: str
) -> None:
    out_of_memory(lambda trainer, inputs: trainer.state.global_step == 3 and rows_of(inputs) > 1)
    artifact = train.main(lab.sft_job(lab.instructions(), save_steps=save_steps, **PLAIN))
    assert rungs(artifact) == [
        "step 0: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB): "
        f"micro_batch_size 1 (was 2), accumulation raised by the same factor, from {resumes_from}"
    ]
    assert read_curves(artifact.file("metrics.jsonl"))["loss"] == pytest.approx(curve, rel=2e-4)
    assert artifact.summary["steps"] == 6


def test_evaluation_that_runs_out_of_memory_takes_smaller_batches_and_training_is_the_same(
    lab: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from trl.trainer.sft_trainer import SFTTrainer

    _, sft, _ = trained
    step = SFTTrainer.prediction_step

    def prediction_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2 and rows_of(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "prediction_step", prediction_step)
    artifact = train.main(lab.sft_job(lab.instructions(), eval_steps=2))
    assert rungs(artifact) == [
        "step 2: evaluation ran out of memory (CUDA out of memory); it continues with batches of 1"
    ]
    weights = "adapter/adapter_model.safetensors"
    assert artifact.manifest.files[weights] == sft.manifest.files[weights]
    assert artifact.summary["eval_loss_after"] == pytest.approx(sft.summary["eval_loss_after"], rel=1e-2)


def test_after_the_last_fallback_the_refusal_lists_all_that_were_tried(
    lab: Any, out_of_memory: Any, refused_codes: Any
) -> None:
    out_of_memory(lambda trainer, inputs: True)
    job = lab.sft_job(lab.instructions(), **PLAIN)
    with pytest.raises(Exception, match="FT-TRAIN-033") as caught:
        train.main(job)
    for rung in ("micro_batch_size 1 (was 2)", "gradient checkpointing", "Tried to allocate", "oom.allow_shorter"):
        assert rung in str(caught.value)
    assert lab.store.versions("sft_adapter") == []


@pytest.mark.slow
def test_rows_are_left_out_only_if_the_settings_allow_it(lab: Any, out_of_memory: Any) -> None:
    rows = [instruction(n) for n in range(12)] + [instruction(12, context=["很长的段落。" * 6])]
    out_of_memory(lambda trainer, inputs: inputs["input_ids"].shape[1] > 128)
    job = lab.sft_job(lab.instructions(rows), micro_batch_size=1, gradient_checkpointing=True, **PLAIN)
    with pytest.raises(Exception, match="FT-TRAIN-033"):
        train.main(job)
    allowed = lab.sft_job(lab.instructions(rows), micro_batch_size=1, gradient_checkpointing=True,
                          oom={"allow_shorter": True}, **PLAIN)  # fmt: skip
    artifact = train.main(allowed)
    assert ["no rows longer than 128 tokens" in event for event in rungs(artifact)][-1]
    assert artifact.summary["rows"] == 12


def test_a_run_that_was_killed_keeps_its_fallbacks(lab: Any, out_of_memory: Any, stop_after: Any) -> None:
    seen: list[int] = []

    def happens(trainer: Any, inputs: Any) -> bool:
        seen.append(rows_of(inputs))
        return rows_of(inputs) > 1

    out_of_memory(happens)
    job = lab.sft_job(lab.instructions(), save_steps=2, **PLAIN)
    with stop_after(3):
        train.main(job)
    seen.clear()
    artifact = train.main(job)
    assert set(seen) == {1}
    assert len(rungs(artifact)) == 1
    assert not (lab.state / "runs/sft_adapter/ladder.json").exists(), "a published run is over"


def test_on_a_gpu_the_last_fallbacks_are_offloading_and_the_8_bit_optimizer(lab: Any, out_of_memory: Any) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("activation offloading and the 8-bit optimizer need a CUDA GPU; there is none")
    pytest.importorskip("bitsandbytes")
    out_of_memory(lambda trainer, inputs: trainer.args.optim != "paged_adamw_8bit" and trainer.state.global_step == 3)
    job = lab.sft_job(lab.instructions(), save_steps=2, oom={"allow_8bit": True}, **PLAIN)
    job.params["compute"].update(device="cuda", dtype="bfloat16")
    artifact = train.main(job)
    taken = [event.rpartition("): ")[2].split(",")[0] for event in rungs(artifact)]
    assert taken[-2:] == ["activation offloading", "8-bit paged optimizer"]
    assert artifact.summary["steps"] == 6


def test_other_errors_cause_no_fallback(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    def training_step(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train.main(lab.sft_job(lab.instructions()))
    assert not [r for r in read_metrics(lab.state / "runs/sft_adapter/metrics.jsonl") if r["phase"] == "event"]


def test_the_fallbacks_depend_on_the_hardware() -> None:
    def all_rungs(device: Device, **values: Any) -> list[str]:
        settings = SftSettings.model_validate({"base_model": "x", "global_batch_size": 12, **values})
        found: list[str] = []
        while (rung := next_rung(settings, device)) is not None:
            found.append(rung[0])
            settings = settings.model_copy(update=rung[1])
            assert settings.global_batch_size % settings.micro_batch_size == 0
        return found

    cpu = all_rungs("cpu", micro_batch_size=6)
    assert [text.split(",")[0] for text in cpu] == [
        "micro_batch_size 3 (was 6)", "micro_batch_size 1 (was 3)", "gradient checkpointing",
    ]  # fmt: skip
    gpu = all_rungs("cuda", micro_batch_size=1, max_length=512, oom={"allow_shorter": True})
    assert gpu == ["activation offloading", "no rows longer than 256 tokens", "no rows longer than 128 tokens"]


def test_a_fallback_that_changes_the_result_must_be_allowed() -> None:
    pytest.importorskip("bitsandbytes")
    at_the_end = {"base_model": "x", "micro_batch_size": 1, "activation_offloading": True}
    assert next_rung(SftSettings.model_validate(at_the_end), "cuda") is None
    allowed = SftSettings.model_validate({**at_the_end, "oom": {"allow_8bit": True}})
    assert next_rung(allowed, "cuda") == ("8-bit paged optimizer", {"optimizer": "paged_adamw_8bit"})
    assert next_rung(allowed.model_copy(update={"gradient_checkpointing": True}), "cpu") is None
    assert take_all_fallbacks(allowed, "cuda").optimizer == "paged_adamw_8bit"
    in_shards = {"base_model": "x", "micro_batch_size": 1, "sharding": "fsdp2", "oom": {"allow_8bit": True}}
    assert next_rung(SftSettings.model_validate(in_shards), "cuda") is None
