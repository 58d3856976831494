"""Read config.yaml: base, profile, environment, in this order. Every error is reported at once."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from expectations.yaml_text import load_yaml
from ft_assets.config.model import FILE_ENTRY, RENAMED, SCHEMA_VERSION, FileEntry, Settings, section_of
from resources.artifacts import write_json
from resources.memo import Memo

ENV_PREFIX = "FT__"
ACCEPTED_FILE = "settings.json"
_MAX_BYTES = 1 << 20


class Fault(str):
    """An error in config.yaml as one line, with its parts: `reason` is the line without the key and its value."""

    key: str
    reason: str
    found: object
    expected: str

    def __new__(cls, line: str, key: str = "", reason: str = "", found: object = None, expected: str = "") -> Fault:
        fault = super().__new__(cls, line)
        fault.key, fault.reason, fault.found, fault.expected = key, reason or line, found, expected
        return fault


class SettingsError(Exception):
    """Errors in config.yaml, its profile or its environment overrides, one line each."""

    def __init__(self, source: Path, errors: Sequence[str]) -> None:
        self.errors = [error if isinstance(error, Fault) else Fault(error) for error in errors]
        super().__init__(f"{source} cannot be used:\n" + "\n".join(f"  - {error}" for error in errors))


def project_root() -> Path:
    """Return the folder of config.yaml: that of `FT_CONFIG`, else the nearest one at or above the working directory
    that has the file, else the working directory."""
    if configured := os.environ.get("FT_CONFIG"):
        return Path(configured).resolve().parent
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "config.yaml").is_file()), here)


def config_path() -> Path:
    """Return the path of config.yaml: `FT_CONFIG`, else the file in the project root."""
    return Path(os.environ.get("FT_CONFIG") or project_root() / "config.yaml").resolve()


def state_dir() -> Path:
    """Return the state folder: `FT_STATE_DIR`, else .ft next to config.yaml. Nothing is written anywhere else."""
    configured = os.environ.get("FT_STATE_DIR")
    state = Path(configured).resolve() if configured else project_root() / ".ft"
    existing = next(folder for folder in (state, *state.parents) if folder.exists())
    if not existing.is_dir():
        raise SettingsError(state, [f"{existing} is a file. FT_STATE_DIR names the folder of the state. Correct it."])
    if existing != state and not os.access(existing, os.W_OK):
        raise SettingsError(state, [f"nothing can be written to {existing}. Correct FT_STATE_DIR."])
    return state


def make_state_folder(folder: Path) -> None:
    """Make a folder of the state. Raises SettingsError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"it cannot be made or written to ({error.strerror}). Correct FT_STATE_DIR."
        raise SettingsError(folder, [reason]) from error


