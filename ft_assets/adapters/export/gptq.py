"""A merged model with 4-bit weights in GPTQ's layout, by auto-round (extra `gptq`): what vLLM and transformers load.

The weights are rounded to the nearest step of their group, which needs no data and is the same in every run. It runs in
a process of its own, which reads the result again and compares it: `python -m ft_assets.adapters.export.gptq`.
"""

# torch, transformers and auto_round are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from expectations.violations import Refused, violation
from ft_assets.adapters.export.merge import logits_of, probe_prompts
from resources.trained_model import CONTRACT_FILE, copy_companions, load_weights, read_adapter_contract

_GROUPS = (128, 64, 32)
"""Weights that share a scale: the first that divides the inputs of every layer."""
_MOST_NOISE = 0.25
_ERROR_LINES = 5
_SUBJECT = "exporting GPTQ"


class Quantised(msgspec.Struct, frozen=True, kw_only=True):
    """The distance between the merged model and its 4-bit form, read again, over all positions of a few prompts."""

    bits: int
    group_size: int
    positions: int
    noise: float | None
    """Root mean square of the change of the logits, as a share of that of the logits; at most 0.25. None: no number."""
    same_first_choice: float
    """Share of the positions at which the most likely token is the same."""


def require_quantiser() -> None:
    """Refuse (FT-ADP-014) where auto-round is not installed."""
    if importlib.util.find_spec("auto_round") is None:
        missing = violation("FT-ADP-014", where="this Python", field="auto-round", found=None, expected="installed")
        raise Refused(_SUBJECT, [missing])


def quantise(model: Path, target: Path) -> Quantised:
    """Write the merged model to the folder `target` with 4-bit weights. Raises Refused (FT-ADP-015)."""
    command = [sys.executable, "-m", __name__, str(model), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        errors = (done.stderr or done.stdout).strip().splitlines()[-_ERROR_LINES:]
        message = f"The quantiser failed: {' / '.join(errors)}"
        failed = violation("FT-ADP-015", where=str(model), message=message, field="exit code", found=done.returncode)
        raise Refused(_SUBJECT, [failed])
    figures = msgspec.json.decode(lines[-1], type=Quantised)
    if figures.noise is None or figures.noise > _MOST_NOISE:  # JSON has no NaN: it arrives as None
        moved = violation(
            "FT-ADP-015", where=str(target), field="noise", found=figures.noise, expected=f"at most {_MOST_NOISE}"
        )
        raise Refused(_SUBJECT, [moved])
    return figures


def main(source: Path, target: Path) -> Quantised:
    """Quantise the model in `source`, save it, read it again and compare the logits."""
    prompt = read_adapter_contract(source).prompt

    import torch
    from auto_round import AutoRound
    from transformers import AutoRoundConfig, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    prompts = probe_prompts(tokenizer, prompt)
    model: Any = load_weights(source, dtype=torch.float32)
    before = logits_of(model, prompts)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    group = next((size for size in _GROUPS if all(layer.in_features % size == 0 for layer in linear)), None)
    if group is None:
        raise ValueError(f"no group size of {_GROUPS} divides the inputs of every layer")
    staging = target.with_name(f"{target.name}.parts")
    options = {"iters": 0, "disable_opt_rtn": True, "enable_torch_compile": False, "device_map": "cpu"}
    AutoRound(model, tokenizer, scheme="W4A16", group_size=group, **options).quantize_and_save(
        str(staging), format="auto_gptq"
    )
    written = next(iter(staging.rglob("config.json"))).parent  # in a folder that is named for the scheme
    written.rename(target)
    shutil.rmtree(staging, ignore_errors=True)
    copy_companions(source, target)
    for path in (source / CONTRACT_FILE, source / "README.md", *source.glob("LICENSE*"), *source.glob("NOTICE*")):
        if path.is_file():
            shutil.copy2(path, target)
    del model
    # the kernels of a GPU are those of vLLM; on a CPU auto-round's own read the same layout
    again = load_weights(target, dtype=torch.float32, device_map="cpu", quantization_config=AutoRoundConfig())
    after = logits_of(again, prompts)
    return Quantised(
        bits=4,
        group_size=group,
        positions=len(before),
        noise=float((after - before).square().mean().sqrt() / before.square().mean().sqrt()),
        same_first_choice=float((after.argmax(-1) == before.argmax(-1)).float().mean()),
    )


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(main(*map(Path, sys.argv[1:3]))).decode() + "\n")
