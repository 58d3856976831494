from __future__ import annotations

from typing import Any

import pytest

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.prompt import build_messages
from ft_assets.graph.gates import Evidence, judge
from resources.accelerator import Compute
from resources.generator import Generator
from resources.qdrant import QdrantEngine
from resources.releases import Releases
from resources.telemetry import read_metrics
from resources.trained_model import read_adapter_contract

from .tiny_llm import TEMPLATE, build_base, greedy, instruction, preference, publish_json

pytestmark = pytest.mark.slow


def test_sft_and_dpo_change_the_adapter_and_lower_the_validation_loss(trained: Any) -> None:
    _, sft, dpo = trained
    for artifact in (sft, dpo):
        assert artifact.summary["max_abs_adapter_delta"] > 0
        assert artifact.summary["eval_loss_after"] < artifact.summary["eval_loss_before"]
    assert dpo.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4), "the reference must be the SFT adapter"
    assert dpo.summary["reward_accuracy_before"] == 0.5, "before the training every pair is a tie"
    assert dpo.summary["reward_accuracy_after"] > 0.5


def test_the_artifact_holds_no_pickle_no_reference_copy_and_no_local_path(trained: Any) -> None:
    lab, sft, dpo = trained
    for artifact in (sft, dpo):
        assert set(artifact.manifest.files) == {
            "README.md", "contract.json", "metrics.jsonl", "preflight.json", "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
        }  # fmt: skip
        assert artifact.json("adapter/adapter_config.json")["base_model_name_or_path"] == str(lab.base)
        assert artifact.recipe_id in artifact.file("README.md").read_text("utf-8")
    assert not list((lab.state / "runs" / "sft_adapter").glob("checkpoint-*")), "a published run leaves no checkpoint"


def test_metrics_contain_loss_gradient_and_rewards(trained: Any) -> None:
    _, sft, dpo = trained
    steps = [record for record in read_metrics(sft.file("metrics.jsonl")) if record["phase"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 7))
    assert all({"loss", "grad_norm", "learning_rate"} <= record.keys() for record in steps)
    rewards = [record for record in read_metrics(dpo.file("metrics.jsonl")) if "rewards/margins" in record]
    assert rewards


def test_every_gate_of_a_good_training_passes(trained: Any) -> None:
    lab, _, _ = trained
    publish_json(lab.store, "answer_settings", "settings.json", {})
    engine = QdrantEngine("local", lab.state / "qdrant", None, "passages", None, 1.0)
    evidence = Evidence(lab.store, Releases(lab.state / "released"), engine)
    judged = [gate for gate in GATES if gate.asset in {"sft_adapter", "dpo_adapter"}]
    assert len(judged) == 34
    for gate in judged:
        assert judge(gate, evidence).violations == [], gate.name
    publish_json(lab.store, "answer_settings", "settings.json", {"prompt": "{passages} ? {question}"})
    failed = {gate.name for gate in judged if judge(gate, evidence).violations}
    assert failed == {"prompt_is_served"}


