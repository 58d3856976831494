"""What leaves the house: an adapter in PEFT's layout or a whole model, merged into its base, and as GGUF; staged, then
renamed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import file_digest
from expectations.violations import Refused, Violation
from ft_assets.adapters.export.merge import MergedDtype, merge_adapter
from ft_assets.adapters.export.model_card import Card, write_card
from resources import models
from resources.artifacts import Artifact, ArtifactStore, library_versions, write_json
from resources.releases import Releases
from resources.telemetry import METRICS_FILE
from resources.trained_model import CONTRACT_FILE, read_adapter_contract, weights_folder

GGUF_TOOL = "convert_hf_to_gguf.py"
GGUF_FILE = "model.gguf"
REPORT_FILE = "export.json"
FINAL_MODEL = "final_model"
_SAID_LINES = 5


def find_adapter(store: ArtifactStore, releases: Releases, which: str) -> Artifact:
    """The adapter that `sft`, `dpo` or `released` names now. Raises Refused: FT-ADP-003, FT-ADP-004, FT-ART-001."""
    if which != "released":
        return store.require(f"{which}_adapter")
    release = releases.current("adapter")
    found = store.find("dpo_adapter", release.artifacts["dpo_adapter"]) if release else None
    if found is not None:
        return found
    violation = Violation(
        code="FT-ADP-004" if release else "FT-ADP-003", where="released_adapter",
        message="the released adapter is not in the store." if release else "no adapter is released.",
        fix="ft run --asset released_adapter",
    )  # fmt: skip
    raise Refused("exporting the released adapter", [violation])


def export(
    adapter: Artifact,
    target: Path,
    store: ArtifactStore,
    *,
    merged: bool = False,
    dtype: MergedDtype | None = None,
    gguf_tool: Path | None = None,
    gguf_type: str = "auto",
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write `target`/adapter (of a whole model `target`/model), and /merged and /model.gguf where asked for
    (`gguf_tool`). Returns export.json's content.

    `target` appears whole or not at all; an earlier export in its place is replaced in two renames.
    Raises Refused: FT-ADP-001, FT-ADP-010, FT-ADP-011, FT-ADP-013, FT-ART-002, FT-ART-003.
    """
    source = adapter.folder()
    contract = read_adapter_contract(source)
    base = models.locate(contract.base.name, store.root.parent, contract.base.revision)
    card = Card(
        recipe=adapter.manifest.recipe, contract=contract, summary=adapter.summary, base_folder=base,
        evaluation=find_evaluation(store, adapter), libraries=adapter.manifest.libraries,
    )  # fmt: skip
    report: dict[str, Any] = {
        "asset": adapter.asset, "recipe": adapter.recipe_id, "data_version": adapter.data_version,
        "base": msgspec.to_builtins(contract.base), "libraries": library_versions(),
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        trained = staging / weights_folder(contract)
        shutil.copytree(source / trained.name, trained)
        shutil.copy2(source / CONTRACT_FILE, trained)
        write_card(trained / "README.md", card)
        if contract.method == "full":
            _copy_licences(base, trained)
        if merged or gguf_tool:
            on_step(f"merging into {contract.base.name}")
            proof = merge_adapter(source, base, staging / "merged", dtype)
            report["merged"] = msgspec.to_builtins(proof)
            shutil.copy2(source / CONTRACT_FILE, staging / "merged")
            _copy_licences(base, staging / "merged")
            write_card(staging / "merged/README.md", msgspec.structs.replace(card, merged=report["merged"]))
        if gguf_tool:
            on_step(f"converting with {gguf_tool.name}")
            convert_to_gguf(gguf_tool, staging / "merged", staging / GGUF_FILE, gguf_type)
        if not merged:
            shutil.rmtree(staging / "merged", ignore_errors=True)
        files = [path for path in sorted(staging.rglob("*")) if path.is_file()]
        for path in files:
            path.chmod(0o644)  # safetensors writes files that only their owner may read
        report["files"] = {path.relative_to(staging).as_posix(): file_digest(path) for path in files}
        write_json(staging / REPORT_FILE, report)
        _move_into_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def is_export(folder: Path) -> bool:
    """Whether `export` made this folder."""
    return (folder / REPORT_FILE).is_file()


def find_gguf_tool(given: Path | None) -> Path:
    """llama.cpp's converter, as given or from PATH. Raises Refused (FT-ADP-012); the `gguf` package has none."""
    on_path = shutil.which(GGUF_TOOL)
    found = given or (Path(on_path) if on_path else None)
    if found is not None and found.is_file():
        return found
    violation = Violation(
        code="FT-ADP-012", where=str(given or "PATH"), message="the GGUF converter is not there.", field="file",
        found=None, expected=GGUF_TOOL,
        fix=f"get llama.cpp, then --gguf-tool PATH/{GGUF_TOOL}; or export with --merged and convert elsewhere",
    )  # fmt: skip
    raise Refused("exporting GGUF", [violation])


def convert_to_gguf(tool: Path, model: Path, target: Path, kind: str) -> None:
    """Run the converter: a Python script with this Python, anything else as it is. Raises Refused (FT-ADP-013)."""
    start = [sys.executable, str(tool)] if tool.suffix == ".py" else [str(tool.resolve())]
    done = subprocess.run(
        [*start, str(model), "--outfile", str(target), "--outtype", kind], capture_output=True, text=True, check=False
    )
    if done.returncode == 0 and target.is_file() and _starts_with(target, b"GGUF"):
        return
    said = (done.stderr or done.stdout).strip().splitlines()[-_SAID_LINES:]
    violation = Violation(
        code="FT-ADP-013", where=str(tool), message=f"the GGUF converter failed: {' / '.join(said) or 'no file'}",
        field="exit code", found=done.returncode, expected="0, and a GGUF file",
        fix="install what it misses into this Python, or take a llama.cpp that knows this architecture",
    )  # fmt: skip
    raise Refused("exporting GGUF", [violation])


def find_evaluation(store: ArtifactStore, adapter: Artifact) -> Mapping[str, Any] | None:
    """The newest adapter_evaluation that judged exactly this adapter."""
    judged = (e for e in store.versions("adapter_evaluation")
              if e.manifest.recipe.inputs.get(adapter.asset) == adapter.data_version)  # fmt: skip
    found = next(judged, None)
    return found.summary if found else None


def link_final_model(run_dir: Path, adapter: Artifact) -> None:
    """`<run>/final_model` -> what was published. Run and artifact have one recipe, so that it never goes stale."""
    link = run_dir / FINAL_MODEL
    fresh = run_dir / f".{FINAL_MODEL}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    published = adapter.path / weights_folder(read_adapter_contract(adapter.path))
    fresh.symlink_to(os.path.relpath(published, run_dir.resolve()))
    fresh.replace(link)


def forget_published(run_dir: Path) -> None:
    """Where this run was published once and its artifact was lost: what is told from now on is told of a new one."""
    link = run_dir / FINAL_MODEL
    if link.is_symlink():
        (run_dir / METRICS_FILE).unlink(missing_ok=True)
        link.unlink()


def _copy_licences(base: Path, target: Path) -> None:
    for path in [*base.glob("LICENSE*"), *base.glob("NOTICE*")]:
        shutil.copy2(path, target)


def _move_into_place(staging: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(aside)
    staging.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic
