"""The adapter contract: the base model, prompt and method that an adapter (or a whole model) was trained with.

It is compared whenever something is loaded, so that an adapter never runs on another base or with another prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from expectations.canonical import file_digest
from expectations.contracts.compare import Comparison, Difference, Level, differences
from expectations.contracts.fingerprint import configuration, fingerprint, stop_tokens, template_digest
from expectations.violations import Refused


class BaseModelIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The base model by name and by content; equal content under another name is the same base."""

    name: str
    revision: str | None
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    stop_token_ids: list[int]
    config: dict[str, Any] | UnsetType = UNSET
    """The configuration that decides what the weights compute; contracts of earlier product versions have none."""


class RagPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt's fields: training, evaluation and serving must agree on them."""

    system: str
    template: str
    separator: str


class LoraShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rank, alpha, target modules (sorted) and variant of the adapter, and what was trained with it."""

    r: int
    alpha: int
    targets: list[str]
    rslora: bool = False
    dora: bool = False
    modules_to_save: list[str] = []
    """Modules that were trained as a whole."""
    train_tokens: list[int] = []
    """Tokens whose rows of the embedding were trained."""


class AdapterContract(msgspec.Struct, frozen=True, kw_only=True):
    """The contract.json next to the trained weights."""

    version: int = 1
    base: BaseModelIdentity
    prompt: RagPrompt
    reasoning: str
    method: Literal["lora", "full"] = "lora"
    """`lora` trained an adapter, to be loaded on the base; `full` trained a model that is loaded alone."""
    lora: LoraShape | None = None
    """The shape of an adapter."""
    weights_sha256: str | None = None
    """The hash of a whole model's weight files, as `base.weights_sha256` is the hash of the base's."""
    config: dict[str, Any] | UnsetType = UNSET
    """The configuration of a whole model, as `base.config` is the base's."""


# A name is no content. A different prompt or reasoning policy still runs, with worse answers than it was trained for;
# with any other difference the adapter cannot run.
_NAMES = ("base.name", "base.revision")
_RETRAIN = ("prompt.", "reasoning")
_FIX = "ft run --asset sft_adapter --asset dpo_adapter (trains for what is configured now), or set the field back"


def compare(stored: AdapterContract, expected: AdapterContract) -> Comparison:
    """Return the comparison of two contracts: IDENTICAL, RETRAIN (only the prompt or the reasoning policy differs) or
    BROKEN (base, tokenizer, template, method or shape)."""
    return _judge(differences(stored, expected, ignore=_skipped(stored.base, expected.base)))


def compare_base(stored: AdapterContract, base: BaseModelIdentity) -> Comparison:
    """Compare an adapter's base with a base model: IDENTICAL (it may be loaded there) or BROKEN."""
    return _judge(_base_differences(stored.base, base))


def base_of(folder: Path, stored: AdapterContract, digest_of: Callable[[Path], str] = file_digest) -> BaseModelIdentity:
    """Return the identity of the model in a folder, read without torch or transformers.

    Without a tokenizer.json the end token's id is unknown here: the `stored` one is taken, and the tokenizer's hash
    decides. FileNotFoundError where the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model (config.json)")
    prints = fingerprint(folder, digest_of)
    return BaseModelIdentity(
        name=str(folder),
        revision=None,
        weights_sha256=prints["weights"],
        tokenizer_sha256=prints["tokenizer"],
        chat_template_sha256=template_digest(folder),
        stop_token_ids=stop_tokens(folder) if (folder / "tokenizer.json").is_file() else stored.base.stop_token_ids,
        config=configuration(folder),
    )


def compare_prompt(stored: AdapterContract, prompt: RagPrompt) -> Comparison:
    """Compare the prompt of an adapter's training with another: IDENTICAL or RETRAIN."""
    return _judge(_branch("prompt", stored.prompt, prompt))


def refuse_mismatch(contract: Path | str, base_folder: Path | str, prompt: RagPrompt | None = None) -> AdapterContract:
    """Refuse to serve an adapter on a base or with a prompt that it was not trained for. Returns its contract.

    `contract`: the contract.json next to the adapter. `base_folder`: the model as it will be loaded: an adapter's base,
    or (method `full`) the whole model itself. `prompt`: the prompt that will be sent, to compare it too.
    Needs only the base install. Reads every weight file once (about 1 GB a second).
    Raises Refused with every difference: FT-ADP-001 (weights, configuration, tokenizer, chat template, stop tokens),
    FT-ADP-002 (prompt); FileNotFoundError where `base_folder` holds no model.
    """
    stored = msgspec.json.decode(Path(contract).read_bytes(), type=AdapterContract)
    base, loaded = base_of(Path(base_folder), stored), stored.base
    if stored.method == "full":
        loaded = msgspec.structs.replace(loaded, weights_sha256=stored.weights_sha256, config=stored.config)
    differing = _base_differences(loaded, base)
    if prompt is not None:
        differing += _branch("prompt", stored.prompt, prompt)
    if differing:
        raise Refused(f"{contract} on {base_folder}", _judge(differing).violations(str(contract)))
    return stored


def _base_differences(stored: BaseModelIdentity, found: BaseModelIdentity) -> list[Difference]:
    return differences({"base": stored}, {"base": found}, ignore=_skipped(stored, found))


def _skipped(*bases: BaseModelIdentity) -> tuple[str, ...]:
    """Return the fields that are not compared: names, and a configuration that only one side has recorded."""
    return (*_NAMES, "base.config") if any(base.config is UNSET for base in bases) else _NAMES


def _branch(name: str, stored: msgspec.Struct, expected: msgspec.Struct) -> list[Difference]:
    return differences({name: msgspec.to_builtins(stored)}, {name: msgspec.to_builtins(expected)}, ignore=_NAMES)


def _judge(differing: list[Difference]) -> Comparison:
    """Return the comparison with these differences; those that a new training fixes break FT-ADP-002."""
    fixable = [difference.field.startswith(_RETRAIN) for difference in differing]
    level = Level.IDENTICAL if not differing else Level.RETRAIN if all(fixable) else Level.BROKEN
    coded = [
        msgspec.structs.replace(difference, code="FT-ADP-002" if retrain else "FT-ADP-001")
        for difference, retrain in zip(differing, fixable, strict=True)
    ]
    return Comparison(level, coded, "FT-ADP-001", _FIX)
