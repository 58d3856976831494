"""The guard for a service that opens a collection; it needs the base install and qdrant-client.

    from expectations.contracts.collection import guard_collection
    contract = guard_collection(client, "passages", "model/contract.json", encode=model.encode)

It refuses a collection whose vectors another model made than the service's, even where every dimension agrees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from expectations.contracts.compare import Comparison, Difference, Level
from expectations.contracts.embedding import (
    CONTRACT_FILE,
    DENSE_TOLERANCE,
    EmbeddingContract,
    Serving,
    cosine,
    dimension_violations,
    guard,
    read_contract,
)
from expectations.violations import Refused, Violation, violation

Encode = Callable[[list[str], str], Sequence[Sequence[float]]]
"""(texts, "query" or "passage") -> one dense vector for each text, whole or cut to the served dimension."""

_NOT_FOUND = 404


class Reader(Protocol):
    """The part of qdrant_client.QdrantClient that is used here; this module does not import it."""

    def get_collection(self, collection_name: str) -> Any: ...


def guard_collection(
    client: Reader,
    name: str,
    expected: EmbeddingContract | Mapping[str, Any] | str | Path,
    *,
    encode: Encode | None = None,
) -> EmbeddingContract:
    """Return the contract of the collection (or alias) `name` after checking that it fits the model of your queries.

    `expected` is that model's contract: contract.json of the model folder, the folder, or its content. With `encode`
    the model itself is tried: it must give the contract's probe texts the vectors that the contract records.
    Raises Refused: FT-EMB-001 the collection carries no contract, FT-EMB-002 another model made it (even with the same
    dimension), FT-EMB-003 the model was not trained for the served dimension, FT-COL-003 the collection is not built as
    its contract says, FT-COL-008 there is no such collection or alias.
    """
    config = _configuration(client, name)
    metadata: dict[str, Any] = config.metadata or {}
    carried: Any = metadata.get("contract")
    stored = read_contract(carried or {}, f"collection {name}")
    misbuilt = check_configuration(name, configured_serving(config), stored.serving)
    if misbuilt or stored.serving is None:
        raise Refused(f"opening {name}", misbuilt)
    model = _read(expected)
    if untrained := dimension_violations(model, stored.serving.dimension, name):
        raise Refused(f"opening {name}", untrained)
    guard(stored, model.as_in(stored), name)
    if encode is not None and (drifted := _drift(stored, encode)):
        fix = "Load the model that the collection's contract names (weights_sha256, pooling, prompts)."
        raise Refused(f"opening {name}", Comparison(Level.BROKEN, drifted, "FT-EMB-002", fix).violations(name))
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
        message = f"The engine has no collection or alias {name!r}"
        missing = violation(
            "FT-COL-008", where=str(place), message=message, field="collection", found="missing", expected=name
        )
        raise Refused(f"opening {name}", [missing]) from error


def _read(expected: EmbeddingContract | Mapping[str, Any] | str | Path) -> EmbeddingContract:
    if isinstance(expected, EmbeddingContract):
        return expected
    if isinstance(expected, Mapping):
        return read_contract(expected, "the expected contract")
    path = Path(expected)
    path = path / CONTRACT_FILE if path.is_dir() else path
    return read_contract(json.loads(path.read_text("utf-8")), str(path))


def configured_serving(config: Any) -> Serving | None:
    """Return dimension and distance of `dense` in a collection's configuration from qdrant-client; None without one."""
    vectors: Any = config.params.vectors
    dense: Any = cast("Mapping[str, Any]", vectors).get("dense") if isinstance(vectors, Mapping) else None
    return Serving(dimension=dense.size, distance=dense.distance.value.lower()) if dense else None


def check_configuration(where: str, config: Serving | None, stored: Serving | None) -> list[Violation]:
    """FT-COL-003: the configuration of the engine (`config`) agrees with the contract of the collection (`stored`)."""
    if stored is not None and config == stored.form:
        return []
    found, expected = _in_words(config), _in_words(stored)
    return [violation("FT-COL-003", where=where, field="dimension, distance", found=found, expected=expected)]


def _in_words(serving: Serving | None) -> str:
    return f"{serving.dimension}, {serving.distance}" if serving else "none"


def _drift(stored: EmbeddingContract, encode: Encode) -> list[Difference]:
    served = stored.serving.dimension if stored.serving else 0
    drifted: list[Difference] = []
    for kind in ("query", "passage"):
        probes = [probe for probe in stored.probes if probe.kind == kind]
        if not probes:
            continue
        vectors = encode([probe.text for probe in probes], kind)
        for probe, vector in zip(probes, vectors, strict=True):
            width = served if len(vector) == served else len(probe.dense)
            similarity = cosine(probe.dense[:width], [float(value) for value in vector])
            if not similarity >= DENSE_TOLERANCE:  # a NaN must fail
                drifted.append(Difference(f"probe {probe.text!r} (cosine)", round(similarity, 6), DENSE_TOLERANCE))
    return drifted
