"""The table gate: Great Expectations judges a slim frame of a table, and nothing that goes wrong counts as passed.

Great Expectations drops unknown expectations, hides crashes and passes empty tables; each of these is a violation here.
It gets lengths, counts, flags and labels, never the texts: hashing long texts would be most of its time.
"""

# pyright: basic
# pandas, pyarrow and great_expectations have no usable types for this.
from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from expectations.violations import Violation, violation

if TYPE_CHECKING:
    import pandas as pd

Table = Literal[
    "passages", "instruction_records", "preference_records", "unpaired_preference_records", "retrieval_records"
]
SUITES = Path(__file__).parent / "suites"
PLACES_SHOWN = 20

# The columns of each table: its id, the texts and the lists that are judged by their lengths (an optional list counts 0
# where an older table lacks it), and the columns that are judged as they are.
_ID = {"passages": "passage_id", "retrieval_records": "query_id"}
_TEXTS = {
    "passages": ["text", "content", "heading"],
    "instruction_records": ["question", "answer", "reasoning", "system"],
    "preference_records": ["question", "chosen", "rejected"],
    "unpaired_preference_records": ["question", "answer"],
    "retrieval_records": ["query"],
}
_LISTS = {
    "passages": [],
    "instruction_records": ["context", "evidence"],
    "preference_records": ["context", "evidence"],
    "unpaired_preference_records": ["context", "evidence"],
    "retrieval_records": ["positive_ids", "scores"],
}
_OPTIONAL_LISTS = {
    "passages": [],
    "instruction_records": ["history"],
    "preference_records": ["history"],
    "unpaired_preference_records": ["history"],
    "retrieval_records": ["negative_ids"],
}
_AS_IS = {
    "passages": ["document_id", "content_sha256", "start", "end", "language", "source"],
    "instruction_records": ["difficulty", "language", "source"],
    "preference_records": ["margin", "language", "source"],
    "unpaired_preference_records": ["desirable", "language", "source"],
    "retrieval_records": ["language", "source"],
}
# Great Expectations runs these on str(x) of any value: the length of an empty list would be 2.
_TEXT_ONLY = ("value_lengths", "regex", "like_pattern", "strftime", "dateutil", "json")
_TYPE_LISTS = "in_type_list"  # always false on pandas-3 strings


