"""What a module around us relies on, one YAML file each; every release candidate is held against all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expectations.contracts.embedding import EmbeddingContract
from expectations.violations import Refused, Violation

FOLDER = Path(__file__).parent / "consumers"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Strict):
    """Both ends included."""

    least: float = 0.0
    most: float = float("inf")


class RetrievalNeeds(_Strict):
    """What a consumer accepts of the collection it queries; None accepts anything."""

    dimensions: list[int] | None = None
    distances: list[Literal["cosine", "dot", "euclid"]] | None = None
    fusion: list[Literal["weighted_sum", "dbsf", "rrf"]] | None = None
    dense_weight: Range = Range()
    sparse_weight: Range = Range()
    min_recall_at_10: float = Field(default=0.0, ge=0, le=1)


class Consumer(_Strict):
    """One module: what it needs of retrieval, and record format -> versions that it reads from us or writes for us."""

    name: str
    owner: str
    description: str
    reads: dict[str, list[int]] = {}
    writes: dict[str, list[int]] = {}
    retrieval: RetrievalNeeds | None = None


def load_consumers(folder: Path = FOLDER) -> list[Consumer]:
    """Every consumer contract in `folder`. Raises Refused (FT-CON-001) with every error in every file."""
    return _load(sorted(folder.glob("*.yaml")))


def find_consumer(name: str, folder: Path = FOLDER) -> Consumer:
    """One contract, by the path of its file or by its name in `folder`. Refused (FT-CON-001) when there is none."""
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise Refused(
            "reading the consumer contract", [_unreadable(Path(name), "", f"no such file, and none of {known}")]
        )
    return _load([path])[0]


def _load(paths: Iterable[Path]) -> list[Consumer]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    made: list[Consumer] = []
    violations: list[Violation] = []
    for path in paths:
        try:
            made.append(Consumer.model_validate(cast("Any", YAML(typ="safe", pure=True)).load(path)))
        except YAMLError as error:
            violations.append(_unreadable(path, "", " ".join(str(error).split())))
        except (OSError, UnicodeDecodeError) as error:
            violations.append(_unreadable(path, "", str(error)))
        except ValidationError as error:
            violations += [_unreadable(path, ".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
    if violations:
        raise Refused("reading the consumer contracts", violations)
    return made


def broken_retrieval_needs(consumer: Consumer, contract: EmbeddingContract, recall_at_10: float) -> list[Violation]:
    """FT-CON-002: what `consumer` needs of retrieval and this candidate does not give."""
    needs = consumer.retrieval
    if needs is None:
        return []
    serving, fusion = contract.serving, contract.fusion
    if serving is None or fusion is None:
        raise ValueError("a candidate's contract holds how it is served and fused")
    found: list[tuple[str, Any, Any]] = []
    if needs.dimensions is not None and serving.dimension not in needs.dimensions:
        found.append(("dimension", serving.dimension, needs.dimensions))
    if needs.distances is not None and serving.distance not in needs.distances:
        found.append(("distance", serving.distance, needs.distances))
    if needs.fusion is not None and fusion.fusion not in needs.fusion:
        found.append(("fusion", fusion.fusion, needs.fusion))
    if fusion.fusion == "weighted_sum":
        for name, value, span in (
            ("dense_weight", fusion.dense_weight, needs.dense_weight),
            ("sparse_weight", fusion.sparse_weight, needs.sparse_weight),
        ):
            if not span.least <= value <= span.most:
                found.append((name, value, f"{span.least:g} to {span.most:g}"))
    if recall_at_10 < needs.min_recall_at_10:
        found.append(("Recall@10", round(recall_at_10, 4), f"at least {needs.min_recall_at_10:g}"))
    fix = f"change the setting back, or agree with {consumer.owner} and change expectations/contracts/consumers"
    return [_broken("FT-CON-002", consumer, "does not accept this candidate.", *parts, fix) for parts in found]


def broken_formats(consumer: Consumer, offered: Mapping[str, int]) -> list[Violation]:
    """FT-CON-003: formats in versions that one side cannot read; `offered`: name -> our version.

    `consumer` must read the version that we write. Of what it writes, we read our own version and every older one.
    """
    fix = f"convert to a version that both know, or agree with {consumer.owner} on the new one"
    broken = [
        ("reads", name, versions) for name, versions in consumer.reads.items() if offered.get(name) not in versions
    ]
    broken += [
        ("writes", name, versions)
        for name, versions in consumer.writes.items()
        if not all(1 <= version <= offered.get(name, 0) for version in versions)
    ]
    return [
        _broken("FT-CON-003", consumer, f"{verb} another version of a format.", name, offered.get(name), versions, fix)
        for verb, name, versions in broken
    ]


def _broken(  # noqa: PLR0917 - a row of a table
    code: str, consumer: Consumer, message: str, field: str, found: Any, expected: Any, fix: str
) -> Violation:
    where = f"consumer {consumer.name}"
    return Violation(
        code=code,
        where=where,
        message=f"{consumer.name} {message}",
        field=field,
        found=found,
        expected=expected,
        fix=fix,
    )


def _unreadable(path: Path, field: str, message: str) -> Violation:
    return Violation(
        code="FT-CON-001", where=str(path), message=f"not a consumer contract: {message}", field=field,
        found="invalid", expected="the keys of expectations.consumer.Consumer", fix="correct the file",
    )  # fmt: skip
