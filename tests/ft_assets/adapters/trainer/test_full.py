"""Training of every weight: the published model, DPO from it, and the guards against loading it on another base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.adapter import refuse_mismatch
from expectations.contracts.fingerprint import fingerprint
from expectations.violations import Refused
from ft_assets.adapters import evaluate, train
from ft_assets.adapters.assets import material_of
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.export.export import export
from ft_assets.adapters.export.merge import merge_adapter
from ft_assets.adapters.prompt import build_messages
from ft_assets.adapters.trainer.load_model import load_model
from ft_assets.config.model import DpoSettings, SftSettings
from ft_assets.graph.gates import Evidence, judge
from resources.accelerator import Compute
from resources.artifacts import Artifact, Recipe
from resources.generator import Generator
from resources.launcher import Job
from resources.qdrant import QdrantEngine
from resources.releases import Releases
from resources.telemetry import read_curves
from resources.trained_model import load_trained, read_adapter_contract
from resources.training_run import FINAL_MODEL
from tests.ft_assets.adapters.conftest import Lab
from tests.ft_assets.adapters.tiny_llm import PROMPT, build_base, evaluate_params, greedy, publish_json

pytestmark = pytest.mark.slow

WEIGHTS = "model/model.safetensors"
FULL = {"method": "full", "learning_rate": 1e-3}
CPU = Compute("cpu", "float32")
CHATS = [build_messages(PROMPT, f"AES-{n} 使用多少比特?", [f"AES-{n} 的分组为 {n} 比特。"]) for n in (20, 21)]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Lab, Artifact, Artifact]:
    """A lab in which SFT, then DPO, trained every weight."""
    lab = Lab(tmp_path_factory.mktemp("whole"), tiny_base)
    sft = train.main(lab.sft_job(lab.instructions(), **FULL))
    lab.store.point(sft)
    dpo = train.main(lab.dpo_job(lab.preferences(), sft, method="full", learning_rate=1e-4))
    lab.store.point(dpo)
    return lab, sft, dpo


def elsewhere(job: Job, folder: Path) -> Job:
    return msgspec.structs.replace(job, run_dir=str(folder))


def weights(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def test_every_weight_of_every_layer_is_trained_and_published_as_a_whole_model(whole: Any) -> None:
    lab, sft, dpo = whole
    before = weights(lab.base / "model.safetensors")
    for artifact in (sft, dpo):
        after = weights(artifact.file(WEIGHTS))
        assert after.keys() == before.keys()
        assert {str(tensor.dtype) for tensor in after.values()} == {"torch.float32"}
        assert [name for name, tensor in after.items() if (tensor == before[name]).all()] == []
        assert artifact.summary["trainable_parameters"] == sum(tensor.numel() for tensor in after.values())
        assert {
            "contract.json",
            "README.md",
            "model/config.json",
            "model/tokenizer.json",
        } <= artifact.manifest.files.keys()
        folder = artifact.folder("model")
        assert fingerprint(folder)["tokenizer"] == fingerprint(lab.base)["tokenizer"]
        contract = read_adapter_contract(artifact.folder())
        assert (contract.method, contract.lora) == ("full", None)
        assert contract.weights_sha256 == fingerprint(folder)["weights"] != contract.base.weights_sha256
        assert (lab.state / "runs" / artifact.asset / FINAL_MODEL).resolve() == (artifact.path / "model").resolve()
        config, base = (json.loads((path / "config.json").read_text()) for path in (folder, lab.base))
        assert config == base, "what a trainer writes into a configuration is none of the model's"
    assert dpo.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4), "the reference must be the SFT model"
    assert dpo.summary["eval_loss_after"] < dpo.summary["eval_loss_before"]
    assert "all weights trained further" in sft.file("README.md").read_text("utf-8")


def test_every_gate_of_a_good_training_passes(whole: Any) -> None:
    lab, sft, _ = whole
    publish_json(lab.store, "answer_settings", "settings.json", {})
    engine = QdrantEngine("local", lab.state / "qdrant", None, "passages", None, 1.0)
    evidence = Evidence(lab.store, Releases(lab.state / "released"), engine)
    for gate in GATES:
        if gate.asset in {"sft_adapter", "dpo_adapter"}:
            assert judge(gate, evidence).violations == [], gate.name
    (resources,) = (g for g in sft.json("preflight.json")["gates"] if g["name"] == "memory_and_disk_suffice")
    assert {"gradients and optimizer", "weights before"} <= resources["figures"]["memory_parts"].keys()
    assert resources["figures"]["tokens"] < 100, "the longest row is what is estimated, not max_length (256)"


def test_an_interrupted_run_ends_bit_identical(whole: Any, lab: Any, stop_after: Callable[[int], Any]) -> None:
    _, sft, _ = whole
    job = lab.sft_job(lab.instructions(), save_steps=2, **FULL)
    with stop_after(5):
        train.main(job)
    resumed = train.main(job)
    assert resumed.manifest.files[WEIGHTS] == sft.manifest.files[WEIGHTS]
    losses = [read_curves(artifact.file("metrics.jsonl"))["loss"] for artifact in (sft, resumed)]
    assert losses[1] == losses[0]


def test_out_of_memory_takes_a_fallback_and_the_losses_are_the_same(
    whole: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Trainer

    _, sft, _ = whole
    step = Trainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3 and len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    artifact = train.main(lab.sft_job(lab.instructions(), save_steps=2, **FULL))
    assert "micro_batch_size 1 (was 2)" in artifact.summary["events"][0]
    losses = [read_curves(made.file("metrics.jsonl"))["loss"] for made in (sft, artifact)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_dpo_of_every_weight_starts_from_an_adapter_merged_into_them(trained: Any, tmp_path: Path) -> None:
    import torch

    lab, sft, _ = trained
    settings = DpoSettings.model_validate({"base_model": str(lab.base), "method": "full"})
    model = load_model(lab.base, settings, CPU, sft, longest=64)
    assert all(parameter.requires_grad for parameter in model.parameters())
    ids = torch.arange(24)[None] + 5
    with torch.no_grad():
        together = load_trained(lab.base, sft.folder(), dtype=torch.float32)(input_ids=ids).logits
        assert torch.allclose(model(input_ids=ids).logits, together, atol=1e-4)
    job = lab.dpo_job(lab.preferences(), sft, method="full", learning_rate=1e-4, max_steps=2)
    dpo = train.main(elsewhere(job, tmp_path))
    assert dpo.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4)
    assert read_adapter_contract(dpo.folder()).method == "full"


def test_an_adapter_on_a_whole_model_is_refused(whole: Any, tmp_path: Path, refused_codes: Any) -> None:
    lab, sft, _ = whole
    job = elsewhere(lab.dpo_job(lab.preferences(), sft), tmp_path)
    assert refused_codes(lambda: train.main(job)) == {"FT-TRAIN-054"}


def test_whole_models_and_adapters_answer_in_turn_as_each_does_alone(trained: Any, whole: Any) -> None:
    lab, sft, _ = trained
    _, _, dpo = whole
    together = Generator(lab.base, {"dpo": dpo.folder(), "released": sft.folder()}, CPU)
    alone = {
        "base": Generator(lab.base, {}, CPU),
        "dpo": Generator(dpo.folder("model"), {}, CPU),
        "released": Generator(lab.base, {"released": sft.folder()}, CPU),
    }
    wanted = {name: greedy(one, "released" if name == "released" else "base", CHATS, 6) for name, one in alone.items()}
    for name in ("dpo", "base", "released", "dpo", "released", "base"):
        assert greedy(together, name, CHATS, 6) == wanted[name], name


def test_a_whole_candidate_is_compared_with_a_released_adapter(trained: Any, whole: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lab, sft, dpo = whole
    _, _, released = trained
    shutil.copytree(released.path, lab.store.root / "dpo_adapter" / released.recipe_id)
    with lab.store.stage(Recipe(asset="passages", code_version="test")) as staging:
        pq.write_table(pa.table({"passage_id": ["p20"], "content": ["密码"]}), staging.path / "passages.parquet")
        lab.store.point(staging.publish())
    inputs = {name: lab.store.require(name).data_version for name in ("instruction_splits", "passages")}
    models = {
        "sft": ("sft_adapter", sft.recipe_id),
        "dpo": ("dpo_adapter", dpo.recipe_id),
        "released": ("dpo_adapter", released.recipe_id),
    }
    params = evaluate_params(lab.state, lab.base, models, max_new_tokens=4, max_questions=2)
    recipe = Recipe(asset="adapter_evaluation", code_version="test", inputs=inputs)
    made = evaluate.main(Job(recipe=recipe, store=str(lab.store.root), run_dir=str(tmp_path), params=params))
    assert made.summary["intervals"].keys() == {"base", "sft", "dpo", "released"}
    assert {"dpo-base", "dpo-released"} <= made.summary["differences"].keys()


def test_on_another_base_it_is_refused_by_name_wherever_it_is_loaded(whole: Any, tmp_path: Path) -> None:
    lab, sft, _ = whole
    other = build_base(tmp_path / "other", seed=1)
    job = lab.dpo_job(lab.preferences(), sft, base_model=str(other), method="full")
    loaders: list[Callable[[], Any]] = [
        lambda: Generator(other, {"sft": sft.folder()}, CPU),
        lambda: merge_adapter(sft.folder(), other, tmp_path / "merged"),
        lambda: train.main(elsewhere(job, tmp_path / "run")),
    ]
    for load in loaders:
        with pytest.raises(Refused, match=r"FT-ADP-001.*base\.weights_sha256"):
            load()


def test_the_guard_of_a_service_knows_the_model_it_serves(whole: Any, tmp_path: Path) -> None:
    lab, sft, dpo = whole
    contract = sft.file("contract.json")
    served = shutil.copytree(sft.folder("model"), tmp_path / "served")
    assert refuse_mismatch(contract, served, PROMPT).method == "full"
    for folder in (lab.base, dpo.folder("model")):
        with pytest.raises(Refused, match=r"FT-ADP-001.*weights_sha256"):
            refuse_mismatch(contract, folder)
    template = served / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("assistant:", "助手："), "utf-8")
    with pytest.raises(Refused, match=r"FT-ADP-001.*chat_template_sha256"):
        refuse_mismatch(contract, served)


def test_a_whole_model_is_exported_unchanged_and_in_another_dtype_with_a_proof(whole: Any, tmp_path: Path) -> None:
    lab, sft, _ = whole
    report = export(sft, tmp_path / "out", lab.store, merged=True)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == sft.file(WEIGHTS).read_bytes()
    assert refuse_mismatch(tmp_path / "out/model/contract.json", tmp_path / "out/model").weights_sha256
    assert report["merged"]["max_abs_difference_saved"] == 0, "in the dtype it has, a whole model stays what it is"
    assert report["merged"]["adapter_effect"] > 0
    rounded = merge_adapter(sft.folder(), lab.base, tmp_path / "rounded", "bfloat16")
    assert 0 < rounded.max_abs_difference_saved <= rounded.tolerance


def test_the_method_is_part_of_the_recipe_and_an_adapters_shape_only_where_there_is_one() -> None:
    def material(**values: Any) -> dict[str, Any]:
        return material_of(SftSettings.model_validate({"base_model": "x", "learning_rate": 1e-4, **values}))

    assert material(method="full") != material()
    assert material(method="full", lora={"r": 4}) == material(method="full")
    assert material(lora={"r": 4}) != material()
