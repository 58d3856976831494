"""KTO on a tiny base: it learns, it equals TRL's, and neither micro-batch nor interruption changes its result."""

# datasets, torch, transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.rows.tokenise import prompt_messages
from ft_assets.graph.gates import Evidence, judge
from resources.artifacts import Artifact
from resources.qdrant import QdrantEngine
from resources.releases import Releases
from resources.telemetry import read_curves, read_metrics
from tests.ft_assets.adapters.tiny_llm import PROMPT, preference, publish_json, verdict

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"
KTO = {"loss": "kto", "learning_rate": 5e-3, "epochs": 4}
MOSTLY_GOOD = [verdict(n, n % 4 != 0) for n in range(12)]
"""Rows on which all answers become likelier, so that the KL term is above 0."""


@pytest.fixture
def kto(trained: Any, tmp_path: Path) -> Callable[..., Artifact]:
    """A function that trains KTO from the session's SFT adapter in a run folder of its own."""
    lab, sft, _ = trained

    def run(splits: Any = None, **settings: Any) -> Artifact:
        job = lab.dpo_job(splits or lab.verdicts(), sft, **{**KTO, **settings})
        return train.main(msgspec.structs.replace(job, run_dir=str(tmp_path / job.recipe.id)))

    return run


def curve(artifact: Artifact, name: str) -> list[float]:
    return read_curves(artifact.file("metrics.jsonl"))[name]


def test_desirable_answers_gain_on_undesirable_ones_and_every_gate_passes(
    trained: Any, kto: Callable[..., Artifact]
) -> None:
    lab, _, dpo = trained
    made = kto([lab.preferences(), lab.verdicts()])
    try:
        lab.store.point(made)
        summary = made.summary
        assert (summary["rows"], summary["validation_rows"]) == (12 + 2 * 12, 6 + 2 * 4), "a pair is two rows"
        assert summary["eval_loss_before"] == pytest.approx(0.5, abs=1e-4), "the reference must be the SFT adapter"
        assert summary["eval_loss_after"] < summary["eval_loss_before"]
        assert summary["reward_margin_before"] == pytest.approx(0.0, abs=1e-3)
        assert summary["reward_margin_after"] > 0.05
        assert summary["max_abs_adapter_delta"] > 0
        assert {"kl", "rewards/chosen", "rewards/rejected"} <= read_curves(made.file("metrics.jsonl")).keys()
        publish_json(lab.store, "answer_settings", "settings.json", {})
        engine = QdrantEngine("local", lab.state / "qdrant", None, "passages", None, 1.0)
        evidence = Evidence(lab.store, Releases(lab.state / "released"), engine)
        for gate in GATES:
            if gate.asset == "dpo_adapter":
                assert judge(gate, evidence).violations == [], gate.name
        (judged,) = (gate for gate in made.json("preflight.json")["gates"] if gate["name"] == "pairs_differ")
        assert judged["figures"] == {
            "desirable": 18, "undesirable": 18, "desirable_weight": 1.0, "undesirable_weight": 1.0,
            "answers_of_both_verdicts": 0,
        }  # fmt: skip
    finally:
        lab.store.point(dpo)