class FailingRow(msgspec.Struct, frozen=True):
    """A row that breaks a rule: its place (`source:line_no`), and its value in the rule's column."""

    place: str
    value: object


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one expectation of a suite."""

    expectation: str
    """The type, as Great Expectations names it."""
    rule: str
    """The rule in words: `meta.message` of the suite."""
    column: str
    expected: dict[str, Any]
    outcome: Literal["passed", "failed", "broken"]
    """`broken`: the check crashed, so the data was not judged; it never counts as passed."""
    observed: object = None
    """The judged value, for an expectation on a whole table or column; the crash of a broken check."""
    judged: int = 0
    """Rows with a value, for an expectation on rows."""
    failing: int = 0
    rows: list[FailingRow] = []
    """The first failing rows."""
    fix: str = ""


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """A table judged by a suite. With `faults` it could not be judged, and there are no judgements."""

    suite: str
    rows: int
    judgements: list[Judgement] = []
    faults: list[Violation] = []

    @property
    def violations(self) -> list[Violation]:
        """The faults and the failed or broken checks. None means that every expectation ran and passed."""
        return [*self.faults, *(_violation_of(self.suite, j) for j in self.judgements if j.outcome != "passed")]


def suite_of(kind: Table) -> Path:
    """Return the suite file of a table."""
    return SUITES / f"{kind}.json"


def slim_frame(paths: Path | Sequence[Path], kind: Table) -> pd.DataFrame:
    """Return the frame [rows, columns] that a suite judges: line_no, id, <text>_len, <list>_count, flags and labels.

    `paths`: the table, or its files one after the other.

    `line_no` is the row's line in its source file, or its row number from 1 where the table has no lines.
    Raises KeyError where the table lacks a column.
    """
    if kind not in get_args(Table):
        raise ValueError(f"{kind!r} has no suite; the tables with one are {', '.join(get_args(Table))}")
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    pc = _compute()
    files = [pq.ParquetFile(path) for path in ([paths] if isinstance(paths, Path) else paths)]
    names = set(files[0].schema_arrow.names)
    wanted = [_ID.get(kind, "record_id"), *_TEXTS[kind], *_LISTS[kind], *_AS_IS[kind]]
    if missing := [name for name in wanted if name not in names]:
        raise KeyError(f"{paths} lacks the columns {', '.join(missing)} of {kind}")
    pieces: list[pd.DataFrame] = []
    rows = 0
    optional = [name for name in _OPTIONAL_LISTS[kind] if name in names]
    columns = [*wanted, *optional, *({"line_no"} & names)]
    for batch in chain.from_iterable(file.iter_batches(batch_size=16384, columns=columns) for file in files):
        numbers = pa.array(range(rows + 1, rows + batch.num_rows + 1))
        slim = {"line_no": batch["line_no"] if "line_no" in names else numbers, "id": batch[wanted[0]]}
        slim |= {f"{name}_len": pc.utf8_length(batch[name]) for name in _TEXTS[kind]}
        slim |= {f"{name}_count": pc.list_value_length(batch[name]) for name in _LISTS[kind]}
        slim |= {f"{name}_count": _counts(batch, name) for name in _OPTIONAL_LISTS[kind]}
        slim |= {name: batch[name] for name in _AS_IS[kind]}
        slim |= _flags(batch, kind)
        pieces.append(pa.table(slim).to_pandas())
        rows += batch.num_rows
    if pieces:
        return pd.concat(pieces, ignore_index=True)
    return pd.DataFrame({"line_no": [], "id": []})


def _compute() -> Any:
    """Return pyarrow.compute, whose functions are created at run time: no type checker knows them."""
    import pyarrow.compute as pc

    return pc


def _counts(batch: Any, name: str) -> Any:
    """Return the lengths of an optional list; a missing list has length 0."""
    import pyarrow as pa

    if name not in batch.schema.names:
        return pa.array([0] * batch.num_rows)
    pc = _compute()
    return pc.fill_null(pc.list_value_length(batch[name]), 0)


def _flags(batch: Any, kind: Table) -> dict[str, Any]:
    """Return the columns that compare two columns of a table."""
    import pyarrow as pa

    pc = _compute()
    if kind == "preference_records":
        return {"chosen_differs": pc.not_equal(batch["chosen"], batch["rejected"])}
    if kind == "passages":
        return {"span": pc.subtract(batch["end"], batch["start"])}
    if kind == "retrieval_records":
        positives, scores = batch["positive_ids"].to_pylist(), batch["scores"].to_pylist()
        negatives = batch["negative_ids"].to_pylist() if "negative_ids" in batch.schema.names else [[]] * len(positives)
        return {
            "scores_match": pa.array(
                [None not in (a, b) and len(a) == len(b) for a, b in zip(positives, scores, strict=True)]
            ),
            "positives_differ": pa.array([ids is not None and len(set(ids)) == len(ids) for ids in positives]),
            "sides_differ": pa.array(
                [not set(a or ()) & set(b or ()) for a, b in zip(positives, negatives, strict=True)]
            ),
        }
    return {}


def validate(frame: pd.DataFrame, suite: Path) -> list[Violation]:
    """Judge a slim frame by a suite file. No violations means that every expectation ran and passed.

    Violations name the failing rows by `source:line_no` (all are counted, the first 20 shown). FT-TABLE-001 the suite
    cannot be used, FT-TABLE-002 a check is broken, FT-TABLE-003 the table is empty, FT-TABLE-004 a rule failed.
    """
    return judge_frame(frame, suite).violations


def judge_frame(frame: pd.DataFrame, suite: Path) -> Validation:
    """Judge a slim frame by a suite file: one Judgement for each of its expectations, in their order."""

    def unjudged(*faults: Violation) -> Validation:
        return Validation(suite=suite.stem, rows=len(frame), faults=list(faults))

    try:
        raw = json.loads(suite.read_text("utf-8"), object_pairs_hook=_refuse_twins)
    except (OSError, ValueError) as error:
        return unjudged(_unusable(suite.name, f"The suite cannot be read: {error}"))
    if faults := _suite_faults(raw, frame, suite.name):
        return unjudged(*faults)
    if not len(frame):
        return unjudged(violation("FT-TABLE-003", where=raw["name"], field="rows", found=0, expected="at least 1"))

    entries = raw["expectations"]
    frame = frame.reset_index(drop=True)
    try:
        results = _run(frame, raw["name"], entries)
    except _Dropped as error:
        return unjudged(_unusable(suite.name, str(error)))
    if missing := [entry["type"] for number, entry in enumerate(entries) if number not in results]:
        message = f"{len(missing)} of {len(entries)} expectations gave no result: {', '.join(missing)}"
        return unjudged(violation("FT-TABLE-002", where=raw["name"], message=message))
    judgements = [_judgement(entry, results[number], frame) for number, entry in enumerate(entries)]
    return Validation(suite=raw["name"], rows=len(frame), judgements=judgements)


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs. Raises ValueError for a key that appears twice."""
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError(f"a key appears twice in one object, among {', '.join(key for key, _ in pairs)}")
    return unique


