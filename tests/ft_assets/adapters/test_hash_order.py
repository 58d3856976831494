"""Equal trainings have equal files, whatever order a process gives to the items of a set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAVE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from ft_assets.adapters.train import ADAPTER_NAME, _save_adapter
torch.manual_seed(1)
sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2, vocab_size=32)
base = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes))
model = get_peft_model(base, LoraConfig(target_modules="all-linear"), adapter_name=ADAPTER_NAME)
task = SimpleNamespace(settings=SimpleNamespace(base_model="tiny"), base=None, prompt=None, thinking="strip")
_save_adapter(task, model, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_an_adapter_is_written_alike_under_every_hash_seed(tmp_path: Path, project: Path) -> None:
    written: list[dict[str, bytes]] = []
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SAVE, str(folder)], cwd=project, env=environment, check=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert any(name.endswith("adapter_config.json") for name in written[0])
    assert written[0] == written[1] == written[2]
