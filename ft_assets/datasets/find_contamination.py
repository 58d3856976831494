"""Search for contamination: held-out texts of any data set in the texts that training sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from expectations.rules.contamination import ContaminationHit, Search, Text, find_contamination
from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.config.model import SplitSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS, DataSet
from ft_assets.datasets.ledger import ASSET, read_ledger
from ft_assets.datasets.passage_index import read_index, resolve_passages
from resources.artifacts import ArtifactStore
from resources.parquet import read_rows

_PASSAGE_COLUMNS = ["passage_id", "text", "source", "start"]


def search_contamination(store: ArtifactStore, settings: SplitSettings) -> Search:
    """Search the questions and answers of validation and test in all that training sees, and passages in passages.

    Training sees its own questions and answers, the contexts they come with, and the passages they name as evidence.
    Passages that are held out are those that validation and test queries should find; they are searched in those that
    training queries should find. A passage counts only if records may not share it across splits (`group_by` has
    `document` or `passage`): otherwise config.yaml allows shared passages.
    """
    passages_apart = not {"document", "passage"}.isdisjoint(settings.group_by)
    texts = _Texts(store)

    def search(held_out: Iterator[Text], seen: Callable[[], Iterator[Text]]) -> Search:
        return find_contamination(held_out, seen, settings.contamination, settings.templates)

    own = search(texts.own(held_out=True), lambda: texts.training(passages=passages_apart))
    if not passages_apart:
        return own
    queries = [dataset for dataset in DATASETS if dataset.finds_passages]
    shared = search(texts.passages(queries, held_out=True), lambda: texts.passages(queries, held_out=False))
    return Search(
        hits=[*own.hits, *shared.hits],
        held_out=own.held_out + shared.held_out,
        seen=own.seen + shared.seen,
        boilerplate=own.boilerplate + shared.boilerplate,
    )


class _Texts:
    """The texts of all records, by the split of the record."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._ledger = read_ledger(store.require(ASSET))

    def own(self, *, held_out: bool) -> Iterator[Text]:
        """Yield the questions and answers of validation and test, or of training."""
        for dataset, row in self._rows(DATASETS, held_out):
            yield from _own_texts(dataset, row)

    def training(self, *, passages: bool) -> Iterator[Text]:
        """Yield every text that training sees; the contexts and the evidence only with `passages`."""
        for dataset, row in self._rows(DATASETS, held_out=False):
            yield from _own_texts(dataset, row)
            for text in row.get("context") or () if passages else ():
                yield Text(*dataset.id_of(row), "context", _place(row), text)
        if passages:
            yield from self.passages(DATASETS, held_out=False)

    def passages(self, datasets: Sequence[DataSet], *, held_out: bool) -> Iterator[Text]:
        """Yield the passages that the records of these data sets name, each with the first record that names it."""
        index = read_index(self._store.require("passages"))
        owners: dict[str, tuple[str, str]] = {}
        for dataset, row in self._rows(datasets, held_out):
            for passage in resolve_passages(row[dataset.evidence], index):
                owners.setdefault(passage, dataset.id_of(row))
        for row in read_rows(self._store.require("passages").file(PASSAGES), _PASSAGE_COLUMNS):
            if owner := owners.get(row["passage_id"]):
                yield Text(*owner, "passage", f"{row['source']}, character {row['start']}", row["text"])

    def _rows(self, datasets: Sequence[DataSet], held_out: bool) -> Iterator[tuple[DataSet, Mapping[str, Any]]]:
        for dataset in datasets:
            for row in read_rows(self._store.require(dataset.records).file(RECORDS)):
                assignment = self._ledger.get(dataset.id_of(row))
                if assignment is None or assignment.split == QUARANTINED:
                    continue
                if (assignment.split != SPLITS[0]) is held_out:
                    yield dataset, row


def touches(hit: ContaminationHit, dataset: DataSet) -> bool:
    """Return whether either side of a hit belongs to the data set."""
    return dataset.name in (hit.held_out.dataset, hit.seen.dataset)


def _own_texts(dataset: DataSet, row: Mapping[str, Any]) -> Iterator[Text]:
    key, place = dataset.id_of(row), _place(row)
    for column in dataset.texts:
        yield Text(*key, column, place, row[column])
    for turn in row.get("history") or ():
        for role, text in turn.items():
            yield Text(*key, f"history {role}", place, text)


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['source']}:{row['line_no']}"