class _Dropped(Exception):
    """Great Expectations did not take the suite as it is written."""


def _run(frame: pd.DataFrame, name: str, entries: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the result of each expectation by its place in the suite: results come in another order."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.exceptions.exceptions import GreatExpectationsError

    context: Any = gx.get_context(mode="ephemeral")  # a new one: adding a data source twice to a context raises
    context.variables.progress_bars = {"globally": False}
    numbered = [{**entry, "meta": {"number": number}} for number, entry in enumerate(entries)]
    try:
        suite = gx.ExpectationSuite(name=name, expectations=numbered)
    except (GreatExpectationsError, TypeError, ValueError) as error:
        raise _Dropped(f"Great Expectations refuses the suite: {error}") from error
    taken = {(expectation.meta or {}).get("number") for expectation in suite.expectations}
    if dropped := [entry["type"] for number, entry in enumerate(entries) if number not in taken]:
        # unknown types and severities are logged and dropped: the rest of the suite would pass
        raise _Dropped(f"Great Expectations would drop these expectations: {', '.join(dropped)}")
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    # COMPLETE caps every list but `unexpected_index_list`. It holds row numbers here: with names of index columns it
    # holds a dictionary for each failing row, and 30,000 of those take ten seconds.
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    results = outcome.to_json_dict()["results"]  # raw results hold numpy values
    return {result["expectation_config"]["meta"]["number"]: result for result in results}


def _suite_faults(raw: Any, frame: pd.DataFrame, name: str) -> list[Violation]:
    """Return the faults that make a suite pass, or fail, for another reason than the data."""
    entries = raw.get("expectations") if isinstance(raw, dict) else None
    if not isinstance(entries, list) or not entries or not raw.get("name") or not all(map(_is_entry, entries)):
        return [_unusable(name, "A suite needs a name and a list of expectations with their types")]
    faults: list[Violation] = []
    for number, entry in enumerate(entries):
        faults += _entry_faults(entry, entries[:number], frame, name)
    return faults


def _entry_faults(
    entry: dict[str, Any], before: list[dict[str, Any]], frame: pd.DataFrame, name: str
) -> list[Violation]:
    """Return the faults of one expectation; `before`: those that come before it in the suite."""
    kind, kwargs = entry["type"], entry.get("kwargs", {})
    columns = _columns_of(kwargs)
    missing = [str(column) for column in columns if column not in frame.columns]
    if reason := _argument_fault(kind, kwargs):
        return [_unusable(name, f"{kind} {reason}")]
    if (kind, kwargs) in [(other["type"], other.get("kwargs", {})) for other in before]:
        return [_unusable(name, f"{kind} appears twice with the arguments {kwargs}")]
    if not len(frame):
        return []
    if missing:
        message = f"{kind}: the table has no column {', '.join(missing)}"
        expected = list(frame.columns)
        return [
            violation("FT-TABLE-002", where=name, message=message, field="columns", found=missing, expected=expected)
        ]
    if not any(part in kind for part in _TEXT_ONLY):
        return []
    not_text = [column for column in columns if not _is_text(frame[column])]
    return [_unusable(name, f"{kind} `{column}` is not text: its print would be judged") for column in not_text]


def _columns_of(kwargs: dict[str, Any]) -> list[str]:
    """Return the columns that an expectation's arguments name."""
    return [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs] + kwargs.get("column_list", [])


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("kwargs", {}), dict)


