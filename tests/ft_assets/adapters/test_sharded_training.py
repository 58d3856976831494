"""Training in shards (FSDP2) by two gloo processes: the losses, the files and the checkpoints of one process."""

# safetensors, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.trainer.checkpoints import checkpoints, find_damage
from ft_assets.adapters.trainer.sharding import accept_shards, check_sharding
from ft_assets.config.model import AdapterSettings, DpoSettings, SftSettings
from resources import accelerator
from resources.artifacts import Artifact, Recipe
from resources.launcher import Job, read_failure, write_job
from tests.ft_assets.adapters.conftest import Lab
from tests.ft_assets.adapters.processes import elsewhere, figures, losses, start
from tests.ft_assets.adapters.runs_several import train_until
from tests.ft_assets.adapters.tiny_llm import build_base, preference, untie

# the output head is the embedding here, and a matrix of its own where an adapter is trained
FULL: dict[str, Any] = {"method": "full", "learning_rate": 1e-4, "checkpoint": "best", "eval_steps": 3, "save_steps": 3}
KILLED_AFTER = 4
Trainings = tuple[dict[str, Artifact], dict[str, Artifact], str]
"""The same trainings by one process, and in shards by two; and the log of the latter."""


def in_shards(job: Job) -> Job:
    settings = {**job.params["settings"], "sharding": "fsdp2"}
    return msgspec.structs.replace(job, params={**job.params, "settings": settings})


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    state = tmp_path_factory.mktemp("shards")
    lab, tied = Lab(state, build_base(state / "base")), build_base(state / "tied")
    untie(lab.base)
    instructions = lab.instructions()
    sft = lab.sft_job(instructions, lora={"dropout": 0}, learning_rate=1e-3, micro_batch_size=1)
    full = lab.sft_job(instructions, **FULL, base_model=str(tied))
    one = {"sft": train.main(elsewhere(sft, "one-sft")), "full": train.main(elsewhere(full, "one-full"))}
    pairs = lab.preferences([preference(n) for n in range(13)])  # seven batches: the processes cannot share them evenly
    dpo = lab.dpo_job(pairs, train.main(sft), max_steps=3, precompute_reference=True)
    one["dpo"] = train.main(elsewhere(dpo, "one-dpo"))

    two = {"sft": sft, "dpo": dpo, "full": full, "left to one": full, "left to two": full}
    two = {name: in_shards(elsewhere(job, name.replace(" ", "-"))) for name, job in two.items()}
    assert train_until(two["left to two"], KILLED_AFTER) is None
    plan = [("sft", None), ("dpo", None), ("left to one", KILLED_AFTER), ("full", KILLED_AFTER), ("full", None)]
    jobs = [(str(write_job(two[name])), last) for name, last in [*plan, ("left to two", None)]]
    several = Job(recipe=Recipe("several", "1"), store=sft.store, run_dir=str(state / "several"), params={"jobs": jobs})
    started = start(several, worker="tests.ft_assets.adapters.runs_several")
    assert started.wait(timeout=300) == 0, read_failure(Path(several.run_dir))
    assert [find_damage(path) for path in checkpoints(Path(two["left to one"].run_dir))] == [[]]
    assert train_until(two["left to one"], None)
    log = (Path(several.run_dir) / "training.log").read_text("utf-8")
    return one, {name: job.published() for name, job in two.items()}, log


