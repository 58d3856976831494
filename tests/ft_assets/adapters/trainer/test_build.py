from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.trainer.build import _refuse_leaks, check_devices  # pyright: ignore[reportPrivateUsage]
from ft_assets.config.load import SettingsError, load_settings
from ft_assets.config.model import DpoSettings, SftSettings
from ft_assets.graph.gates import Evidence, judge
from resources.accelerator import Compute
from resources.artifacts import Artifact
from resources.launcher import Job
from resources.releases import Releases
from resources.telemetry import read_metrics
from tests.ft_assets.adapters.tiny_llm import instruction, preference, publish_splits

# one optimizer step over every row: its loss is that of the untrained model
ONE_STEP = {"max_steps": 1, "learning_rate": 1e-4, "lora": {"dropout": 0}}


def run(job: Job) -> Artifact:
    """Train in a run folder of its own."""
    return train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{job.recipe.id}"))


def losses(artifact: Artifact) -> list[float]:
    return [record["loss"] for record in read_metrics(artifact.file("metrics.jsonl")) if "loss" in record]


@pytest.mark.slow
def test_packed_rows_have_the_same_loss_and_gradient_as_alone(lab: Any) -> None:
    splits = lab.instructions()
    alone = run(lab.sft_job(splits, **ONE_STEP, global_batch_size=12, micro_batch_size=12))
    packed = run(lab.sft_job(splits, **ONE_STEP, packing=True, global_batch_size=4, micro_batch_size=4))
    assert losses(packed) == pytest.approx(losses(alone), abs=1e-5)
    norms = [
        next(r["grad_norm"] for r in read_metrics(run.file("metrics.jsonl")) if "loss" in r) for run in (alone, packed)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert packed.summary["eval_loss_before"] == pytest.approx(alone.summary["eval_loss_before"], abs=1e-5)


def test_a_model_in_which_packed_rows_influence_each_other_is_refused(
    tiny_base: Path, tmp_path: Path, refused_codes: Any
) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=400, hidden_size=16, state_size=4, num_hidden_layers=1, time_step_rank=2)
    args = SFTConfig(str(tmp_path), packing=True, max_length=64, use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list([{"input_ids": list(range(5, 25)), "labels": list(range(5, 25))}] * 4)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    trainer = SFTTrainer(MambaForCausalLM(config), args, train_dataset=rows, processing_class=tokenizer)
    assert refused_codes(lambda: _refuse_leaks(trainer)) == {"FT-TRAIN-053"}


@pytest.mark.slow
def test_the_loss_curve_does_not_depend_on_the_micro_batch(lab: Any) -> None:
    rows = [instruction(n, context=[f"AES-{n} 的分组为 {n} 比特。" * (1 + n % 3)]) for n in range(12)]
    splits = lab.instructions(rows)
    curves = [
        losses(run(lab.sft_job(splits, micro_batch_size=micro, lora={"dropout": 0}, learning_rate=1e-3)))
        for micro in (1, 4)
    ]
    assert len(curves[0]) == 6
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", get_args(DpoSettings.model_fields["loss"].annotation))
def test_every_loss_makes_chosen_answers_gain_on_rejected_ones(trained: Any, tmp_path: Path, loss: str) -> None:
    lab, sft, _ = trained
    job = lab.dpo_job(lab.preferences(), sft, loss=loss, learning_rate=5e-3, epochs=3, micro_batch_size=4)
    summary = train.main(msgspec.structs.replace(job, run_dir=str(tmp_path))).summary
    assert summary["max_abs_adapter_delta"] > 0
    assert summary["reward_margin_after"] > max(0.1, summary["reward_margin_before"])
    assert summary.get("reward_accuracy_after", 1.0) > 0.5
    assert summary["eval_loss_after"] < summary["eval_loss_before"]


@pytest.mark.slow
def test_a_training_that_prefers_the_rejected_answers_is_blocked(trained: Any, tmp_path: Path) -> None:
    lab, sft, dpo = trained
    wrong = [preference(n, chosen=f"{n + 1} 字节", rejected=f"{n} 比特") for n in range(12)]
    right = [preference(n) for n in range(20, 24)]
    splits = publish_splits(lab.store, "preference_splits", {"train": wrong, "validation": right, "test": right})
    job = lab.dpo_job(splits, sft, learning_rate=5e-3, epochs=3)
    made = train.main(msgspec.structs.replace(job, run_dir=str(tmp_path)))
    try:
        lab.store.point(made)
        evidence = Evidence(lab.store, Releases(lab.state / "released"), None)  # pyright: ignore[reportArgumentType]
        (gate,) = (gate for gate in GATES if gate.name == "chosen_gains")
        assert gate.blocking
        assert {broken.code for broken in judge(gate, evidence).violations} == {"FT-TRAIN-060", "FT-TRAIN-061"}
    finally:
        lab.store.point(dpo)
        lab.preferences()


@pytest.mark.parametrize(
    ("code", "changes", "device", "processes"),
    [
        ("FT-TRAIN-050", {"global_batch_size": 4, "micro_batch_size": 4}, "cpu", 2),
        ("FT-TRAIN-051", {"activation_offloading": True}, "cpu", 1),
        ("FT-TRAIN-052", {}, "cuda", 64),
    ],
)
def test_settings_that_the_hardware_cannot_run_are_refused_before_anything_is_built(
    request: pytest.FixtureRequest, code: str, changes: dict[str, int], device: Any, processes: int
) -> None:
    monkeypatch, refused_codes = map(request.getfixturevalue, ("monkeypatch", "refused_codes"))
    batches = {"global_batch_size": 64, "micro_batch_size": 1}
    settings = SftSettings.model_validate({"base_model": "base", **batches, **changes})
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_RANK", str(processes - 1))
    assert refused_codes(lambda: check_devices(settings, Compute(device, "float32"))) == {code}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing (0.1) has no effect on loss `sigmoid`"),
        ({"loss": "exo_pair", "label_smoothing": 0}, "logarithm of label_smoothing"),
        ({"simpo_margin": 1}, "simpo_margin (1) has no effect on loss `sigmoid`"),
        ({"loss": "kto", "sft_weight": 1}, "sft_weight (1) has no effect on loss `kto`"),
        ({"packing": True}, "Extra inputs"),
        ({"lora": {"r": 8}}, "dpo.lora has no effect where dpo.start is `sft`"),
        ({"method": "full", "precompute_reference": False}, "a second model in memory"),
    ],
)
def test_dpo_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        DpoSettings.model_validate({"base_model": "base", **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"FT__LAUNCHER__PROCESSES": "2"}, "processes (2) needs kind `torchrun` or `ray`, not `subprocess`"),
        (
            {"FT__LAUNCHER__KIND": "torchrun", "FT__LAUNCHER__PROCESSES": "3"},
            "sft.global_batch_size (8) must be a multiple of launcher.processes (3)",
        ),
        (
            {"FT__LAUNCHER__KIND": "torchrun", "FT__LAUNCHER__PROCESSES": "2", "FT__SFT__MICRO_BATCH_SIZE": "8"},
            "sft.global_batch_size (8) must be a multiple of sft.micro_batch_size x launcher.processes (8 x 2 = 16)",
        ),
    ],
)
def test_processes_that_cannot_share_the_work_are_refused_with_both_values(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Path(__file__).parents[4] / "config.yaml", environ=environ)
    assert message in str(caught.value)