def _argument_fault(kind: str, kwargs: dict[str, Any]) -> str:
    """Return why an expectation with these arguments could never fail, or never pass; "" if it can do both."""
    low, high, mostly = (kwargs.get(key) for key in ("min_value", "max_value", "mostly"))
    bounds = [bound for bound in (low, high) if bound is not None]
    numbers = all(map(_is_number, bounds))
    faults = [
        (_TYPE_LISTS in kind, "judges pandas strings wrongly; the schema fixes the types"),
        ("row_condition" in kwargs, "has a row_condition: where no row meets it, nothing is judged and it passes"),
        (
            mostly is not None and not (_is_number(mostly) and 0 < mostly <= 1),
            f"has mostly {mostly!r}: it must be above 0, which can never fail, and at most 1",
        ),
        (kwargs.get("value_set", "none") in ([], None), "has an empty value_set: it does not judge the data"),
        ("between" in kind and not bounds, "has neither min_value nor max_value: it can never fail"),
        (not numbers, f"has bounds that are no numbers: {low!r}, {high!r}"),
        (
            numbers and len(bounds) == 2 and bounds[0] > bounds[1],
            f"has min_value {low} above max_value {high}: it can never pass",
        ),
    ]
    return next((reason for applies, reason in faults if applies), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(column: pd.Series) -> bool:
    import pandas as pd

    return isinstance(column.dtype, pd.StringDtype)


def _judgement(entry: dict[str, Any], result: dict[str, Any], frame: pd.DataFrame) -> Judgement:
    kwargs, meta, outcome = entry.get("kwargs", {}), entry.get("meta") or {}, result["result"]
    columns = _columns_of(kwargs)
    numbers = outcome.get("unexpected_index_list") or []
    crash = _crash(result.get("exception_info"))
    return Judgement(
        expectation=entry["type"],
        rule=meta.get("message") or f"{entry['type']} passes",
        column=", ".join(columns),
        expected={key: value for key, value in kwargs.items() if not key.startswith("column")},
        outcome="broken" if crash else "passed" if result["success"] is True else "failed",
        observed=crash or outcome.get("observed_value"),
        judged=outcome.get("element_count", 0) - outcome.get("missing_count", 0),
        failing=outcome.get("unexpected_count", 0) if outcome.get("observed_value") is None else 0,
        rows=[_failing_row(frame, number, columns) for number in numbers[:PLACES_SHOWN]],
        fix=meta.get("fix", ""),
    )


def _failing_row(frame: pd.DataFrame, number: int, columns: list[str]) -> FailingRow:
    row = frame.iloc[[number]].astype(object)
    row = row.where(row.notna(), None).to_dict("records")[0]  # native values, and None for every kind of missing
    source = [str(row["source"] or "?")] if "source" in row else []
    values = [_whole(row[column]) for column in columns]
    return FailingRow(":".join([*source, str(row["line_no"])]), values[0] if len(values) == 1 else values)


def _whole(value: object) -> object:
    """Return a count as an integer: pandas makes it a fraction where its column has missing values."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _violation_of(suite: str, judgement: Judgement) -> Violation:
    """Return the violation of a judgement that is not passed."""
    if judgement.outcome == "broken":
        message = f"{judgement.expectation} crashed: {judgement.observed}"
        return violation("FT-TABLE-002", where=suite, message=message, field=judgement.column)
    values: list[object] = []
    for row in judgement.rows:
        values += [row.value] if row.value not in values else []
    return violation(
        "FT-TABLE-004",
        where=suite,
        message=f"Rule failed: {judgement.rule}{_failing_places(judgement)}",
        field=judgement.column,
        found=values if judgement.rows else judgement.observed,
        expected=judgement.expected,
        fix=judgement.fix,
    )


def _failing_places(judgement: Judgement) -> str:
    """Return how many rows fail and the places of the first of them, as the end of a message."""
    if not judgement.failing:
        return ""
    places = [row.place for row in judgement.rows]
    text = f"; {judgement.failing} of {judgement.judged} rows, at {', '.join(places)}"
    return f"{text} and {judgement.failing - len(places)} more" if judgement.failing > len(places) else text


def _crash(info: Any) -> str:
    """Return the exception's message, or ""; GX gives it flat, or one dictionary for each metric."""
    if not isinstance(info, dict):
        return ""
    if "raised_exception" in info:
        info = {"": info}
    crashes = (entry for entry in info.values() if isinstance(entry, dict) and entry.get("raised_exception"))
    return next((str(entry.get("exception_message") or "an exception without a message") for entry in crashes), "")


def _unusable(where: str, message: str) -> Violation:
    return violation("FT-TABLE-001", where=where, message=message)
