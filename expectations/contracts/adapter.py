"""The adapter contract: the base model, prompt and method that an adapter (or a whole model) was trained with.

It is compared whenever something is loaded, so that an adapter never runs on another base or with another prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from expectations.contracts.compare import Comparison, Difference, Level, differences
from expectations.contracts.fingerprint import fingerprint, stop_tokens, template_digest
from expectations.violations import Refused


class BaseModelIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The base model by name and by content; equal content under another name is the same base."""

    name: str
    revision: str | None
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    stop_token_ids: list[int]


class RagPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt's fields: training, evaluation and serving must agree on them."""

    system: str
    template: str
    separator: str


class LoraShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rank, alpha, target modules (sorted) and variant of the adapter."""

    r: int
    alpha: int
    targets: list[str]
    rslora: bool = False
    dora: bool = False


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


# A name is no content. A different prompt or reasoning policy still runs, with worse answers than it was trained for;
# with any other difference the adapter cannot run.
_NAMES = ("base.name", "base.revision")
_RETRAIN = ("prompt.", "reasoning")
_FIX = "ft run --asset sft_adapter --asset dpo_adapter (trains for what is configured now), or set the field back"


def compare(stored: AdapterContract, expected: AdapterContract) -> Comparison:
    """Return the comparison of two contracts: IDENTICAL, RETRAIN (only the prompt or the reasoning policy differs) or
    BROKEN (base, tokenizer, template, method or shape)."""
    return _judge(differences(stored, expected, ignore=_NAMES))


def compare_base(stored: AdapterContract, base: BaseModelIdentity) -> Comparison:
    """Compare an adapter's base with a base model: IDENTICAL (it may be loaded there) or BROKEN."""
    return _judge(_branch("base", stored.base, base))


def compare_prompt(stored: AdapterContract, prompt: RagPrompt) -> Comparison:
    """Compare the prompt of an adapter's training with another: IDENTICAL or RETRAIN."""
    return _judge(_branch("prompt", stored.prompt, prompt))


def refuse_mismatch(contract: Path | str, base_folder: Path | str, prompt: RagPrompt | None = None) -> AdapterContract:
    """Refuse to serve an adapter on a base or with a prompt that it was not trained for. Returns its contract.

    `contract`: the contract.json next to the adapter. `base_folder`: the model as it will be loaded: an adapter's base,
    or (method `full`) the whole model itself. `prompt`: the prompt that will be sent, to compare it too.
    Needs only the base install. Reads every weight file once (about 1 GB a second).
    Raises Refused with every difference: FT-ADP-001 (weights, tokenizer, chat template, stop tokens), FT-ADP-002
    (prompt); FileNotFoundError where `base_folder` holds no model.
    Without a tokenizer.json the end token's id is unknown here, and only the tokenizer's hash is compared.
    """
    stored = msgspec.json.decode(Path(contract).read_bytes(), type=AdapterContract)
    folder = Path(base_folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model (config.json)")
    prints = fingerprint(folder)
    base = BaseModelIdentity(
        name=str(folder),
        revision=None,
        weights_sha256=prints["weights"],
        tokenizer_sha256=prints["tokenizer"],
        chat_template_sha256=template_digest(folder),
        stop_token_ids=stop_tokens(folder) if (folder / "tokenizer.json").is_file() else stored.base.stop_token_ids,
    )
    loaded = stored.base
    if stored.method == "full":
        loaded = msgspec.structs.replace(loaded, weights_sha256=stored.weights_sha256)
    differing = _branch("base", loaded, base)
    if prompt is not None:
        differing += _branch("prompt", stored.prompt, prompt)
    if differing:
        raise Refused(f"{contract} on {folder}", _judge(differing).violations(str(contract)))
    return stored


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
