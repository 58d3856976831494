"""`ft export`: what is written, that it is whole or absent, and each reason to write nothing."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from expectations.canonical import file_digest
from expectations.contracts.adapter import AdapterContract, LoraShape, refuse_mismatch
from expectations.violations import Refused
from ft_assets.cli import cli
from resources.artifacts import Artifact, ArtifactStore, Recipe, write_json
from resources.releases import Releases
from resources.trained_model import ADAPTER_FOLDER, CONTRACT_FILE, describe_base
from tests.ft_assets.adapters.tiny_llm import PROMPT, build_base

# what llama.cpp's converter does, for the one thing that is asked of it here: read the folder, write its tensors
CONVERTER = """
import sys
from gguf import GGUFWriter
from safetensors.numpy import load_file

folder, outfile, outtype = sys.argv[1], sys.argv[3], sys.argv[5]
writer = GGUFWriter(outfile, "qwen3")
for name, tensor in load_file(folder + "/model.safetensors").items():
    writer.add_tensor(name, tensor)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""
Export = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with a base model, an SFT and a DPO adapter on it, and the latter released."""
    import torch

    torch.set_num_threads(1)
    state = tmp_path_factory.mktemp("state")
    base = build_base(state / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n", "utf-8")
    (base / "LICENSE").write_text("Apache License 2.0", "utf-8")
    store = ArtifactStore(state / "artifacts")
    made = {name: publish_adapter(store, base, name, seed) for seed, name in enumerate(("sft_adapter", "dpo_adapter"))}
    releases = Releases(state / "released")
    recipes = {name: item.recipe_id for name, item in made.items()}
    releases.commit("adapter", releases.plan_release("adapter", recipes, {}))
    return state


def publish_adapter(store: ArtifactStore, base: Path, asset: str, seed: int, alpha: int = 8) -> Artifact:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    # random numbers in both factors: an adapter that changes the answers of the base
    lora = LoraConfig(
        r=4, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    contract = AdapterContract(
        base=describe_base(base, AutoTokenizer.from_pretrained(base), str(base)),
        prompt=PROMPT,
        reasoning="strip",
        lora=LoraShape(r=4, alpha=alpha, targets=sorted(model.peft_config["default"].target_modules)),
    )
    with store.stage(Recipe(asset=asset, code_version="1", settings={"seed": seed})) as staging:
        model.save_pretrained(staging.path / ADAPTER_FOLDER)
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(contract))
        artifact = staging.publish({"steps": 3})
    store.point(artifact)
    return artifact


@pytest.fixture
def export(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    monkeypatch.setenv("FT_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(made))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, ["export", *map(str, arguments)], prog_name="ft")

    return call


def test_the_released_adapter_is_written_with_its_contract_and_card(export: Export, made: Path, tmp_path: Path) -> None:
    from peft import PeftConfig

    result = export("--to", "out/released")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out/released"
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "export.json"]
    assert PeftConfig.from_pretrained(folder / "adapter").r == 4
    card = (folder / "adapter/README.md").read_text("utf-8")
    assert "dpo_adapter" in card and "license `apache-2.0`" in card
    report = json.loads((folder / "export.json").read_text("utf-8"))
    assert report["asset"] == "dpo_adapter"
    assert report["files"] == {f"adapter/{path.name}": file_digest(path) for path in (folder / "adapter").iterdir()}
    assert refuse_mismatch(folder / "adapter/contract.json", made / "base").prompt == PROMPT
    assert not [path for path in (tmp_path / "out").iterdir() if path.name != "released"]


def test_a_merged_model_carries_its_figures_the_bases_tokenizer_and_licence(export: Export, made: Path) -> None:
    result = export("sft", "--to", "merged", "--merged", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "logits differ by at most" in result.output
    folder = Path("merged/merged")
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (folder / name).read_bytes() == (made / "base" / name).read_bytes()
    assert (folder / "model.safetensors").stat().st_mode & 0o044 == 0o044
    proof = json.loads(Path("merged/export.json").read_text())["merged"]
    assert 0 < proof["max_abs_difference_saved"] <= proof["tolerance"]
    assert "max_abs_difference_saved" in (folder / "README.md").read_text("utf-8")


def test_a_folder_is_replaced_only_with_force_and_only_an_export(export: Export) -> None:
    assert export("sft", "--to", "one").exit_code == 0
    assert export("dpo", "--to", "one").exit_code == 2
    assert json.loads(Path("one/export.json").read_text())["asset"] == "sft_adapter"
    assert export("dpo", "--to", "one", "--force").exit_code == 0
    assert json.loads(Path("one/export.json").read_text())["asset"] == "dpo_adapter"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    result = export("--to", "mine", "--force")
    assert (result.exit_code, Path("mine/thesis.txt").read_text()) == (2, "years of work")
    assert "only what `ft export` wrote" in result.output
    assert sorted(path.name for path in Path().iterdir()) == ["mine", "one"]


def test_what_is_said_of_a_file_that_is_not_asked_for_is_refused(export: Export) -> None:
    for arguments, wanted in ((["--gguf-type", "q8_0"], "add --gguf"), (["--dtype", "float32"], "add --merged")):
        result = export("--to", "out", *arguments)
        assert (result.exit_code, wanted in result.output) == (2, True)
    assert list(Path().iterdir()) == []


def test_without_the_gguf_converter_nothing_is_written(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "auto_round", None)  # as if it were not installed
    for arguments in (["--gguf"], ["--gguf-tool", "gone.py"]):
        result = export("--to", "out", *arguments)
        assert result.exit_code == 1
        assert "FT-ADP-012" in result.output and "llama.cpp" in result.output
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "script", ["import sys; sys.exit('Model architecture is not supported')", "print('nothing written')"]
)
def test_a_converter_that_fails_leaves_nothing_behind_and_is_quoted(export: Export, script: str) -> None:
    Path("convert.py").write_text(script)
    result = export("--to", "out", "--merged", "--gguf-tool", "convert.py")
    assert result.exit_code == 1
    assert "FT-ADP-013" in result.output
    assert ("not supported" in result.output) or ("nothing written" in result.output)
    assert [path.name for path in Path().iterdir()] == ["convert.py"]


def test_the_converter_gets_the_merged_model_which_stays_only_when_asked_for(export: Export) -> None:
    gguf = pytest.importorskip("gguf")
    Path("convert.py").write_text(CONVERTER)
    assert export("--to", "both", "--merged", "--gguf-tool", "convert.py").exit_code == 0
    result = export("--to", "alone", "--gguf-tool", "convert.py")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("alone").iterdir()) == [
        "Modelfile",
        "adapter",
        "export.json",
        "model.gguf",
    ]
    from safetensors.numpy import load_file

    names = {tensor.name for tensor in gguf.GGUFReader("alone/model.gguf").tensors}
    assert names == load_file("both/merged/model.safetensors").keys()
    assert "model.gguf" in json.loads(Path("alone/export.json").read_text())["files"]


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    export: Export, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    shutil.copytree(made / "artifacts", state / "artifacts")
    monkeypatch.setenv("FT_STATE_DIR", str(state))
    found = export("--to", "out")
    assert (found.exit_code, "FT-ADP-003" in found.output) == (1, True)
    (adapter,) = ArtifactStore(state / "artifacts").versions("sft_adapter")
    (adapter.path / "adapter/adapter_model.safetensors").write_bytes(b"damaged")
    found = export("sft", "--to", "out")
    assert (found.exit_code, "FT-ART-003" in found.output) == (1, True)
    shutil.rmtree(state / "artifacts/dpo_adapter")
    found = export("dpo", "--to", "out")
    assert (found.exit_code, "FT-ART-001" in found.output) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_guard_that_the_page_shows_accepts_this_base_and_refuses_another(
    export: Export, made: Path, project: Path
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (project / "docs/export.md").read_text("utf-8"), re.DOTALL)
    assert export("--to", "build/adapter").exit_code == 0
    Path("models").mkdir()
    Path("models/my-base").symlink_to(made / "base")
    exec(code, {})  # noqa: S102 - the page's own lines
    Path("models/my-base").unlink()
    build_base(Path("models/my-base"), seed=7)
    with pytest.raises(Refused, match=r"FT-ADP-001.*base\.weights_sha256"):
        exec(code, {})  # noqa: S102
