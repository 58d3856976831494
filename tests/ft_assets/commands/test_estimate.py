"""`ft estimate`: its table, its JSON and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ft_assets.cli import cli
from resources import accelerator
from tests.ft_assets.adapters.conftest import tiny_base, trained

__all__ = ["tiny_base", "trained"]  # fixtures

QWEN3_4B = {
    "num_hidden_layers": 36, "hidden_size": 2560, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
CONFIG = """
schema_version: 1
corpus: {files: [kb/*.md]}
sft: {base_model: ./model, method: qlora, micro_batch_size: 1, max_length: 2048}
dpo: {base_model: ./model, method: lora, micro_batch_size: 2, max_length: 1024, max_steps: 30}
embedding: {base_model: ./model}
"""
SIZES = ["--layers", "36", "--hidden", "2560", "--heads", "32", "--kv-heads", "8", "--head-dim", "128", "--ffn", "9728",
         "--vocab", "151936", "--tied"]  # fmt: skip

Estimate = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(QWEN3_4B))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FT_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def estimate(folder: Path) -> Estimate:
    del folder
    return lambda *arguments: CliRunner().invoke(cli, ["estimate", *arguments])


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code in {0, 1}, result.output + result.stderr
    return json.loads(result.output)


def test_the_configured_training_is_shown_by_its_parts(estimate: Estimate) -> None:
    result = estimate("--gpu", "10GB")
    assert result.exit_code == 0
    for part in ("weights", "adapter and optimizer", "activations", "logits", "dequantised matrix", "context", "total"):
        assert part in result.output
    assert "4.02G parameters: SFT, qlora r=16, 1 x 2048 tokens" in result.output
    assert "fits: 4.4 GiB in 10.0 GiB" in result.output


def test_dpo_takes_its_own_section_and_what_the_command_says_goes_before(estimate: Estimate) -> None:
    found = report(estimate("--dpo", "--gpu", "24GB", "--json"))
    assert (found["method"], found["micro_batch"], found["tokens"], found["rows"]) == ("lora", 2, 1024, 30 * 8)
    found = report(estimate("--dpo", "--gpu", "24GB", "--json", "--method", "qlora", "--batch", "4", "--length", "512",
                            "--r", "64", "--rows", "5000", "--epochs", "3"))  # fmt: skip
    assert (found["method"], found["micro_batch"], found["tokens"], found["r"]) == ("qlora", 4, 512, 64)
    assert (found["rows"], found["epochs"]) == (5000, 3)


def test_dpo_is_sized_by_the_adapter_that_sft_leaves(estimate: Estimate, monkeypatch: pytest.MonkeyPatch) -> None:
    small = report(estimate("--dpo", "--gpu", "24GB", "--json"))
    monkeypatch.setenv("FT__SFT__LORA__R", "64")
    large = report(estimate("--dpo", "--gpu", "24GB", "--json"))
    assert (small["r"], large["r"]) == (16, 64)
    parts = [found["estimate"]["parts"]["adapter and optimizer"] for found in (small, large)]
    assert parts[1] == pytest.approx(4 * parts[0])


def test_what_does_not_fit_is_exit_1_with_a_way_that_fits(estimate: Estimate) -> None:
    result = estimate("--method", "lora", "--length", "4096", "--gpu", "10GB")
    assert result.exit_code == 1
    assert "does not fit: 10.5 GiB in 10.0 GiB" in result.output
    assert "method: qlora" in result.output and "gpu-10gb" in result.output
    plan = report(estimate("--method", "lora", "--length", "4096", "--gpu", "10GB", "--json"))["plan"]
    fitting = ["--method", plan["method"], "--batch", str(plan["micro_batch"]), "--length", str(plan["tokens"])]
    assert estimate(*fitting, "--gpu", "10GB").exit_code == 0


def test_two_gpus_share_what_one_cannot_hold(estimate: Estimate) -> None:
    found = report(estimate("--method", "lora", "--length", "4096", "--gpu", "9GB", "--gpus", "2", "--json"))
    assert found["plan"]["strategy"] == "fsdp2"
    result = estimate("--method", "lora", "--length", "4096", "--gpu", "9GB", "--gpus", "2")
    planned = " ".join(result.output.split())
    assert "sharding: fsdp2" in planned and "launcher: {kind: torchrun, processes: 2}" in planned
    result = estimate("--gpu", "10GB", "--gpus", "2")
    assert "ddp" in result.output and "processes: 2" in result.output


def test_a_named_card_has_a_speed_and_a_size_alone_has_none(estimate: Estimate) -> None:
    card = report(estimate("--gpu", "rtx 4090", "--rows", "1000", "--json"))
    assert 60 < card["seconds"] < 36000
    assert card["machine"]["memory"] == 24 * 2**30
    assert report(estimate("--gpu", "A100 80GB", "--json"))["machine"]["memory"] == 80 * 2**30
    assert report(estimate("--gpu", "24GB", "--json"))["seconds"] is None
    assert "name a card" in estimate("--gpu", "24GB").output


def test_this_machine_is_measured_where_no_other_is_named(estimate: Estimate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT__ACCELERATOR__DEVICE", "cpu")
    found = report(estimate("--length", "256", "--json"))
    assert found["machine"]["gpus"] == 0 and found["machine"]["flops"] > 1e9
    assert found["checkpointing"] is False  # `auto` computes again only on GPUs
    assert "process" in found["estimate"]["parts"]


def test_a_model_by_its_sizes_is_the_model_in_the_folder(estimate: Estimate) -> None:
    by_folder = report(estimate("./model", "--gpu", "10GB", "--json"))
    by_sizes = report(estimate(*SIZES, "--gpu", "10GB", "--json"))
    assert by_sizes["estimate"] == by_folder["estimate"]


def test_the_fix_names_the_sizes_of_the_model_that_was_asked_for(estimate: Estimate, folder: Path) -> None:
    lacking = {name: value for name, value in QWEN3_4B.items() if name != "intermediate_size"}
    (folder / "model" / "config.json").write_text(json.dumps({**lacking, "num_hidden_layers": 61}))
    result = estimate("./model", "--gpu", "10GB")
    assert result.exit_code == 2
    wanted = "--layers 61 --hidden 2560 --heads 32 --ffn INTERMEDIATE_SIZE --vocab 151936"
    assert wanted in " ".join(result.stderr.split())


def test_a_speed_is_called_an_assumption(estimate: Estimate) -> None:
    result = estimate("--gpu", "rtx 4090", "--rows", "1000")
    assert "an assumption: 35 % of 165 TFLOPS" in " ".join(result.output.split())


@pytest.mark.slow
def test_the_speed_is_that_of_the_last_run_on_this_machine(
    trained: Any, estimate: Estimate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _, dpo = trained
    monkeypatch.setenv("FT__ACCELERATOR__DEVICE", "cpu")
    assumed = estimate("--length", "256")
    assert "an assumption" in assumed.output
    monkeypatch.setenv("FT_STATE_DIR", str(lab.state))
    measured = estimate("--length", "256")
    assert f"reached here by dpo_adapter {dpo.recipe_id[:8]}" in " ".join(measured.output.split())
    flops = report(estimate("--length", "256", "--json"))["machine"]["flops"]
    seconds = dpo.summary["seconds"]
    assert 1e6 < flops < 1e13 and seconds > 0
    other = report(estimate("--length", "256", "--gpu", "rtx 4090", "--json"))
    assert "assumption" in other["machine"]["source"], "another machine's speed is not that of this one"


def test_it_needs_no_project(estimate: Estimate, folder: Path, tmp_path: Path) -> None:
    (folder / "config.yaml").unlink()
    assert report(estimate(*SIZES, "--gpu", "24GB", "--json"))["method"] == "lora"
    result = estimate("--gpu", "24GB")
    assert result.exit_code == 2 and "name a MODEL" in result.stderr
    assert not (tmp_path / ".ft").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "12"], "--hidden"),
        (["./model", *SIZES], "not both"),
        (["--gpu", "quantum"], "quantum"),
        (["./gone"], "FT-MODEL-001"),
        (["Qwen/not-in-the-cache"], "--layers"),
        (["--length", "0"], "length"),
    ],
)
def test_an_impossible_estimate_is_exit_2_with_its_fix(estimate: Estimate, arguments: list[str], message: str) -> None:
    result = estimate(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as it takes to give one config.json."""

    body = json.dumps(QWEN3_4B).encode()

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        self.wfile.write(self.body)

    def _head(self) -> None:
        self.send_response(200 if self.path in {"/", "/Qwen/Some-4B/resolve/main/config.json"} else 404)
        for name, value in {"ETag": '"1"', "X-Repo-Commit": "0" * 40, "Content-Length": str(len(self.body))}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Generator[str]:
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_hub_name_needs_only_its_config_and_later_not_even_the_hub(folder: Path, hub: str) -> None:
    environ = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "ft_assets.cli", "estimate", "Qwen/Some-4B", "--gpu", "10GB", "--json"]
    first = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, cwd=folder)
    assert json.loads(first.stdout)["parameters"] == pytest.approx(4.02e9, rel=0.01)
    again = subprocess.run(
        command, env={**environ, "HF_ENDPOINT": "http://127.0.0.1:9"}, capture_output=True, text=True, check=True,
        cwd=folder,
    )  # fmt: skip
    assert json.loads(again.stdout)["estimate"] == json.loads(first.stdout)["estimate"]
    assert [path.name for path in (folder / "hf").rglob("*") if path.is_symlink()] == ["config.json"]


def test_it_loads_no_heavy_library(folder: Path) -> None:
    code = (
        "import sys\nfrom ft_assets.cli import cli\ntry: cli(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([m for m in ('dagster', 'torch', 'pandas', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    arguments = ["estimate", "--gpu", "10GB"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=folder
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_corpus_is_estimated_before_it_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--layers", "6", "--hidden", "384", "--heads", "12", "--ffn", "1536", "--vocab", "30522", "--json"]
    ended = CliRunner().invoke(cli, ["estimate", "corpus", "--passages", "1M", "--cluster", "4x16/64GB", *options])
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.output)
    assert (report["passages"], report["dimension"], report["cluster"]["nodes"]) == (1_000_000, 384, 4)
    ended = CliRunner().invoke(cli, ["estimate", "corpus", "--passages", "1B", "--cluster", "4x16/64GB", *options])
    assert ended.exit_code == 1  # it does not fit
    for wrong, named in ((["--passages", "1M", "--cluster", "0"], "no cluster"), ([], "--passages")):
        ended = CliRunner().invoke(cli, ["estimate", "corpus", *wrong, *options])
        assert ended.exit_code == 2 and named in ended.output
    card = accelerator.Gpu("NVIDIA A100-SXM4-80GB", 80 * 2**30, 80 * 2**30, (8, 0), "570")
    monkeypatch.setattr(accelerator, "gpus", lambda: [card])
    ended = CliRunner().invoke(cli, ["estimate", "corpus", "--passages", "1k", *options])
    assert json.loads(ended.output)["cluster"]["card"]["tflops"] == 312  # of this machine