def tensors(artifact: Artifact) -> dict[str, Any]:
    from safetensors.torch import load_file

    (name,) = (name for name in artifact.manifest.files if name.endswith(".safetensors"))
    return load_file(artifact.file(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "by_one"),
    [("sft", "sft"), ("dpo", "dpo"), ("full", "full"), ("left to one", "full"), ("left to two", "full")],
)
def test_shards_train_what_one_process_trains_and_publish_the_same_files(
    trainings: Trainings, name: str, by_one: str
) -> None:
    one, two = trainings[0][by_one], trainings[1][name]
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert figures(two, "grad_norm") == pytest.approx(figures(one, "grad_norm"), rel=1e-4)
    for figure in ("steps", "trainable_parameters", "eval_loss_before", "eval_loss_after", "max_abs_adapter_delta"):
        assert two.summary[figure] == pytest.approx(one.summary[figure], rel=1e-4), figure
    assert set(two.manifest.files) - {"training.log"} == set(one.manifest.files) - {"training.log"}
    for file in one.manifest.files:
        if file.endswith("config.json"):
            assert two.file(file).read_bytes() == one.file(file).read_bytes(), file
    assert tensors(two).keys() == tensors(one).keys()
    for key, tensor in tensors(one).items():
        assert tensors(two)[key].dtype == tensor.dtype
        assert (tensors(two)[key] - tensor).abs().max() < 1e-6, key


@pytest.mark.slow
def test_a_process_has_half_of_the_model_and_all_of_an_adapter(trainings: Trainings) -> None:
    found = re.findall(r"this process has (\d+) of the (\d+) numbers", trainings[2])
    *adapters, whole = sorted({(int(own), int(numbers)) for own, numbers in found}, key=lambda each: -each[1])
    assert whole[0] == whole[1] / 2
    adapter = trainings[0]["sft"].summary["trainable_parameters"]
    assert adapters and all(own - adapter == (numbers - adapter) / 2 for own, numbers in adapters)


@pytest.mark.slow
def test_trainings_resume_in_shards_and_out_of_them(trainings: Trainings) -> None:
    for name in ("full", "left to one", "left to two"):
        assert "resumes from checkpoint-3 of 6 steps" in " ".join(trainings[1][name].summary["events"]), name


@pytest.mark.slow
def test_an_adapter_from_shards_is_one_of_plain_peft(trainings: Trainings) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one, two, _ = trainings
    base = one["sft"].json("contract.json")["base"]["name"]
    logits: list[torch.Tensor] = []
    for folder in (one["sft"].folder(), two["sft"].folder(), None):
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, folder / "adapter") if folder else model
        with torch.no_grad():
            logits.append(model(input_ids=torch.arange(16)[None]).logits)
    assert (logits[0] - logits[1]).abs().max() < 1e-6
    assert (logits[1] - logits[2]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (SftSettings(base_model="b", method="qlora"), "sft.method"),
        (DpoSettings(base_model="b", method="full"), "dpo.method"),
        (SftSettings(base_model="b", optimizer="paged_adamw_8bit"), "sft.optimizer"),
        (SftSettings(base_model="b", activation_offloading=True), "sft.activation_offloading"),
        (SftSettings(base_model="b", eval_answers=8), "sft.eval_answers"),
        (SftSettings(base_model="b", lora=AdapterSettings(dora=True)), "lora.dora"),
        (SftSettings(base_model="b", lora=AdapterSettings(train_tokens=["<x>"])), "lora.train_tokens"),
        (SftSettings(base_model="b", lora=AdapterSettings(modules_to_save=["lm_head"])), "lora.modules_to_save"),
    ],
)
def test_what_is_not_shown_to_work_in_shards_is_refused_by_name(
    settings: SftSettings | DpoSettings, field: str, monkeypatch: pytest.MonkeyPatch, refused_codes: Any
) -> None:
    compute = accelerator.Compute(device="cpu", dtype="float32")
    wanted = settings.model_copy(update={"sharding": "fsdp2"})
    check_sharding(wanted, settings.lora, compute)  # one process has nothing to spread
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_sharding(settings, settings.lora, compute)
    assert refused_codes(lambda: check_sharding(wanted, settings.lora, compute)) == {"FT-TRAIN-079"}
    with pytest.raises(Exception, match=field):
        check_sharding(wanted, settings.lora, compute)


def test_a_model_whose_layers_stay_together_is_refused(refused_codes: Any) -> None:
    from torch import nn

    assert refused_codes(lambda: accept_shards(nn.Sequential(nn.Linear(2, 2)))) == {"FT-TRAIN-080"}
