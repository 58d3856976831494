"""Search for contamination: held-out texts of any data set in the texts that training sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from expectations.rules.contamination import ContaminationHit, Search, Text, find_contamination
from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.config.model import SplitSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS, DataSet
from ft_assets.datasets.ledger import ASSET, read_ledger, record_ids
from ft_assets.datasets.passage_index import read_index, resolve_passages
from resources.artifacts import ArtifactStore
from resources.memo import Memo
from resources.parquet import read_rows

_PASSAGE_COLUMNS = ["passage_id", "text", "source", "start"]


class Contamination(NamedTuple):
    """The search, the held-out records that it found, and how many there are."""

    search: Search
    left_out: dict[tuple[str, str], ContaminationHit]
    """(data set, record id) of a validation or test record that training has seen -> its worst case."""
    held_out: Counter[str]
    """Data set -> records that the ledger holds out, those of `left_out` included."""

    def of(self, dataset: DataSet) -> dict[tuple[str, str], ContaminationHit]:
        """Return the records of a data set that its validation and test files leave out."""
        return {key: hit for key, hit in self.left_out.items() if key[0] == dataset.name}


# every asset of the splits and every guard asks again; the key is the versions of all that is read
_found = Memo[Contamination](size=4)


def search_contamination(store: ArtifactStore, settings: SplitSettings) -> Contamination:
    """Search the questions and answers of validation and test in all that training sees, and passages in passages.

    Training sees its own questions and answers, the contexts they come with, and the passages they name as evidence.
    Passages that are held out are those that validation and test queries should find; they are searched in those that
    training queries should find. A passage counts only if records may not share it across splits (`group_by` has
    `document` or `passage`): otherwise config.yaml allows shared passages.
    """
    inputs = [store.require(asset) for asset in (ASSET, "passages", *(dataset.records for dataset in DATASETS))]
    versions = (str(store.root), settings.model_dump_json(), *(artifact.data_version for artifact in inputs))
    return _found.get(versions, lambda: _search(store, settings))


def _search(store: ArtifactStore, settings: SplitSettings) -> Contamination:
    passages_apart = not {"document", "passage"}.isdisjoint(settings.group_by)
    texts = _Texts(store)

    def search(held_out: Iterator[Text], seen: Callable[[], Iterator[Text]]) -> Search:
        return find_contamination(held_out, seen, settings.contamination, settings.templates)

    found = search(texts.own(held_out=True), lambda: texts.training(passages=passages_apart))
    left_out = {(hit.held_out.dataset, hit.held_out.record_id): hit for hit in found.hits}
    if passages_apart:
        queries = [dataset for dataset in DATASETS if dataset.finds_passages]
        shared = search(texts.passages(queries, held_out=True), lambda: texts.passages(queries, held_out=False))
        for hit in shared.hits:
            left_out = dict.fromkeys(texts.owners[hit.held_out.where], hit) | left_out
        found = Search(
            hits=[*found.hits, *shared.hits],
            held_out=found.held_out + shared.held_out,
            seen=found.seen + shared.seen,
            boilerplate=found.boilerplate + shared.boilerplate,
        )
    return Contamination(found, left_out, texts.held_out_records())


def held_out_questions(store: ArtifactStore) -> Iterator[str]:
    """Yield the questions of validation and test, of all data sets."""
    yield from _Texts(store).questions(held_out=True)


def search_generated(
    store: ArtifactStore, settings: SplitSettings, texts: Sequence[Text]
) -> dict[str, ContaminationHit]:
    """Return the record ids of generated `texts` that hold too much of a validation or test text -> the hit.

    The search names the worst text for each held-out one, so it is repeated without those that were found.
    """
    found: dict[str, ContaminationHit] = {}
    while True:
        seen = [text for text in texts if text.record_id not in found]
        held_out = _Texts(store).own(held_out=True)
        search = find_contamination(held_out, lambda: seen, settings.contamination, settings.templates)  # noqa: B023
        if not search.hits:
            return found
        found |= {hit.seen.record_id: hit for hit in search.hits}


class _Texts:
    """The texts of all records, by the split of the record."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._ledger = read_ledger(store.require(ASSET))
        self.owners: dict[str, list[tuple[str, str]]] = {}
        """Place of a held-out passage -> the records that name it, once `passages` has yielded it."""

    def held_out_records(self) -> Counter[str]:
        """Return data set -> records of validation and test."""
        keys = record_ids(self._store)
        return Counter(dataset for dataset, record_id in keys if self._split((dataset, record_id)) in SPLITS[1:])

    def questions(self, *, held_out: bool) -> Iterator[str]:
        """Yield the questions of validation and test, or of training."""
        for dataset, row in self._rows(DATASETS, held_out):
            yield row[dataset.question]

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
        owners: dict[str, list[tuple[str, str]]] = {}
        for dataset, row in self._rows(datasets, held_out):
            for passage in resolve_passages(row[dataset.evidence], index):
                owners.setdefault(passage, []).append(dataset.id_of(row))
        for row in read_rows(self._store.require("passages").table(PASSAGES), _PASSAGE_COLUMNS):
            if named_by := owners.get(row["passage_id"]):
                place = f"{row['source']}, character {row['start']}"
                if held_out:
                    self.owners[place] = named_by
                yield Text(*named_by[0], "passage", place, row["text"])

    def _rows(self, datasets: Sequence[DataSet], held_out: bool) -> Iterator[tuple[DataSet, Mapping[str, Any]]]:
        for dataset in datasets:
            for row in read_rows(self._store.require(dataset.records).file(RECORDS)):
                if self._split(dataset.id_of(row)) in (SPLITS[1:] if held_out else SPLITS[:1]):
                    yield dataset, row

    def _split(self, key: tuple[str, str]) -> str:
        assignment = self._ledger.get(key)
        return assignment.split if assignment else QUARANTINED


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