def load_settings(
    path: Path | None = None, profile: str | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of `path` (default: `config_path()`) and `profile` (default: FT_PROFILE, else
    `default_profile`).

    Raises SettingsError with all errors: unreadable YAML, duplicate keys, unknown or renamed keys, wrong types,
    contradictions, mistyped `FT__` names.
    """
    path = path or config_path()
    environ = os.environ if environ is None else environ
    text = _read_text(path)
    changes = tuple(sorted((name, value) for name, value in environ.items() if name.startswith(ENV_PREFIX)))
    chosen = profile or environ.get("FT_PROFILE")
    return _LOADED.get((path, text, chosen, changes), lambda: _load(path, text, chosen, dict(changes)))


# a run reads the settings at every step, and parsing them takes a tenth of a second
_LOADED = Memo[Settings](size=8)
"""Path, text, profile and overrides -> settings."""


def _load(path: Path, text: str, profile: str | None, environ: Mapping[str, str]) -> Settings:
    document = _parse(path, text)
    errors: list[str] = []
    version = document.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise SettingsError(path, [f"schema_version is {version!r}, this release reads {SCHEMA_VERSION}. Upgrade it."])
    profiles = cast("dict[str, dict[str, Any]]", document.pop("profiles", None) or {})
    default_profile = document.pop("default_profile", None)
    chosen = profile or default_profile
    if chosen and chosen not in profiles:
        errors.append(f"profile {chosen!r} does not exist. Choose one of: {', '.join(sorted(profiles))}.")
    merged = _merge(document, profiles.get(chosen or "", {}))
    errors += _apply_environment(merged, environ)
    errors += _renamed_keys(merged, "")
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        errors += _explain(error)
    if errors or settings is None:
        raise SettingsError(path, errors)
    return settings


def accepted_settings(path: Path, state: Path) -> Settings:
    """Return the settings of `path`, or the last valid ones, kept below `state`, while `path` has errors.

    For processes that run while a person edits the file: a typing error must stop no run. Commands that a person starts
    use `load_settings` and report the errors. Raises SettingsError if this release never accepted any settings.
    """
    kept = state / ACCEPTED_FILE
    try:
        settings = load_settings(path)
    except SettingsError as error:
        try:
            return Settings.model_validate_json(kept.read_bytes())
        except (OSError, ValidationError):  # never accepted, or by another release, or damaged
            raise error from None
    values = settings.model_dump(mode="json")
    if state.is_dir() and not _holds(kept, values):
        write_json(kept, values)
    return settings


def _holds(kept: Path, values: Mapping[str, Any]) -> bool:
    """Return whether a file has these values; one that cannot be read has others, and is written again."""
    try:
        return json.loads(kept.read_text("utf-8")) == values
    except (OSError, ValueError, RecursionError):  # missing, invalid UTF-8, no JSON
        return False


def profiles(path: Path | None = None) -> list[str]:
    """Return the names of the profiles in config.yaml."""
    path = path or config_path()
    return sorted(_parse(path, _read_text(path)).get("profiles") or {})


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise SettingsError(path, ["the file does not exist. Set FT_CONFIG, or run inside the project."])
    if path.stat().st_size > _MAX_BYTES:
        raise SettingsError(path, [f"the file is larger than {_MAX_BYTES} bytes."])
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(path, [f"not valid YAML: {' '.join(str(error).split())}"]) from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        # ruamel, not PyYAML: duplicate keys are errors, 1e-5 is a number and `no` is a string
        document = load_yaml(text)
    except YAMLError as error:
        raise SettingsError(path, [f"not valid YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(document, dict):
        raise SettingsError(path, ["the top level must be a mapping of sections."])
    return cast("dict[str, Any]", document)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


def _apply_environment(document: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    errors: list[str] = []
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        keys = name.removeprefix(ENV_PREFIX).lower().split("__")
        unknown = _unknown_key(keys)
        if unknown:
            errors.append(f"environment {name}: {unknown}")
            continue
        node = document
        for key in keys[:-1]:
            child = node.get(key)
            node[key] = dict(cast("dict[str, Any]", child)) if isinstance(child, dict) else {}
            node = node[key]
        try:
            node[keys[-1]] = _read_value(environ[name], keys)
        except YAMLError:
            errors.append(f"environment {name}: {environ[name]!r} is not valid YAML.")
    return errors


def _read_value(value: str, keys: Sequence[str]) -> object:
    """Return the value of a key from the environment: of a text as it is, of anything else read as YAML.

    `query: ` is a prompt, and would be a mapping as YAML; `1234567` may be a revision.
    """
    kinds = _kinds_of(keys)
    if kinds == {str} or (kinds == {str, type(None)} and value not in {"", "~", "null"}):
        return value
    return cast("Any", YAML(typ="safe", pure=True)).load(value)


def _kinds_of(keys: Sequence[str]) -> set[object]:
    """Return the types that a key's value may have."""
    model: type[BaseModel] = Settings
    for key in keys[:-1]:
        model = section_of(model.model_fields[key].annotation) or model
    annotation = model.model_fields[keys[-1]].annotation
    return set(get_args(annotation)) if get_origin(annotation) in {Union, UnionType} else {annotation}


def _unknown_key(keys: list[str], model: type[BaseModel] | None = Settings, top: str = "the top level") -> str | None:
    """Return why `keys` is no path of keys in Settings, with the nearest name; None if it is one."""
    for depth, key in enumerate(keys):
        here = ".".join(keys[:depth]) or top
        if model is None:
            return f"{here} has no keys below it."
        if key not in model.model_fields:
            near = difflib.get_close_matches(key, model.model_fields, n=1)
            return f"{key!r} is not a key of {here}." + (f" Did you mean {near[0]!r}?" if near else "")
        model = section_of(model.model_fields[key].annotation)
    return None


def _renamed_keys(node: Mapping[str, Any], at: str) -> list[str]:
    errors: list[str] = []
    for key, value in node.items():
        where = f"{at}.{key}" if at else key
        if key in RENAMED and _unknown_key(where.split(".")):
            errors.append(f"{where}: this name is no longer used. Write {RENAMED[key]} instead.")
        if isinstance(value, dict):
            errors += _renamed_keys(cast("dict[str, Any]", value), where)
    return errors


def _explain(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        where = ".".join(path) or "config"
        if item["type"] == "extra_forbidden":
            if path[-1] in RENAMED:
                continue  # _renamed_keys reports it with the new name
            in_list = FILE_ENTRY in path
            unknown = _unknown_key(path[-1:], FileEntry, "an entry") if in_list else _unknown_key(path)
            reason = unknown or "unknown key."
            lines.append(Fault(f"{where}: {reason}", where, reason, path[-1], "a key that exists"))
        elif item["type"] == "missing":
            lines.append(Fault(f"{where}: required, but not set.", where, "required, but not set.", None, "a value"))
        else:
            reason = item["msg"].removeprefix("Value error, ")
            given = item["input"]
            value = "" if isinstance(given, dict) else f" (got {given!r})"
            found = "several keys that disagree" if isinstance(given, dict) else given
            lines.append(Fault(f"{where}: {reason}{value}", where, reason, found, reason))
    return lines