def test_the_micro_batch_changes_no_figure(trained: Any, kto: Callable[..., Artifact]) -> None:
    lab, _, _ = trained
    splits = lab.verdicts(MOSTLY_GOOD)
    whole = kto(splits, micro_batch_size=4)
    assert max(curve(whole, "kl")) > 0.1
    for rows in (1, 2):
        other = kto(splits, micro_batch_size=rows)
        for name in ("loss", "eval_loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert curve(other, name) == pytest.approx(curve(whole, name), abs=2e-4), name


def test_losses_are_the_same_with_and_without_a_precomputed_reference(
    trained: Any, kto: Callable[..., Artifact]
) -> None:
    lab, _, _ = trained
    splits = lab.verdicts([verdict(n, n % 4 != 0) for n in range(40, 52)])
    kept, every_step = kto(splits), kto(splits, precompute_reference=False)
    phases = [{record["phase"] for record in read_metrics(each.file("metrics.jsonl"))} for each in (kept, every_step)]
    assert ["reference" in phase for phase in phases] == [True, False]
    for name in ("loss", "eval_loss", "kl", "rewards/margins"):
        assert curve(every_step, name) == pytest.approx(curve(kept, name), abs=2e-4), name


def test_an_interrupted_run_ends_bit_identical(
    trained: Any, kto: Callable[..., Artifact], tmp_path: Path, stop_after: Callable[[int], Any]
) -> None:
    lab, sft, _ = trained
    undisturbed = kto()
    job = lab.dpo_job(lab.verdicts(), sft, **KTO, save_steps=2)
    job = msgspec.structs.replace(job, run_dir=str(tmp_path / "again"))
    with stop_after(5):
        train.main(job)
    resumed = train.main(job)
    assert resumed.manifest.files[WEIGHTS] == undisturbed.manifest.files[WEIGHTS]
    assert curve(resumed, "loss") == curve(undisturbed, "loss")


def test_every_weight_can_be_trained(lab: Any) -> None:
    sft = train.main(lab.sft_job(lab.instructions()))
    made = train.main(lab.dpo_job(lab.verdicts(), sft, loss="kto", method="full", learning_rate=1e-4, epochs=4))
    assert made.summary["eval_loss_before"] == pytest.approx(0.5, abs=1e-4)
    assert made.summary["eval_loss_after"] < made.summary["eval_loss_before"]


def test_losses_kl_and_rewards_are_those_of_trls_own_trainer(
    trained: Any, kto: Callable[..., Artifact], tmp_path: Path
) -> None:
    """One micro-batch of all rows: then TRL's KL term is that of the whole step as well."""
    lab, sft, _ = trained
    same = {"epochs": 5, "global_batch_size": 12, "warmup_steps": 0, "scheduler": "constant"}
    ours = kto(lab.verdicts(MOSTLY_GOOD), micro_batch_size=12, desirable_weight=1.5, **same)
    theirs = train_with_trl(lab.base, sft, MOSTLY_GOOD, tmp_path)
    for name in ("loss", "kl", "rewards/chosen", "rewards/rejected", "logps/chosen", "grad_norm"):
        assert curve(ours, name) == pytest.approx(theirs[name], rel=5e-3, abs=1e-3), name
    assert max(theirs["kl"]) > 0.1


def train_with_trl(base: Path, sft: Artifact, rows: list[dict[str, Any]], folder: Path) -> dict[str, list[float]]:
    """Return the figures of TRL's KTOTrainer, which renders and tokenises the rows itself."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), sft.folder("adapter"), is_trainable=True
    )
    data = [
        {
            "prompt": prompt_messages(row, PROMPT),
            "completion": [{"role": "assistant", "content": row["answer"]}],
            "label": row["desirable"],
        }
        for row in rows
    ]
    config = KTOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=len(rows), num_train_epochs=5,
        learning_rate=KTO["learning_rate"], lr_scheduler_type="constant", desirable_weight=1.5, logging_steps=1,
        max_length=256, report_to="none", use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True, seed=42,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = KTOTrainer(model=model, args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {name: [entry[name] for entry in steps] for name in steps[0]}


def test_rows_of_one_verdict_are_refused_before_the_training(trained: Any, kto: Callable[..., Artifact]) -> None:
    lab, _, _ = trained
    with pytest.raises(Refused, match=r"FT-TRAIN-056.*train"):
        kto(lab.verdicts([verdict(n, desirable=True) for n in range(8)]))


def test_rows_that_are_not_balanced_are_weighted(trained: Any, kto: Callable[..., Artifact]) -> None:
    lab, _, _ = trained
    made = kto(lab.verdicts([verdict(n, n % 4 == 0) for n in range(12)]), epochs=1)
    (judged,) = (gate for gate in made.json("preflight.json")["gates"] if gate["name"] == "pairs_differ")
    assert (judged["figures"]["desirable_weight"], judged["figures"]["undesirable_weight"]) == (3.0, 1.0)
    assert curve(made, "eval_loss")[0] == pytest.approx((3 * 0.5 + 0.5) / 2, abs=1e-4)


def test_pairs_alone_are_enough(trained: Any, kto: Callable[..., Artifact]) -> None:
    lab, _, _ = trained
    made = kto(lab.preferences([preference(n) for n in range(6)]), epochs=1)
    assert made.summary["rows"] == 12
