"""AdapterContract: what an adapter (or a whole model) was trained on top of and with, so that it is never loaded on, or
served as, anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from expectations.contracts.compare import Difference, differences
from expectations.contracts.fingerprint import fingerprint, stop_tokens, template_digest
from expectations.violations import Refused, Violation

Outcome = Literal["COMPATIBLE", "RETRAIN", "BROKEN"]


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """The base by name and by content; equal content under another name is the same base."""

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


class LoraShape(msgspec.Struct, frozen=True, kw_only=True):
    """Rank, alpha and target modules (sorted) of the adapter."""

    r: int
    alpha: int
    targets: list[str]


class AdapterContract(msgspec.Struct, frozen=True, kw_only=True):
    """Travels beside what was trained as contract.json."""

    version: int = 1
    base: BaseModel
    prompt: RagPrompt
    reasoning: str
    method: Literal["lora", "full"] = "lora"
    """`lora` left an adapter, which goes on the base; `full` left a model of its own, on which nothing goes."""
    lora: LoraShape | None = None
    """Of an adapter."""
    weights_sha256: str | None = None
    """Of a whole model: over its weight files, as `base.weights_sha256` is over the base's."""


class Comparison(msgspec.Struct, frozen=True):
    """The outcome and every field that led to it."""

    outcome: Outcome
    differences: list[Difference]


_NAMES = ("base.name", "base.revision")
# A different prompt or reasoning policy still runs, with worse answers than it was trained for; the rest cannot run.
_RETRAIN = ("prompt.", "reasoning")


def compare(stored: AdapterContract, expected: AdapterContract) -> Comparison:
    """COMPATIBLE, RETRAIN (the prompt or the reasoning policy changed) or BROKEN (base, tokenizer, template, method,
    shape)."""
    return _judge(differences(stored, expected, ignore=_NAMES))


def compare_base(stored: AdapterContract, base: BaseModel) -> Comparison:
    """Whether the adapter may be loaded on this base model: COMPATIBLE or BROKEN."""
    return _judge(_branch("base", stored.base, base))


def compare_prompt(stored: AdapterContract, prompt: RagPrompt) -> Comparison:
    """Whether the adapter was trained with this prompt: COMPATIBLE or RETRAIN."""
    return _judge(_branch("prompt", stored.prompt, prompt))


def refuse_mismatch(contract: Path | str, base_folder: Path | str, prompt: RagPrompt | None = None) -> AdapterContract:
    """Refuse to serve an adapter on what it was not trained for; needs the base install only. Returns its contract.

    `contract`: the contract.json beside the adapter. `base_folder`: the model as it will be loaded: an adapter's base,
    or (method `full`) the whole model itself. `prompt`: the prompt that will be sent, if it shall be compared too.
    Reads every weight file once (about 1 GB a second).
    Raises Refused with every difference: FT-ADP-001 (weights, tokenizer, chat template, stop tokens), FT-ADP-002;
    FileNotFoundError where `base_folder` holds no model.
    Without a tokenizer.json the end token's id is unknown here, and the tokenizer's hash alone must tell.
    """
    stored = msgspec.json.decode(Path(contract).read_bytes(), type=AdapterContract)
    folder = Path(base_folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model (config.json)")
    prints = fingerprint(folder)
    base = BaseModel(
        name=str(folder),
        revision=None,
        weights_sha256=prints["weights"],
        tokenizer_sha256=prints["tokenizer"],
        chat_template_sha256=template_digest(folder),
        stop_token_ids=stop_tokens(folder) if (folder / "tokenizer.json").is_file() else stored.base.stop_token_ids,
    )
    wanted = stored.base
    if stored.method == "full":
        wanted = msgspec.structs.replace(wanted, weights_sha256=stored.weights_sha256)
    found = compare_base(msgspec.structs.replace(stored, base=wanted), base).differences
    if prompt is not None:
        found = [*found, *compare_prompt(stored, prompt).differences]
    if found:
        raise Refused(f"{contract} on {folder}", violations(_judge(found), str(contract)))
    return stored


def violations(comparison: Comparison, where: str) -> list[Violation]:
    """The comparison as broken rules: FT-ADP-001 for what breaks, FT-ADP-002 for what asks for a new training."""
    return [
        Violation(
            code="FT-ADP-002" if difference.field.startswith(_RETRAIN) else "FT-ADP-001",
            where=where, message="the adapter's contract differs from what it meets here.",
            field=difference.field, found=difference.stored, expected=difference.expected,
            fix="ft run --asset sft_adapter --asset dpo_adapter (trains for what is configured now), "
            "or set the field back",
        )
        for difference in comparison.differences
    ]  # fmt: skip


def _branch(name: str, stored: msgspec.Struct, expected: msgspec.Struct) -> list[Difference]:
    return differences({name: msgspec.to_builtins(stored)}, {name: msgspec.to_builtins(expected)}, ignore=_NAMES)


def _judge(found: list[Difference]) -> Comparison:
    if not found:
        return Comparison("COMPATIBLE", [])
    fixable = all(difference.field.startswith(_RETRAIN) for difference in found)
    return Comparison("RETRAIN" if fixable else "BROKEN", found)
