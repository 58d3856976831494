"""A merged model computes the same as base and adapter, and an adapter is loaded on no base but its own."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.adapter import RagPrompt, refuse_mismatch
from expectations.contracts.fingerprint import fingerprint
from expectations.violations import Refused
from ft_assets.adapters.export.merge import Merged, check_merged, merge_adapter
from ft_assets.adapters.prompt import build_messages
from resources.accelerator import choose
from resources.generator import Generator
from resources.trained_model import describe_base
from resources.training_run import FINAL_MODEL
from tests.ft_assets.adapters.tiny_llm import PROMPT, build_base, greedy, instruction

CHATS = [build_messages(PROMPT, row["question"], row["context"]) for row in map(instruction, range(20, 23))]


@pytest.fixture(scope="session")
def merged(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Merged]:
    lab, sft, _ = trained
    target = tmp_path_factory.mktemp("merged")
    return target, merge_adapter(sft.folder(), lab.base, target)


def test_the_merged_model_alone_answers_as_base_and_adapter_do(trained: Any, merged: tuple[Path, Merged]) -> None:
    lab, sft, _ = trained
    folder, found = merged
    together = Generator(lab.base, {"sft": sft.folder()}, choose("cpu", "float32"))
    alone = Generator(folder, {}, choose("cpu", "float32"))
    answers = greedy(together, "sft", CHATS, 8)
    assert greedy(alone, "base", CHATS, 8) == answers != greedy(together, "base", CHATS, 8)
    assert (found.dtype, found.same_first_choice) == ("float32", 1.0)
    assert found.max_abs_difference_saved <= found.tolerance
    assert fingerprint(folder)["tokenizer"] == fingerprint(lab.base)["tokenizer"]
    assert fingerprint(folder)["weights"] != fingerprint(lab.base)["weights"]


def test_weights_saved_in_bfloat16_are_measured_and_named_bfloat16(trained: Any, tmp_path: Path) -> None:
    lab, sft, _ = trained
    found = merge_adapter(sft.folder(), lab.base, tmp_path, "bfloat16")
    assert found.max_abs_difference_merged < found.max_abs_difference_saved <= found.tolerance
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("difference", [1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["max_abs_difference_merged", "max_abs_difference_saved", "saved_noise"])
def test_a_merge_that_changes_the_logits_is_refused(merged: tuple[Path, Merged], name: str, difference: float) -> None:
    moved = msgspec.structs.replace(merged[1], **{name: difference})
    assert [(v.code, v.field) for v in check_merged(moved, "x")] == [("FT-ADP-010", name)]
    assert check_merged(merged[1], "x") == []


def test_an_adapter_that_is_lost_in_the_rounding_of_the_weights_is_refused(
    trained: Any, tmp_path: Path, refused_codes: Any
) -> None:
    from safetensors.torch import load_file, save_file

    lab, sft, _ = trained
    faint = shutil.copytree(sft.folder(), tmp_path / "faint")
    path = faint / "adapter/adapter_model.safetensors"
    save_file({name: tensor * 0.02 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    assert "FT-ADP-010" in refused_codes(lambda: merge_adapter(faint, lab.base, tmp_path / "rounded", "bfloat16"))
    assert merge_adapter(faint, lab.base, tmp_path / "kept", "float32").adapter_effect > 0


def test_nothing_is_merged_into_a_quantised_base(trained: Any, tmp_path: Path, refused_codes: Any) -> None:
    lab, sft, _ = trained
    base = shutil.copytree(lab.base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "FT-ADP-011" in refused_codes(lambda: merge_adapter(sft.folder(), base, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def _other_weights(base: Path) -> None:
    build_base(base.with_name("other"), seed=1)
    shutil.copy2(base.with_name("other") / "model.safetensors", base)


def _other_template(base: Path) -> None:
    path = base / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("assistant:", "助手："), "utf-8")


def _other_tokenizer(base: Path) -> None:
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["merges"].pop()
    path.write_text(json.dumps(tokenizer), "utf-8")


def _other_stop(base: Path) -> None:
    path = base / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [0, 2]}), "utf-8")


CHANGES = [
    (_other_weights, {"base.weights_sha256"}),
    (_other_template, {"base.chat_template_sha256", "base.tokenizer_sha256"}),
    (_other_tokenizer, {"base.tokenizer_sha256"}),
    (_other_stop, {"base.stop_token_ids"}),
]


@pytest.mark.parametrize(("change", "fields"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_another_base_of_the_same_shape_is_refused_by_name_wherever_an_adapter_is_loaded(
    trained: Any, tmp_path: Path, change: Callable[[Path], None], fields: set[str]
) -> None:
    lab, sft, _ = trained
    base = shutil.copytree(lab.base, tmp_path / "base")
    change(base)
    loaders: list[Callable[[], Any]] = [
        lambda: Generator(base, {"sft": sft.folder()}, choose("cpu", "float32")),
        lambda: merge_adapter(sft.folder(), base, tmp_path / "merged"),
        lambda: refuse_mismatch(sft.file("contract.json"), base),
    ]
    for load in loaders:
        with pytest.raises(Refused) as caught:
            load()
        found = caught.value.violations
        assert {(v.code, v.field) for v in found} == {("FT-ADP-001", field) for field in fields}
    assert not (tmp_path / "merged").exists()


def test_a_prompt_other_than_the_trained_one_is_refused_by_name(trained: Any) -> None:
    lab, sft, _ = trained
    contract = sft.file("contract.json")
    assert refuse_mismatch(contract, lab.base, PROMPT).prompt == PROMPT
    other = RagPrompt(system="用中文回答", template=PROMPT.template, separator=PROMPT.separator)
    with pytest.raises(Refused, match=r"FT-ADP-002.*prompt\.system"):
        refuse_mismatch(contract, lab.base, other)


def test_the_guard_reads_what_transformers_reads_and_loads_nothing_heavy(trained: Any) -> None:
    from transformers import AutoTokenizer

    lab, sft, _ = trained
    stored = refuse_mismatch(sft.file("contract.json"), lab.base).base
    seen = describe_base(lab.base, AutoTokenizer.from_pretrained(lab.base))
    assert (stored.chat_template_sha256, stored.stop_token_ids) == (seen.chat_template_sha256, seen.stop_token_ids)
    code = (
        "import sys; from expectations.contracts.adapter import refuse_mismatch; refuse_mismatch(*sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'numpy', 'dagster', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sft.file("contract.json")), str(lab.base)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_template_in_the_tokenizers_configuration_is_read_too(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from expectations.contracts.fingerprint import chat_template

    base = build_base(tmp_path / "base")
    template = (base / "chat_template.jinja").read_text("utf-8")
    (base / "chat_template.jinja").unlink()
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    for stored in (template, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]):
        path.write_text(json.dumps({**config, "chat_template": stored}), "utf-8")
        assert chat_template(base) == template
    path.write_text(json.dumps({**config, "chat_template": template}), "utf-8")
    assert AutoTokenizer.from_pretrained(base).chat_template == template


@pytest.mark.parametrize("lists_added_tokens", [False, True])
def test_the_end_token_of_an_older_tokenizer_is_found_where_transformers_finds_it(
    tmp_path: Path, lists_added_tokens: bool
) -> None:
    from transformers import AutoTokenizer

    from expectations.contracts.fingerprint import stop_tokens

    base = build_base(tmp_path / "base")
    (base / "generation_config.json").unlink()
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    named = config.pop("eos_token")
    if lists_added_tokens:
        config |= {"eos_token": named, "added_tokens_decoder": {}}
    path.write_text(json.dumps(config), "utf-8")
    older = {"eos_token": "<|endoftext|>" if lists_added_tokens else {"content": named, "lstrip": False}}
    (base / "special_tokens_map.json").write_text(json.dumps(older), "utf-8")
    found = AutoTokenizer.from_pretrained(base).eos_token_id
    assert stop_tokens(base) == [found] == describe_base(base, AutoTokenizer.from_pretrained(base)).stop_token_ids


def test_a_folder_without_a_model_is_not_called_a_mismatch(trained: Any, tmp_path: Path) -> None:
    _, sft, _ = trained
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        refuse_mismatch(sft.file("contract.json"), tmp_path)


def test_the_run_folder_shows_the_published_adapter_as_final_model(trained: Any) -> None:
    lab, sft, _ = trained
    link = lab.state / "runs/sft_adapter" / FINAL_MODEL
    assert link.resolve() == (sft.path / "adapter").resolve()
    assert (link / "adapter_model.safetensors").is_file()
    assert not list(link.parent.glob("checkpoint-*"))
