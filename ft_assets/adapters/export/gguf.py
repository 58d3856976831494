"""A merged model as GGUF, the format of llama.cpp and Ollama.

The converter is llama.cpp's own, in the copy that the package `auto-round` ships (extra `gguf`), or a given
`convert_hf_to_gguf.py`. It runs in a process of its own: `python -m ft_assets.adapters.export.gguf MODEL FILE TYPE`.
"""

# gguf, torch and auto_round are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from expectations.violations import Refused, violation

TOOL = "convert_hf_to_gguf.py"
TYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""Types of the weights, by llama.cpp's names; `auto` keeps 16-bit weights as they are."""
_NEEDED = ("auto_round", "gguf", "sentencepiece")
_ERROR_LINES = 5
# auto-round would look for a newer converter on GitHub, or take another one from a folder
_SWITCHES = ("AUTO_ROUND_GGUF_AUTO_UPDATE", "LLAMA_CPP_ROOT")


def find_converter(given: Path | None) -> list[str]:
    """Return the command of the converter: the given one, the installed one, or that on PATH.
    Raises Refused (FT-ADP-012)."""
    on_path = shutil.which(TOOL)
    if given is None and all(map(importlib.util.find_spec, _NEEDED)):
        return [sys.executable, "-m", __name__]
    tool = given or (Path(on_path) if on_path else None)
    if tool is None or not tool.is_file():
        where = str(given or "this Python, PATH")
        missing = violation("FT-ADP-012", where=where, field="converter", found=None, expected=f"auto-round, or {TOOL}")
        raise Refused("exporting GGUF", [missing])
    # a Python script runs in this Python, where torch and transformers are; any other program as it is
    return [sys.executable, str(tool)] if tool.suffix == ".py" else [str(tool.resolve())]


def convert(converter: list[str], model: Path, target: Path, kind: str) -> None:
    """Write the model folder as a GGUF file. Raises Refused (FT-ADP-013)."""
    done = subprocess.run(
        [*converter, str(model), "--outfile", str(target), "--outtype", kind],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 and target.is_file() and _is_gguf(target):
        return
    errors = (done.stderr or done.stdout).strip().splitlines()[-_ERROR_LINES:]
    failed = violation(
        "FT-ADP-013",
        where=" ".join(converter[1:] or converter),
        message=f"The GGUF converter failed: {' / '.join(errors) or 'no file'}",
        field="exit code",
        found=done.returncode,
        expected="0, and a GGUF file",
    )
    raise Refused("exporting GGUF", [failed])


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def main(arguments: list[str]) -> None:
    """Convert with the converter that auto-round ships: MODEL --outfile FILE --outtype TYPE."""
    for name in _SWITCHES:
        os.environ.pop(name, None)
    import gguf
    import torch
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    model, _, target, _, kind = arguments
    types = {
        "auto": gguf.LlamaFileType.GUESSED,
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    conversion = get_conversion(model)
    parameters = conversion.ModelBase.load_hparams(Path(model), False)
    architecture = conversion.get_model_architecture(parameters, conversion.ModelType.TEXT)
    with torch.inference_mode():
        conversion.get_model_class(architecture)(Path(model), types[kind], Path(target)).write()


if __name__ == "__main__":
    main(sys.argv[1:])
