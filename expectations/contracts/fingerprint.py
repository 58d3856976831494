"""The identity of a model folder (the Hugging Face layout) by its content, read without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, cast

from expectations.canonical import digest, file_digest, text_digest

_WEIGHTS = ("*.safetensors",)
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
# names, and what a loader chooses for itself: they decide no number that the model computes
_IMMATERIAL = (
    "_name_or_path", "_model_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype",
    "use_cache", "initializer_range",
)  # fmt: skip


def fingerprint(folder: Path, digest_of: Callable[[Path], str] = file_digest) -> dict[str, str]:
    """Return the sha256 of the weight files (`weights`) and of the tokenizer files (`tokenizer`) of a model folder."""
    return {"weights": _digest(folder, _WEIGHTS, digest_of), "tokenizer": _digest(folder, _TOKENIZER, digest_of)}


def configuration(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model as far as it decides what the weights compute: rope, norms, attention, sizes.

    The older way to write rope (`rope_theta`, `rope_scaling`) is returned in the newer one (`rope_parameters`).
    """
    config = {
        key: value
        for key, value in _json(folder / "config.json").items()
        if key not in _IMMATERIAL and value is not None
    }
    theta = config.pop("rope_theta", None)
    scaling: dict[str, Any] = config.pop("rope_scaling", None) or {}
    if "rope_parameters" not in config and theta is not None:
        kind = scaling.pop("type", scaling.get("rope_type", "default"))
        config["rope_parameters"] = {**scaling, "rope_type": kind, "rope_theta": theta}
    return config


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of the tokenizer, chat template included."""
    return _matching(folder, _TOKENIZER)


def chat_template(folder: Path) -> str:
    """Return the chat template as transformers finds it: its own file, else the tokenizer's configuration, else ""."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    configured = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(configured, str):
        return configured
    return next((template["template"] for template in configured if template["name"] == "default"), "")


def stop_tokens(folder: Path) -> list[int]:
    """Return the ids of the tokens that end an answer: the tokenizer's end token and those of generation_config.json.

    They are sorted. As in transformers, an older tokenizer's special_tokens_map.json is read first, where its
    configuration does not list the added tokens itself.
    """
    configured: int | list[int] | None = _json(folder / "generation_config.json").get("eos_token_id")
    stops = set(configured if isinstance(configured, list) else [] if configured is None else [configured])
    config = _json(folder / "tokenizer_config.json")
    older = {} if "added_tokens_decoder" in config else _json(folder / "special_tokens_map.json")
    named: Any = older.get("eos_token") or config.get("eos_token")
    end = cast("dict[str, Any]", named)["content"] if isinstance(named, dict) else named
    added: list[Any] = _json(folder / "tokenizer.json").get("added_tokens") or []
    return sorted(stops | {token["id"] for token in added if token["content"] == end})


def template_digest(folder: Path) -> str:
    """Return the sha256 of the chat template."""
    return text_digest(chat_template(folder))


def _digest(folder: Path, patterns: tuple[str, ...], digest_of: Callable[[Path], str]) -> str:
    return digest({path.name: digest_of(path) for path in _matching(folder, patterns)})


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(chain.from_iterable(folder.glob(pattern) for pattern in patterns))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
