"""The texts that training sees and those that are held out, over all data sets: where contamination is sought."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from expectations.rules.contamination import Hit, Search, Text, find_contamination
from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.config.model import SplitSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.clean import ID_COLUMN, RECORDS
from ft_assets.datasets.ledger import ASSET, DATASETS, evidence_names, read_ledger
from ft_assets.datasets.passage_index import read_index, resolve_passages
from resources.artifacts import ArtifactStore
from resources.parquet import read_rows

# What a record says and asks. What instruction and preference records are given (`context`) is a passage.
_SAID = {
    "instruction": ("question", "reasoning", "answer"),
    "preference": ("question", "chosen", "rejected"),
    "retrieval": ("query",),
}


def search_contamination(store: ArtifactStore, settings: SplitSettings) -> Search:
    """Questions and answers of validation and test, sought in all that training sees; their passages in its passages.

    Training sees its own questions and answers, the contexts they come with, and the passages they name as evidence.
    Passages that are held out are those that validation and test queries should find; they are sought in those that
    training queries should find. A passage is looked at only if records may not share it across splits
    (`group_by` has `document` or `passage`): else sharing passages is what config.yaml asks for.
    """
    splits = {record: dealt.split for record, dealt in read_ledger(store.require(ASSET)).items()}
    apart = not {"document", "passage"}.isdisjoint(settings.group_by)

    def rows(held_out: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for dataset in DATASETS:
            for row in read_rows(store.require(f"{dataset}_records").file(RECORDS)):
                split = splits.get((dataset, row[ID_COLUMN[dataset]]), QUARANTINED)
                if split != QUARANTINED and (split != SPLITS[0]) is held_out:
                    yield dataset, row

    def passages(held_out: bool, datasets: tuple[str, ...]) -> Iterator[Text]:
        index = read_index(store.require("passages"))
        named: dict[str, tuple[str, str]] = {}
        for dataset, row in rows(held_out):
            if dataset in datasets:
                for passage in resolve_passages(evidence_names(row), index):
                    named.setdefault(passage, (dataset, row[ID_COLUMN[dataset]]))
        columns = ["passage_id", "text", "source", "start"]
        for row in read_rows(store.require("passages").file(PASSAGES), columns):
            if owner := named.get(row["passage_id"]):
                yield Text(*owner, "passage", f"{row['source']}, character {row['start']}", row["text"])

    def seen() -> Iterator[Text]:
        for dataset, row in rows(held_out=False):
            yield from _said(dataset, row)
            for text in row.get("context") or () if apart else ():
                yield Text(dataset, row[ID_COLUMN[dataset]], "context", _place(row), text)
        if apart:
            yield from passages(held_out=False, datasets=DATASETS)

    def search(held_out: Iterator[Text], seen: Callable[[], Iterator[Text]]) -> Search:
        return find_contamination(held_out, seen, settings.contamination, settings.templates)

    said = search((text for dataset, row in rows(held_out=True) for text in _said(dataset, row)), seen)
    if not apart:
        return said
    retrieval = DATASETS[2:]
    found = search(passages(True, retrieval), lambda: passages(False, retrieval))
    return Search([*said.hits, *found.hits], *(sum(pair) for pair in zip(said[1:], found[1:], strict=True)))


def touches(hit: Hit, dataset: str) -> bool:
    """Whether a data set holds either side of a hit."""
    return dataset in (hit.held_out.dataset, hit.seen.dataset)


def _said(dataset: str, row: Mapping[str, Any]) -> Iterator[Text]:
    record_id, place = row[ID_COLUMN[dataset]], _place(row)
    for field in _SAID[dataset]:
        yield Text(dataset, record_id, field, place, row[field])
    for turn in row.get("history") or ():
        for field, text in turn.items():
            yield Text(dataset, record_id, f"history {field}", place, text)


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['source']}:{row['line_no']}"
