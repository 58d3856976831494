"""The passages that validation and test hold out: nothing is made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from expectations.rules.splits import SPLITS
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS
from ft_assets.datasets.ledger import ASSET, read_ledger
from ft_assets.datasets.passage_index import read_index, resolve_passages
from resources.artifacts import Artifact
from resources.memo import Memo
from resources.parquet import read_rows

INPUTS = (ASSET, "passages", *(dataset.records for dataset in DATASETS))
"""The assets that decide it."""
# every gate on generated rows asks again; the key is the versions of all that is read
_held_out = Memo[frozenset[str]](size=4)


def held_out_passages(
    find: Callable[[str], Artifact], settings: SplitSettings, parts: Sequence[str] = SPLITS[1:]
) -> frozenset[str]:
    """Return the ids of the passages that records of these parts name as evidence; with `document` in `group_by`, all
    passages of their documents. `find` returns the artifact of an asset of `INPUTS`.
    """
    by_document = "document" in settings.group_by
    key = (by_document, tuple(parts), *(find(asset).data_version for asset in INPUTS))
    return _held_out.get(key, lambda: _find(find, parts, by_document=by_document))


def _find(find: Callable[[str], Artifact], parts: Sequence[str], *, by_document: bool) -> frozenset[str]:
    index = read_index(find("passages"))
    named = set(resolve_passages(_evidence(find, parts), index))
    if not by_document:
        return frozenset(named)
    documents = {index.document[passage] for passage in named}
    return frozenset(passage for passage, document in index.document.items() if document in documents)


def _evidence(find: Callable[[str], Artifact], parts: Sequence[str]) -> Iterator[str]:
    ledger = read_ledger(find(ASSET))
    for dataset in DATASETS:
        for row in read_rows(find(dataset.records).file(RECORDS), [dataset.id_column, dataset.evidence]):
            assignment = ledger.get(dataset.id_of(row))
            if assignment and assignment.split in parts:
                yield from row[dataset.evidence]
