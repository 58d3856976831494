"""The gates before training on a tiny base: their verdicts, their report, and the trial steps that leave no trace."""

# datasets and transformers are untyped here
# pyright: basic
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused, Violation
from ft_assets.adapters import train
from ft_assets.adapters.checks import GATES as CHECKS
from ft_assets.adapters.preflight import PREFLIGHT_FILE, Preflight, gates_of, judge_resources, judge_trial
from ft_assets.adapters.rows.training_data import TrainingData
from ft_assets.adapters.trainer.build import build_trainer
from ft_assets.adapters.trainer.load_model import load_model
from ft_assets.adapters.trainer.trial_steps import run_trial_steps
from ft_assets.config.model import AdapterSettings, DpoSettings, SftSettings
from ft_assets.graph.gates import Evidence, judge
from resources.accelerator import Compute
from resources.artifacts import Artifact
from resources.model_check import limits_of
from resources.releases import Releases
from resources.telemetry import Metrics, read_metrics

from .tiny_llm import PROMPT, build_base, instruction, preference

CPU = Compute("cpu", "float32")
_EXACT = ("phase", "step", "loss", "grad_norm", "eval_loss", "num_tokens", "entropy", "rewards/margins")


def training_data(lab: Any, splits: Artifact, settings: Any, thinking: str = "allow_empty", **template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(lab.base)
    tokenizer.chat_template = template.get("template", tokenizer.chat_template)
    preflight = Preflight("training", lab.state)
    data = TrainingData(
        [splits], tokenizer, prompt=PROMPT, thinking=thinking, settings=settings, stop_ids=[tokenizer.eos_token_id],
        limits=limits_of(lab.base), preflight=preflight,
    )  # fmt: skip
    return data, preflight, tokenizer


def trainer_of(lab: Any, settings: Any, sft: Artifact | None = None) -> Any:
    splits = lab.preferences() if sft else lab.instructions()
    data, _, tokenizer = training_data(lab, splits, settings)
    return data, build_trainer(
        settings, CPU, load_model(lab.base, settings, CPU, sft, longest=data.longest), tokenizer=tokenizer, data=data,
        metrics=Metrics(lab.state), run_dir=lab.state,
    )  # fmt: skip


def settings_for(lab: Any, kind: type[Any] = SftSettings, **changes: Any) -> Any:
    return kind.model_validate({"base_model": str(lab.base), "max_length": 256, **changes})


def written(folder: Path) -> dict[str, Any]:
    return {gate["name"]: gate for gate in json.loads((folder / PREFLIGHT_FILE).read_text("utf-8"))["gates"]}


@pytest.mark.parametrize("asset", ["sft_adapter", "dpo_adapter"])
def test_every_gate_is_a_blocking_check_with_figures_in_the_order_it_was_judged(trained: Any, asset: str) -> None:
    lab, *_ = trained
    found = lab.store.require(asset)
    assert list(written(found.path)) == list(gates_of(asset[:3]))
    evidence = Evidence(lab.store, Releases(lab.state / "released"), None)  # pyright: ignore[reportArgumentType]
    checks = {gate.name: gate for gate in CHECKS if gate.asset == asset}
    for name in gates_of(asset[:3]):
        verdict = judge(checks[name], evidence)
        assert verdict.violations == [] and verdict.figures and checks[name].blocking
    assert judge(checks["rows_fit_max_length"], evidence).figures["histogram"].startswith("| tokens of a row |")
    trial = judge(checks["trial_steps_train"], evidence).figures
    assert trial["max_abs_adapter_delta"] > 0 and len(trial["losses"]) == 2


def test_a_refused_training_leaves_its_report_and_publishes_nothing(lab: Any) -> None:
    rows = [instruction(n) for n in range(8)] + [instruction(8, answer="长" * 300)]
    with pytest.raises(Refused, match=r"FT-TRAIN-002.*questions\.jsonl:9 \(q8\)"):
        train.main(lab.sft_job(lab.instructions(rows)))
    gates = written(lab.state / "runs" / "sft_adapter")
    assert [name for name, gate in gates.items() if not gate["passed"]] == ["rows_fit_max_length"]
    assert list(gates)[-1] == "thinking_is_kept", "gates on tokens are reported together, dearer ones are not reached"
    figures = gates["rows_fit_max_length"]["figures"]
    assert (figures["would_lose_their_stop"], figures["would_lose_all_targets"]) == (1, 0)
    assert lab.store.versions("sft_adapter") == []


def test_blank_texts_missing_reasoning_and_unpaired_tags_are_refused_together(lab: Any, refused_codes: Any) -> None:
    rows = [instruction(0, answer=" "), instruction(1)]
    settings = settings_for(lab)
    call = training_data
    assert refused_codes(lambda: call(lab, lab.instructions(rows), settings, "require")) == {
        "FT-TRAIN-016", "FT-TRAIN-017",
    }  # fmt: skip
    pairs = [preference(0, question=""), preference(1, chosen="<think>128")]
    assert refused_codes(lambda: call(lab, lab.preferences(pairs), settings)) == {"FT-TRAIN-016", "FT-TRAIN-024"}
    assert list(written(lab.state)) == ["rows_are_trainable"]


def test_rows_that_are_dropped_or_cut_are_counted_and_listed_for_the_artifact(lab: Any, tmp_path: Path) -> None:
    rows = [instruction(n) for n in range(4)] + [instruction(4, context=["很长的段落。" * 60])]
    splits = lab.instructions(rows)
    for policy, left in (("drop", 4), ("truncate_prompt", 5)):
        data, preflight, _ = training_data(lab, splits, settings_for(lab, too_long=policy))
        assert len(data.train) == len(data.datasets["train"]) == left and data.longest <= 256
        figures = preflight.results[2].figures
        assert (figures["dropped"], figures["cut"]) == ((1, 0) if policy == "drop" else (0, 1))
        assert figures["would_lose_all_targets"] == 1 and figures["too_long_share"] == round(1 / 9, 4)
        folder = tmp_path / policy
        folder.mkdir()
        data.write_too_long(folder)
        (line,) = (folder / "too_long.jsonl").read_text("utf-8").splitlines()
        assert json.loads(line)["record_id"] == "q4"
    data, *_ = training_data(lab, lab.instructions(rows[:4]), settings_for(lab, too_long="drop"))
    data.write_too_long(tmp_path)
    assert not (tmp_path / "too_long.jsonl").exists()


def test_dropping_every_row_and_cutting_where_it_cannot_help_are_refused(lab: Any, refused_codes: Any) -> None:
    rows = [instruction(n, answer="长" * 200) for n in range(4)]
    for policy, code in (("drop", "FT-TRAIN-027"), ("truncate_prompt", "FT-TRAIN-019")):
        settings = settings_for(lab, too_long=policy)
        assert refused_codes(lambda s=settings: training_data(lab, lab.instructions(rows), s)) == {code}


def test_a_pair_that_differs_only_in_text_that_the_policy_removes_is_refused(lab: Any, refused_codes: Any) -> None:
    pairs = [preference(0), preference(1, chosen="<think>想</think>128", rejected="128")]
    settings = settings_for(lab)
    assert refused_codes(lambda: training_data(lab, lab.preferences(pairs), settings, "strip")) == {"FT-TRAIN-006"}


def test_the_trainer_must_have_exactly_the_rows_that_were_judged(lab: Any, refused_codes: Any) -> None:
    for splits in (lab.instructions(), lab.preferences()):
        data, *_ = training_data(lab, splits, settings_for(lab))
        rows = data.datasets
        shuffled = SimpleNamespace(train_dataset=rows["train"].shuffle(seed=1), eval_dataset=rows["validation"])
        data.check_against(shuffled)
        fewer = SimpleNamespace(train_dataset=rows["train"].select(range(11)), eval_dataset=rows["validation"])
        assert refused_codes(lambda d=data, t=fewer: d.check_against(t)) == {"FT-TRAIN-007"}
        last = rows["validation"].column_names[-1]
        cut = rows["validation"].map(lambda row, name=last: {name: row[name][:-1]})
        other = SimpleNamespace(train_dataset=rows["train"], eval_dataset=cut)
        assert refused_codes(lambda d=data, t=other: d.check_against(t)) == {"FT-TRAIN-007"}


def write_shape(folder: Path, layers: int) -> Path:
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "vocab_size": 128256}
    (folder / "config.json").write_text(json.dumps({**sizes, "num_hidden_layers": layers}))
    return folder


