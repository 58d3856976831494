"""Text from a model, asked call by call: the one interface of a model in this process and of an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypedDict

import msgspec

from expectations.canonical import digest
from expectations.contracts.generator import GeneratorContract

BASE = "base"
"""The name of the model without an adapter; of an endpoint it is the model that is configured."""


PASSING = "FT-GEN-001"
"""The code of a call that failed for a reason that may pass."""


class GeneratorParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `generator` of config.yaml as a worker takes it. No secret is in it.

    Next to an endpoint, a local judge is opened with `msgspec.structs.replace(params, kind="local")`.
    """

    kind: Literal["local", "endpoint"] = "local"
    base_model: str = ""
    """Local: a hub name, a folder or `package:NAME`."""
    revision: str | None = None
    url: str = ""
    """Endpoint: its address up to /v1."""
    model: str = ""
    context_tokens: int = 0
    concurrency: int = 8
    timeout: float = 120.0
    max_retries: int = 5
    batch_size: int = 16
    max_tokens_total: int | None = None


class ChatMessage(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that decide a text next to its prompt and model."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token each time (greedy)."""
    top_p: float = 1.0
    seed: int = 42


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One text that is wanted. Calls with one prompt differ in `sample`, and are answered from one prefill."""

    messages: list[ChatMessage]
    sampling: Sampling
    model: str = BASE
    """`base`, or the name of an adapter of the source."""
    sample: int = 0
    """The number of this text among those of one prompt with one sampling."""


class ModelReply(msgspec.Struct, frozen=True, kw_only=True):
    """A model's text, stripped, without special tokens."""

    text: str
    prompt_tokens: int
    tokens: int
    """Number of generated tokens, without the one that ends them."""
    finish: Literal["stop", "length"]
    """`length` if max_new_tokens ended it."""
    opens_thought: bool = False
    """True if the prompt already ended with an open <think>."""
    attempts: int = 1


class NoReply(msgspec.Struct, frozen=True, kw_only=True):
    """A call without a text, after all attempts. It is never cached."""

    code: str
    """An FT-GEN code."""
    reason: str
    attempts: int = 1


Outcome = ModelReply | NoReply


def fault_of(outcome: Outcome) -> NoReply | None:
    """Return the reason for which an outcome cannot be used: none came, it was cut, or it is empty."""
    if isinstance(outcome, NoReply):
        return outcome
    if outcome.finish == "length":
        return NoReply(code="FT-GEN-003", reason=f"cut after {outcome.tokens} tokens", attempts=outcome.attempts)
    if not outcome.text:
        return NoReply(code="FT-GEN-004", reason="the reply is empty", attempts=outcome.attempts)
    return None


def call_key(call: Call, contract: str) -> str:
    """Return the hash of what decides a text: its messages, the digest of the model's contract and the sampling.

    Places, names and speed are not in it, so that a renamed file or another address costs no call. Greedy texts of one
    prompt are one text, whatever their seed and sample.
    """
    sampling = call.sampling
    drawn = [sampling.temperature, sampling.top_p, sampling.seed, call.sample] if sampling.temperature else []
    return digest(
        {"messages": call.messages, "contract": contract, "max_new_tokens": sampling.max_new_tokens, "drawn": drawn}
    )


class CallFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run's calls, as the summary of its artifact holds them. All but `cached` are of new calls."""

    calls: int = 0
    """New calls of this run."""
    cached: int = 0
    """Calls that were answered before."""
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


class TextSource(Protocol):
    """A back end: a model in this process, the same in actors of a cluster, or an endpoint."""

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of a model. Raises KeyError for a name that is not there."""
        ...

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        """Answer these calls, a few thousand at most. `on_outcome(n, outcome)` is called once for each, in any order,
        as soon as it is known."""
        ...

    def close(self) -> None:
        """Give back memory and connections."""
        ...
