"""The data sets: one `DataSet` holds all that this stage needs to know about a data set. `DATASETS` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import structs

from expectations.formats.dialect import ReadPolicy
from expectations.formats.instruction import InstructionRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.formats.unpaired import UnpairedPreferenceRecord
from expectations.reading import Rejected
from expectations.records.read import Record
from expectations.tables.gate import Table
from ft_assets.config.model import DatasetSettings, RowFiles
from ft_assets.datasets.join_qrels import RetrievalRecord, join_judgements
from ft_assets.datasets.passage_index import PassageIndex

Join = Callable[[Mapping[str, Sequence[Record]], PassageIndex], Iterator[msgspec.Struct | Rejected]]
"""(key in config.yaml -> rows of its files, passages of the corpus) -> the records of the data set."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set: its files, its records, and the columns that mean the same in every data set.

    >>> INSTRUCTION_DATA.records, INSTRUCTION_DATA.splits, INSTRUCTION_DATA.config_key
    ('instruction_records', 'instruction_splits', 'datasets.instruction')
    """

    name: str
    """Its section below `datasets` in config.yaml, and the start of the names of its assets."""
    files: Mapping[str, str]
    """Keys of that section that hold globs -> the format of the rows in these files."""
    record: type[msgspec.Struct]
    """The type of a row of records.parquet."""
    suite: Table
    """The Great Expectations suite of records.parquet."""
    policy: tuple[str, ...] = ()
    """Keys of that section that are fields of the reader's ReadPolicy."""
    join: Join | None = field(default=None, repr=False)
    """Joins the files' rows and the passages they name into records; None where each row is a record already."""
    id_column: str = "record_id"
    question: str = "question"
    """Column of the question, by which near-duplicates are found."""
    answer: str = ""
    """Column of the answer that should use the glossary terms of its question; empty where there is none."""
    reasoning: str = ""
    """Column of the reasoning before the answer; empty where there is none."""
    texts: tuple[str, ...]
    """Columns of the record's own texts, which contamination is searched in."""
    evidence: str = "evidence"
    """Column of the passages, sections and documents that the record names."""
    group: str = "group"
    """Column of the group that must stay in one split; empty where there is none."""
    line_lists: tuple[str, ...] = ()
    """Columns whose list items were lines of the files too, in addition to the line of the record itself."""

    @property
    def config_key(self) -> str:
        """Its section in config.yaml."""
        return f"datasets.{self.name}"

    @property
    def sources(self) -> str:
        """The asset that observes its files."""
        return f"{self.name}_files"

    @property
    def records(self) -> str:
        """The asset of its clean records."""
        return f"{self.name}_records"

    @property
    def splits(self) -> str:
        """The asset of its train, validation and test tables."""
        return f"{self.name}_splits"

    @property
    def finds_passages(self) -> bool:
        """True if its records are queries and the passages that answer them: its records need the corpus."""
        return self.join is not None

    def section(self, settings: DatasetSettings) -> RowFiles:
        """Return its section of config.yaml."""
        return getattr(settings, self.name)

    def read_policy(self, settings: DatasetSettings) -> ReadPolicy:
        """Return the settings that decide what a row of this data set becomes."""
        section = self.section(settings)
        own = {key: getattr(section, key) for key in self.policy}
        shared = ReadPolicy(traditional=settings.traditional, allow=tuple(settings.allow))
        return structs.replace(shared, **own)

    def id_of(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Return the key of a row of its records in the ledger: (data set, record id)."""
        return self.name, row[self.id_column]

    def lines_of(self, row: Mapping[str, Any]) -> int:
        """Return the number of lines of its files that became one row of its records."""
        return 1 + sum(len(row[column]) for column in self.line_lists)


def _join_retrieval(rows: Mapping[str, Sequence[Record]], index: PassageIndex) -> Iterator[msgspec.Struct | Rejected]:
    queries = [row for row in rows["queries"] if isinstance(row, QueryRecord)]
    qrels = [row for row in rows["qrels"] if isinstance(row, QrelRecord)]
    return join_judgements(queries, qrels, index)


INSTRUCTION_DATA = DataSet(
    name="instruction",
    files={"files": "instruction"},
    record=InstructionRecord,
    suite="instruction_records",
    policy=("thinking", "turns"),
    answer="answer",
    reasoning="reasoning",
    texts=("question", "reasoning", "answer"),
)
PREFERENCE_DATA = DataSet(
    name="preference",
    files={"files": "preference"},
    record=PreferenceRecord,
    suite="preference_records",
    policy=("min_margin",),
    answer="chosen",
    texts=("question", "chosen", "rejected"),
)
UNPAIRED_DATA = DataSet(
    name="unpaired_preference",
    files={"files": "unpaired_preference"},
    record=UnpairedPreferenceRecord,
    suite="unpaired_preference_records",
    texts=("question", "answer"),
)
RETRIEVAL_DATA = DataSet(
    name="retrieval",
    files={"queries": "query", "qrels": "qrels"},
    record=RetrievalRecord,
    suite="retrieval_records",
    join=_join_retrieval,
    id_column="query_id",
    question="query",
    texts=("query",),
    evidence="positive_ids",
    group="",
    line_lists=("positive_ids", "negative_ids"),
)
DATASETS = (INSTRUCTION_DATA, PREFERENCE_DATA, UNPAIRED_DATA, RETRIEVAL_DATA)
BY_NAME = {dataset.name: dataset for dataset in DATASETS}