def test_a_model_that_neither_memory_nor_disk_can_hold_is_refused_with_both_figures(lab: Any, tmp_path: Path) -> None:
    huge = write_shape(tmp_path, 8_000)  # seven million million parameters
    preflight = Preflight("training", tmp_path)
    with pytest.raises(Refused) as caught:
        judge_resources(
            preflight, settings_for(lab), CPU, base=huge, lora=AdapterSettings(r=4096), tokens=4096, run_dir=tmp_path
        )
    assert {violation.code for violation in caught.value.violations} == {"FT-TRAIN-021", "FT-TRAIN-022"}
    figures = written(tmp_path)["memory_and_disk_suffice"]["figures"]
    assert figures["memory_needed"] > figures["memory_free"] > 0 and figures["memory_parts"]["weights"] > 2**40
    assert figures["disk_needed"] > figures["disk_free"] > 0


def test_a_shape_that_is_not_estimated_does_not_stop_a_training(lab: Any, tmp_path: Path) -> None:
    (write_shape(tmp_path, 2) / "config.json").write_text(json.dumps({"num_experts": 8}))
    preflight = Preflight("training", tmp_path)
    judge_resources(preflight, settings_for(lab), CPU, base=tmp_path, lora=None, tokens=64, run_dir=tmp_path)
    assert preflight.results[0].passed and "FT-EST" in preflight.results[0].figures["estimate"]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_trial_steps_leave_the_model_the_random_numbers_and_the_counters_as_they_were(
    lab: Any, trained: Any, method: str
) -> None:
    import torch

    kind, sft = (SftSettings, None) if method == "sft" else (DpoSettings, trained[1])
    data, trainer = trainer_of(lab, settings_for(lab, kind, learning_rate=1e-2), sft)
    data.check_against(trainer)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    random = torch.get_rng_state()
    counters = repr(trainer._metrics)
    figures = run_trial_steps(trainer)
    assert figures["max_abs_adapter_delta"] > 0 and figures["row_tokens"] == data.longest
    assert figures["losses"][1] != figures["losses"][0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.named_parameters())
    assert all(tensor.grad is None for tensor in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), random) and repr(trainer._metrics) == counters
    assert trainer.optimizer is None and trainer.state.global_step == 0


