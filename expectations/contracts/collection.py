"""The guard for whoever opens a collection: another team's service with the base install and qdrant-client.

    from expectations.contracts.collection import guard_collection
    contract = guard_collection(client, "passages", "model/contract.json", encode=model.encode)

It refuses a collection whose vectors the service's model did not make, even where every dimension agrees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from expectations.contracts.compare import Difference
from expectations.contracts.embedding import (
    DENSE_TOLERANCE,
    FILE,
    Comparison,
    EmbeddingContract,
    Level,
    Serving,
    cosine,
    dimension_violations,
    guard,
    read_contract,
)
from expectations.violations import Refused, Violation

Encode = Callable[[list[str], str], Sequence[Sequence[float]]]
"""(texts, "query" or "passage") -> one dense vector a text, whole or cut to the served dimension."""


_NOT_FOUND = 404


class Reader(Protocol):
    """What is used of qdrant_client.QdrantClient, which this module does not import."""

    def get_collection(self, collection_name: str) -> Any: ...


def guard_collection(
    client: Reader,
    name: str,
    expected: EmbeddingContract | Mapping[str, Any] | str | Path,
    *,
    encode: Encode | None = None,
) -> EmbeddingContract:
    """The contract of the collection (or alias) `name`, once it is proved to fit the model you encode queries with.

    `expected` is that model's contract: contract.json of the model folder, the folder, or what is read from it. With
    `encode` the model itself is asked: it must give the contract's probe texts the vectors that the contract records.
    Raises Refused: FT-EMB-001 the collection carries no contract, FT-EMB-002 another model made it (the same dimension
    does not save it), FT-EMB-003 the model was not trained for the dimension served, FT-COL-003 the collection is not
    built as its contract says, FT-COL-008 there is no such collection or alias.
    """
    config = _configuration(client, name)
    metadata: dict[str, Any] = config.metadata or {}
    carried: Any = metadata.get("contract")
    stored = read_contract(carried or {}, f"collection {name}")
    serving = configured_serving(config)
    if stored.serving is None or serving != stored.serving:
        raise Refused(f"opening {name}", [_misbuilt(name, serving, stored.serving)])
    model = _read(expected)
    if broken := dimension_violations(model, stored.serving.dimension, name):
        raise Refused(f"opening {name}", broken)
    guard(stored, model.served(stored.serving, stored.fusion), name)
    if encode is not None and (drifted := _drift(stored, encode)):
        fix = "load the model that the collection's contract names (weights_sha256, pooling, prompts)"
        raise Refused(f"opening {name}", Comparison(Level.BROKEN, drifted, fix).violations(name))
    return stored


def _configuration(client: Reader, name: str) -> Any:
    try:
        return client.get_collection(name).config
    except Exception as error:
        # qdrant-client's local engine raises ValueError, a server's answer becomes UnexpectedResponse with its status
        if not isinstance(error, ValueError) and getattr(error, "status_code", None) != _NOT_FOUND:
            raise
        options: dict[str, Any] = getattr(client, "init_options", {})
        place = next((options[key] for key in ("url", "path", "host") if options.get(key)), "this engine")
        violation = Violation(
            code="FT-COL-008", where=str(place), message=f"it has no collection or alias {name!r}.", field="collection",
            found="missing", expected=name,
            fix="open the engine that config.yaml names (qdrant), or ft run --asset released_collection --upstream",
        )  # fmt: skip
        raise Refused(f"opening {name}", [violation]) from error


def _read(expected: EmbeddingContract | Mapping[str, Any] | str | Path) -> EmbeddingContract:
    if isinstance(expected, EmbeddingContract):
        return expected
    if isinstance(expected, Mapping):
        return read_contract(expected, "the expected contract")
    path = Path(expected)
    path = path / FILE if path.is_dir() else path
    return read_contract(json.loads(path.read_text("utf-8")), str(path))


def configured_serving(config: Any) -> Serving | None:
    """Dimension and distance of `dense` in a collection's configuration as qdrant-client gives it; None without one."""
    vectors: Any = config.params.vectors
    dense: Any = cast("Mapping[str, Any]", vectors).get("dense") if isinstance(vectors, Mapping) else None
    return Serving(dimension=dense.size, distance=dense.distance.value.lower()) if dense else None


def _drift(stored: EmbeddingContract, encode: Encode) -> list[Difference]:
    served = stored.serving.dimension if stored.serving else 0
    found: list[Difference] = []
    for kind in ("query", "passage"):
        probes = [probe for probe in stored.probes if probe.kind == kind]
        if not probes:
            continue
        vectors = encode([probe.text for probe in probes], kind)
        for probe, vector in zip(probes, vectors, strict=True):
            width = served if len(vector) == served else len(probe.dense)
            alike = cosine(probe.dense[:width], [float(value) for value in vector])
            if not alike >= DENSE_TOLERANCE:  # a NaN must fail
                found.append(Difference(f"probe {probe.text!r} (cosine)", round(alike, 6), DENSE_TOLERANCE))
    return found


def _misbuilt(name: str, config: Serving | None, said: Serving | None) -> Violation:
    return Violation(
        code="FT-COL-003", where=name, message="BROKEN: the engine's configuration is not what the contract says.",
        field="dimension, distance", found=str(config), expected=str(said), fix="ft run --group retrieval",
    )  # fmt: skip
