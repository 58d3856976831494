"""The consumer contracts: what each module that uses ours needs. Every release candidate is checked against all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expectations.contracts.embedding import EmbeddingContract, Fusion
from expectations.violations import Refused, Violation, violation

CONSUMER_FOLDER = Path(__file__).parent / "consumers"
_ENDINGS = {".yaml", ".yml"}

_Unmet = tuple[str, object, object]
"""A need that is not met: the field, the candidate's value, the accepted ones."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Strict):
    """The numbers from `least` to `most`, both included."""

    least: float = 0.0
    most: float = float("inf")


class RetrievalNeeds(_Strict):
    """The values that a consumer accepts in the collection it queries; None accepts anything. `rerank`: ranks
    again with the model that the contract names; False, the default, for a consumer that does not."""

    dimensions: list[int] | None = None
    distances: list[Literal["cosine", "dot", "euclid"]] | None = None
    fusion: list[Literal["weighted_sum", "dbsf", "rrf"]] | None = None
    dense_weight: Range = Range()
    sparse_weight: Range = Range()
    rerank: bool | None = False
    min_recall_at_10: float = Field(default=0.0, ge=0, le=1)


class Consumer(_Strict):
    """One module: its needs of retrieval, and record format -> the versions that it reads from us or writes for us."""

    name: str
    owner: str
    description: str
    reads: dict[str, list[int]] = {}
    writes: dict[str, list[int]] = {}
    retrieval: RetrievalNeeds | None = None


def load_consumers(folder: Path | None = None) -> list[Consumer]:
    """Return every consumer contract in `folder` (default: consumers/ next to this file).

    Raises Refused (FT-CON-001) with every error in every file, and for a file that is no contract by its name. A folder
    without a contract is an error too: it would let every candidate pass.
    """
    folder = folder or CONSUMER_FOLDER
    paths = _files(folder)
    if not any(path.suffix in _ENDINGS for path in paths):
        raise Refused("reading the consumer contracts", [_unreadable(folder, "", "the folder has no contract")])
    return _load(paths)


def find_consumer(name: str, folder: Path = CONSUMER_FOLDER) -> Consumer:
    """Return one contract, by the path of its file or by its name in `folder`. Raises Refused (FT-CON-001)."""
    path, contracts = Path(name), [file for file in _files(folder) if file.suffix in _ENDINGS]
    if path.suffix not in _ENDINGS:
        path = next((file for file in contracts if file.stem == name), path)
    if not path.is_file():
        known = ", ".join(file.stem for file in contracts)
        raise Refused(
            "reading the consumer contract", [_unreadable(Path(name), "", f"no such file, and none of {known}")]
        )
    return _load([path])[0]


def _files(folder: Path) -> list[Path]:
    """Return what is to be a contract in a folder: each entry but folders, hidden files and what people read."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        path
        for path in found
        if path.suffix in _ENDINGS
        or not (path.is_dir() or path.name.startswith(".") or path.suffix == ".md" or path.stem == "README")
    ]


def _load(paths: Iterable[Path]) -> list[Consumer]:
    from ruamel.yaml.error import YAMLError

    from expectations.yaml_text import load_yaml

    consumers: list[Consumer] = []
    violations: list[Violation] = []
    for path in paths:
        if path.suffix not in _ENDINGS:
            violations.append(
                _unreadable(path, "", "its name ends neither in .yaml nor in .yml. Rename it, or remove it")
            )
            continue
        try:
            consumers.append(Consumer.model_validate(load_yaml(path.read_text("utf-8"))))
        except YAMLError as error:
            violations.append(_unreadable(path, "", " ".join(str(error).split())))
        except (OSError, UnicodeDecodeError) as error:
            violations.append(_unreadable(path, "", str(error)))
        except ValidationError as error:
            violations += [_unreadable(path, ".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
    if violations:
        raise Refused("reading the consumer contracts", violations)
    return consumers


def broken_retrieval_needs(consumer: Consumer, contract: EmbeddingContract, recall_at_10: float) -> list[Violation]:
    """FT-CON-002: this candidate gives what `consumer` needs of retrieval."""
    needs = consumer.retrieval
    if needs is None:
        return []
    serving, fusion = contract.serving, contract.fusion
    if serving is None or fusion is None:
        raise ValueError("a candidate's contract needs `serving` and `fusion`")
    unmet: list[_Unmet] = [
        *_unmet_choices(
            ("dimension", serving.dimension, needs.dimensions),
            ("distance", serving.distance, needs.distances),
            ("fusion", fusion.fusion, needs.fusion),
            ("rerank", fusion.rerank is not None, None if needs.rerank is None else [needs.rerank]),
        ),
        *_unmet_weights(fusion, needs),
    ]
    if recall_at_10 < needs.min_recall_at_10:
        unmet.append(("Recall@10", round(recall_at_10, 4), f"at least {needs.min_recall_at_10:g}"))
    return [
        violation(
            "FT-CON-002",
            where=f"consumer {consumer.name}",
            message=f"{consumer.name} does not accept this candidate",
            field=field,
            found=found,
            expected=expected,
            fix=f"Change the setting back, or agree with {consumer.owner} and change expectations/contracts/consumers.",
        )
        for field, found, expected in unmet
    ]


def broken_formats(consumer: Consumer, offered: Mapping[str, int]) -> list[Violation]:
    """FT-CON-003: each side reads the versions that the other one writes. `offered`: format -> our version.

    `consumer` must read the version that we write. We read our own version and every older one.
    """
    unread = [
        ("reads", name, versions) for name, versions in consumer.reads.items() if offered.get(name) not in versions
    ]
    unread += [
        ("writes", name, versions)
        for name, versions in consumer.writes.items()
        if not all(1 <= version <= offered.get(name, 0) for version in versions)
    ]
    return [
        violation(
            "FT-CON-003",
            where=f"consumer {consumer.name}",
            message=f"{consumer.name} {verb} another version of a format",
            field=name,
            found=offered.get(name),
            expected=versions,
            fix=f"Convert to a version that both know, or agree with {consumer.owner} on the new one.",
        )
        for verb, name, versions in unread
    ]


def _unmet_choices(*needs: tuple[str, object, Sequence[object] | None]) -> Iterator[_Unmet]:
    """Yield each (field, value, accepted values) whose value is not accepted."""
    for field, value, accepted in needs:
        if accepted is not None and value not in accepted:
            yield field, value, accepted


def _unmet_weights(fusion: Fusion, needs: RetrievalNeeds) -> Iterator[_Unmet]:
    """Yield each weight of a weighted sum that is outside the accepted range; other methods have no weights."""
    if fusion.fusion != "weighted_sum":
        return
    for field, value, accepted in (
        ("dense_weight", fusion.dense_weight, needs.dense_weight),
        ("sparse_weight", fusion.sparse_weight, needs.sparse_weight),
    ):
        if not accepted.least <= value <= accepted.most:
            yield field, value, f"{accepted.least:g} to {accepted.most:g}"


def _unreadable(path: Path, field: str, reason: str) -> Violation:
    return violation(
        "FT-CON-001",
        where=str(path),
        message=f"The consumer contract cannot be read: {reason}",
        field=field,
        found="invalid",
        expected="the keys of Consumer in expectations/contracts/consumer.py",
    )