def test_a_trial_that_diverges_is_refused(lab: Any, refused_codes: Any) -> None:
    wild = trainer_of(lab, settings_for(lab, learning_rate=1e30, max_grad_norm=1e30))[1]
    assert refused_codes(lambda: judge_trial(Preflight("training", lab.state), wild)) == {"FT-TRAIN-010"}
    assert "nan" in written(lab.state)["trial_steps_train"]["figures"]["losses"]


def test_a_trial_that_changes_no_weight_is_refused(lab: Any, refused_codes: Any) -> None:
    still = trainer_of(lab, settings_for(lab, learning_rate=1e-45))[1]
    assert refused_codes(lambda: judge_trial(Preflight("training", lab.state), still)) == {"FT-TRAIN-023"}


def test_running_out_of_memory_in_the_trial_is_raised_and_leaves_the_weights(lab: Any) -> None:
    import torch

    _, trainer = trainer_of(lab, settings_for(lab))
    before = [tensor.detach().clone() for tensor in trainer.model.parameters()]

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.compute_loss = out_of_memory
    with pytest.raises(torch.OutOfMemoryError):
        run_trial_steps(trainer)
    assert all(torch.equal(new, old) for new, old in zip(trainer.model.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_training_is_bit_identical_with_and_without_the_trial(
    lab: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = lab.sft_job(lab.instructions())
    if method == "dpo":
        job = lab.dpo_job(lab.preferences(), train.main(job))

    def run(name: str) -> tuple[Any, list[Any], bool]:
        made = train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{name}"))
        steps = [r for r in read_metrics(made.file("metrics.jsonl")) if r["phase"] in ("train", "eval")]
        logged = [[record.get(name) for name in _EXACT] for record in steps]
        found = (
            made.manifest.files["adapter/adapter_model.safetensors"],
            logged,
            "trial_steps_train" in written(made.path),
        )
        lab.store.discard(made)
        return found

    *with_trial, tried = run("with")
    monkeypatch.setattr(train, "judge_trial", lambda *_: None)
    *without, left_out = run("without")
    assert tried and not left_out
    assert with_trial == without


def test_a_missing_verdict_is_refused(trained: Any) -> None:
    from ft_assets.adapters.preflight import read_result

    with pytest.raises(Refused, match="FT-TRAIN-025"):
        read_result(trained[1], "pairs_differ")


def test_a_report_contains_figures_that_json_cannot_express(tmp_path: Path) -> None:
    preflight = Preflight("training", tmp_path)
    preflight.judge("trial_steps_train", [Violation(code="X", where="a", message="b", found={1})], {"n": float("nan")})
    assert written(tmp_path)["trial_steps_train"]["figures"] == {"n": "nan"}
    with pytest.raises(Refused, match="X"):
        preflight.refuse_failed()


def spoiled(base: Path, folder: Path, edit: Any) -> Path:
    """Return a copy of the base whose tensors `edit` has changed."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoil(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"][0] = float("nan")


@pytest.mark.parametrize(
    ("edit", "code", "name"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), "FT-TRAIN-067", "layers.1.mlp.up_proj"),
        (spoil, "FT-TRAIN-066", "model.norm.weight"),
    ],
)
def test_a_base_without_a_tensor_or_with_nan_is_refused_by_its_name(
    lab: Any, tmp_path: Path, edit: Any, code: str, name: str
) -> None:
    base = spoiled(lab.base, tmp_path / "spoiled", edit)
    with pytest.raises(Refused, match=rf"{code}.*{name}"):
        train.main(lab.sft_job(lab.instructions(), base_model=str(base)))
    assert not written(lab.state / "runs" / "sft_adapter")["base_is_whole"]["passed"]
    assert lab.store.versions("sft_adapter") == []


def test_rows_beyond_the_positions_or_the_embedding_of_the_model_are_named(lab: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = [instruction(n) for n in range(4)] + [instruction(4, answer="长" * 120)]
    base = build_base(tmp_path / "short", positions=256)
    with pytest.raises(Refused, match=r"FT-TRAIN-062.*questions\.jsonl:5 \(q4\).*at most 256"):
        train.main(lab.sft_job(lab.instructions(rows), base_model=str(base), max_length=4096))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["比特"])
    tokenizer.save_pretrained(base)
    with pytest.raises(Refused, match=r"FT-TRAIN-063.*questions\.jsonl:1 \(q0\)"):
        train.main(lab.sft_job(lab.instructions(), base_model=str(base)))


@pytest.mark.slow
def test_a_single_step_has_no_warm_up_and_changes_the_weights(lab: Any) -> None:
    made = train.main(lab.sft_job(lab.instructions(), max_steps=1))
    judged = written(made.path)["rate_is_above_zero"]
    assert judged["figures"] == {"steps": 1, "warmup_steps": 0}
    assert made.summary["max_abs_adapter_delta"] > 0


def test_a_single_step_whose_rate_is_zero_is_refused_with_the_number_of_steps(lab: Any) -> None:
    with pytest.raises(Refused, match=r"FT-TRAIN-064.*steps.*found 1"):
        train.main(lab.sft_job(lab.instructions(), epochs=1, global_batch_size=12, warmup_steps=1))


@pytest.mark.parametrize("targets", [["q_proj", "c_attn"], ["nothing"], "layers.*wrong"])
def test_targets_that_match_no_layer_are_refused_with_the_names_that_exist(lab: Any, targets: Any) -> None:
    with pytest.raises(Refused, match=r"FT-TRAIN-065.*lora\.targets.*down_proj.*q_proj"):
        train.main(lab.sft_job(lab.instructions(), lora={"targets": targets}))