def test_an_equal_recipe_gives_equal_weights_and_an_interrupted_run_ends_the_same(
    lab: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sft, _ = trained
    job = lab.sft_job(lab.instructions(), save_steps=2)

    class Killed(Exception):
        pass

    def kill_at_step_5(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise Killed

    from transformers import TrainerCallback

    monkeypatch.setattr(TrainerCallback, "on_step_end", kill_at_step_5)
    with pytest.raises(Killed):
        train.main(job)
    monkeypatch.undo()
    run = lab.state / "runs" / "sft_adapter"
    assert (run / "checkpoint-4").is_dir()
    (run / "checkpoint-9").mkdir()  # half a checkpoint: it has no trainer_state.json
    resumed = train.main(job)
    assert resumed.summary["steps"] == 6
    weights = "adapter/adapter_model.safetensors"
    assert resumed.manifest.files[weights] == sft.manifest.files[weights]


def test_a_run_that_was_killed_after_its_last_step_trains_no_further(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = lab.sft_job(lab.instructions(), save_steps=2)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(train, "_publish", fail)
        train.main(job)
    finished = (lab.state / "runs/sft_adapter/checkpoint-6/adapter_model.safetensors").read_bytes()
    artifact = train.main(job)
    assert artifact.summary["steps"] == 6
    from safetensors.torch import load

    ours = load(artifact.file("adapter/adapter_model.safetensors").read_bytes())
    assert all((tensor == ours[name]).all() for name, tensor in load(finished).items())


def test_a_loss_that_is_not_finite_stops_the_run_and_publishes_nothing(lab: Any, refused_codes: Any) -> None:
    job = lab.sft_job(lab.instructions(), learning_rate=1e30, max_grad_norm=1e30, warmup_steps=0)
    assert refused_codes(lambda: train.main(job)) == {"FT-TRAIN-010"}
    assert lab.store.versions("sft_adapter") == []


def test_a_row_longer_than_max_length_is_refused_by_file_and_line(lab: Any) -> None:
    rows = [instruction(n) for n in range(8)] + [instruction(8, context=["很长的段落。" * 60])]
    with pytest.raises(Refused, match=r"FT-TRAIN-002.*questions\.jsonl:9 \(q8\)"):
        train.main(lab.sft_job(lab.instructions(rows)))


def test_a_pair_that_is_equal_after_tokenisation_is_refused(lab: Any, trained: Any) -> None:
    _, sft, _ = trained
    own = lab.store
    with own.stage(sft.manifest.recipe) as staging:
        for name in sft.manifest.files:
            (staging.path / name).parent.mkdir(exist_ok=True)
            (staging.path / name).write_bytes(sft.file(name).read_bytes())
        copy = staging.publish()
    pairs = [preference(n) for n in range(8)] + [preference(8, chosen="128 比特", rejected="128 比特")]
    with pytest.raises(Refused, match=r"FT-TRAIN-006.*preferences\.jsonl:9"):
        train.main(lab.dpo_job(lab.preferences(pairs), copy))


def test_a_template_that_renders_training_unlike_serving_is_refused(lab: Any, refused_codes: Any) -> None:
    unlike = TEMPLATE.replace("assistant:{% endif", "bot:{% endif")
    lab.base = build_base(lab.state / "base", template=unlike)
    assert refused_codes(lambda: train.main(lab.sft_job(lab.instructions()))) == {"FT-TRAIN-003"}


def test_a_template_that_does_not_end_the_turn_is_refused(lab: Any, refused_codes: Any) -> None:
    lab.base = build_base(lab.state / "base", template=TEMPLATE.replace("<|im_end|>", ""))
    assert refused_codes(lambda: train.main(lab.sft_job(lab.instructions()))) == {"FT-TRAIN-004"}


def test_qlora_without_bitsandbytes_names_the_package_to_install(lab: Any, refused_codes: Any) -> None:
    import importlib.util

    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    assert refused_codes(lambda: train.main(lab.sft_job(lab.instructions(), method="qlora"))) == {"FT-TRAIN-008"}


def test_the_generator_answers_alike_alone_and_in_a_batch_and_differs_by_adapter(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, sft, dpo = trained
    prompt = read_adapter_contract(sft.folder()).prompt
    chats = [build_messages(prompt, f"AES-{n} 使用多少比特?", ["比特" * n]) for n in (1, 9, 4)]
    found: list[list[list[str]]] = []
    # merged, as in float32, and apart from the base, as in 16 bits and on quantised weights
    for apart in (False, True):
        monkeypatch.setattr("resources.generator.is_quantised", lambda folder, apart=apart: apart)
        generator = Generator(lab.base, {"sft": sft.folder(), "dpo": dpo.folder()}, Compute("cpu", "float32"))
        together = greedy(generator, "sft", chats, 6)
        assert any("lora_" in name for name, _ in generator.model.named_parameters()) == apart
        assert together == [greedy(generator, "sft", [chat], 6)[0] for chat in chats]
        assert greedy(generator, "base", chats, 6) != together
        assert greedy(generator, "sft", chats, 6) == together, "the base has answered in between"
        found.append([together, greedy(generator, "dpo", chats, 6)])
    assert found[0] == found[1]


def test_an_adapter_on_another_base_is_refused_by_name(trained: Any, lab: Any) -> None:
    _, sft, _ = trained
    other = build_base(lab.state / "other", seed=1)
    with pytest.raises(Refused, match=r"FT-ADP-001.*sft on .*base\.weights_sha256"):
        Generator(other, {"sft": sft.folder()}, Compute("cpu", "float32"))


def test_projecting_supervised_positions_only_gives_trls_values(tiny_base: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from ft_assets.adapters.trainer.cpu_loss import project_supervised_only

    ids = torch.arange(40).reshape(2, 20) % 50 + 5
    labels = ids.clone()
    labels[:, :14] = -100
    found: list[Any] = []
    for patch in (lambda model: None, project_supervised_only):
        model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        patch(model)
        out = model(input_ids=ids, labels=labels, fused_lm_head=True)
        out.loss.backward()
        found.append((out, model.model.embed_tokens.weight.grad))
    (theirs, their_grad), (ours, our_grad) = found
    for name in ("loss", "log_probs", "entropy", "mean_logits"):
        assert torch.allclose(getattr(theirs, name), getattr(ours, name), atol=1e-5), name
    assert torch.equal(theirs.is_top1, ours.is_top1)
    assert torch.allclose(their_grad, our_grad, atol=1e-5)


def test_a_prompt_fills_its_placeholders_once_and_keeps_braces() -> None:
    from .tiny_llm import PROMPT

    chat = build_messages(PROMPT, "What is {x}?", ["set {question} := {0}", "第二段"], system="简短回答")
    assert chat[0] == {"role": "system", "content": "简短回答"}
    assert chat[1]["content"] == "Background:\nset {question} := {0}\n第二段\n\nQuestion: What is {x}?\nAnswer:"
    assert build_messages(PROMPT, "只有问题?", []) == [{"role": "user", "content": "只有问题?"}]