@pytest.mark.slow
def test_settings_of_the_optimizer_and_the_schedule_reach_every_step(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    groups: list[dict[str, Any]] = []
    step = torch.optim.AdamW.step

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        groups.append({name: self.param_groups[0][name] for name in ("betas", "eps", "lr")})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    changed = {"betas": [0.8, 0.95], "epsilon": 1e-6, "min_learning_rate_share": 0.25, "warmup_steps": 0}
    run(lab.sft_job(lab.instructions(), max_steps=8, learning_rate=1e-2, **changed))
    assert {(tuple(group["betas"]), group["eps"]) for group in groups} == {((0.8, 0.95), 1e-6)}
    rates = [group["lr"] for group in groups]
    assert rates[0] == pytest.approx(1e-2) and rates == sorted(rates, reverse=True)
    assert 0.25e-2 < rates[-1] < 0.4e-2


@pytest.mark.slow
def test_noise_on_the_embeddings_changes_training_and_no_evaluation(lab: Any) -> None:
    splits = lab.instructions()
    plain, noisy = (run(lab.sft_job(splits, **ONE_STEP, neftune=noise)) for noise in (None, 5.0))
    assert losses(noisy) != pytest.approx(losses(plain), abs=1e-4)
    assert noisy.summary["eval_loss_before"] == plain.summary["eval_loss_before"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_a_variant_of_lora_is_trained_recorded_continued_and_merged(lab: Any, variant: str) -> None:
    import torch

    from resources.trained_model import load_trained, read_adapter_contract

    shape = {"r": 16, "alpha": 32, "dropout": 0, variant: True}
    sft = run(lab.sft_job(lab.instructions(), lora=shape))
    contract = read_adapter_contract(sft.folder())
    assert contract.lora and getattr(contract.lora, variant)
    model: Any = load_trained(lab.base, sft.folder(), dtype=torch.float32)
    layer = next(module for name, module in model.named_modules() if name.endswith("q_proj"))
    assert layer.scaling["default"] == (32 / 4 if variant == "rslora" else 32 / 16)
    assert any("lora_magnitude_vector" in name for name, _ in model.named_parameters()) == (variant == "dora")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        adapted = model.eval()(ids).logits
        merged = model.merge_and_unload(safe_merge=True)(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    dpo = run(lab.dpo_job(lab.preferences(), sft))
    assert read_adapter_contract(dpo.folder()).lora == contract.lora
    assert dpo.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4), "the reference must be the SFT adapter"
    assert dpo.summary["max_abs_adapter_delta"] > 0
