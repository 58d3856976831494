"""The table gate: Great Expectations judges a slim frame of a table, and nothing that goes wrong counts as passed.

Great Expectations drops unknown expectations, swallows crashes and passes empty tables; each of these is a Violation
here. It sees lengths, counts, flags and labels, never the texts: hashing long texts is most of its time.
"""

# pyright: basic
# pandas, pyarrow and great_expectations have no usable types for this.
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from expectations.codes import CODES
from expectations.violations import Violation

if TYPE_CHECKING:
    import pandas as pd

Table = Literal["passages", "instruction_records", "preference_records", "retrieval_records"]
SUITES = Path(__file__).parent / "suites"
PLACES_SHOWN = 20

# For each table: its id, the texts whose lengths count, the lists whose lengths count (the optional ones count 0 where
# an older table lacks them), what is taken as it is.
_ID = {"passages": "passage_id", "retrieval_records": "query_id"}
_TEXTS = {
    "passages": ["text", "content", "heading"],
    "instruction_records": ["question", "answer", "reasoning", "system"],
    "preference_records": ["question", "chosen", "rejected"],
    "retrieval_records": ["query"],
}
_LISTS = {
    "passages": [],
    "instruction_records": ["context", "evidence"],
    "preference_records": ["context", "evidence"],
    "retrieval_records": ["positive_ids", "scores"],
}
_OPTIONAL_LISTS = {
    "passages": [],
    "instruction_records": ["history"],
    "preference_records": ["history"],
    "retrieval_records": ["negative_ids"],
}
_AS_IS = {
    "passages": ["document_id", "content_sha256", "start", "end", "language", "source"],
    "instruction_records": ["difficulty", "language", "source"],
    "preference_records": ["margin", "language", "source"],
    "retrieval_records": ["language", "source"],
}
# Great Expectations runs these on str(x) of whatever is there: the length of an empty list would be 2.
_TEXT_ONLY = ("value_lengths", "regex", "like_pattern", "strftime", "dateutil", "json")
_TYPE_LISTS = "in_type_list"  # always false on pandas-3 strings


class FailingRow(msgspec.Struct, frozen=True):
    """A row that breaks a rule: where it stands (`source:line_no`), and what it holds in the rule's column."""

    place: str
    value: Any


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one expectation of a suite."""

    expectation: str
    """Its type, as Great Expectations names it."""
    rule: str
    """What it says, in words: `meta.message` of the suite."""
    column: str
    expected: dict[str, Any]
    outcome: Literal["passed", "failed", "broken"]
    """`broken`: the check crashed and says nothing about the data; it never counts as passed."""
    observed: Any = None
    """The value that was judged, for an expectation about a whole table or column; the crash of a broken one."""
    judged: int = 0
    """Rows with a value, for an expectation about rows."""
    failing: int = 0
    rows: list[FailingRow] = []
    """The first failing rows."""
    fix: str = ""


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """A table judged by a suite. `faults` are why it could not be judged: then there are no judgements."""

    suite: str
    rows: int
    judgements: list[Judgement] = []
    faults: list[Violation] = []

    @property
    def violations(self) -> list[Violation]:
        """What does not hold; none means that every expectation ran and held."""
        return [*self.faults, *(_as_violation(self.suite, j) for j in self.judgements if j.outcome != "passed")]


def suite_of(kind: Table) -> Path:
    """The suite file of a table."""
    return SUITES / f"{kind}.json"


def slim_frame(parquet_path: Path, kind: Table) -> pd.DataFrame:
    """The frame [rows, columns] that a suite judges: line_no, id, <text>_len, <list>_count, flags and labels.

    `line_no` is the row's line in its source file, or its row number from 1 where the table has no lines.
    Raises KeyError when the table lacks a column.
    """
    if kind not in get_args(Table):
        raise ValueError(f"{kind!r} is no table with a suite: {', '.join(get_args(Table))}")
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    pc = _compute()
    file = pq.ParquetFile(parquet_path)
    names = set(file.schema_arrow.names)
    wanted = [_ID.get(kind, "record_id"), *_TEXTS[kind], *_LISTS[kind], *_AS_IS[kind]]
    if missing := [name for name in wanted if name not in names]:
        raise KeyError(f"{parquet_path} lacks the columns {', '.join(missing)} of {kind}")
    pieces: list[pd.DataFrame] = []
    rows = 0
    optional = [name for name in _OPTIONAL_LISTS[kind] if name in names]
    for batch in file.iter_batches(batch_size=16384, columns=[*wanted, *optional, *({"line_no"} & names)]):
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
    """pyarrow.compute, whose functions are made at run time and known to no type checker."""
    import pyarrow.compute as pc

    return pc


def _counts(batch: Any, name: str) -> Any:
    """Lengths of an optional list: none is 0."""
    import pyarrow as pa

    if name not in batch.schema.names:
        return pa.array([0] * batch.num_rows)
    pc = _compute()
    return pc.fill_null(pc.list_value_length(batch[name]), 0)


def _flags(batch: Any, kind: Table) -> dict[str, Any]:
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
    """What does not hold in a slim frame by a suite file. No violations means: every expectation ran, and held.

    Violations name the failing rows by `source:line_no` (all are counted, the first 20 shown). FT-TABLE-001 the suite
    cannot be used, FT-TABLE-002 a check is broken, FT-TABLE-003 the table is empty, FT-TABLE-004 a rule does not hold.
    """
    return judge(frame, suite).violations


def judge(frame: pd.DataFrame, suite: Path) -> Validation:
    """A slim frame judged by a suite file: one Judgement for each of its expectations, in its order."""

    def unjudged(*faults: Violation) -> Validation:
        return Validation(suite=suite.stem, rows=len(frame), faults=list(faults))

    try:
        raw = json.loads(suite.read_text("utf-8"), object_pairs_hook=_refuse_twins)
    except (OSError, ValueError) as error:
        return unjudged(_violation("FT-TABLE-001", suite.name, f"cannot be read: {error}"))
    if broken := _suite_faults(raw, frame, suite.name):
        return unjudged(*broken)
    if not len(frame):
        return unjudged(
            _violation("FT-TABLE-003", raw["name"], "the table has no rows", found=0, expected="at least 1")
        )

    entries = raw["expectations"]
    frame = frame.reset_index(drop=True)
    try:
        results = _run(frame, raw["name"], entries)
    except _Dropped as error:
        return unjudged(_violation("FT-TABLE-001", suite.name, str(error)))
    if missing := [entry["type"] for number, entry in enumerate(entries) if number not in results]:
        message = f"{len(missing)} of {len(entries)} expectations gave no result: {', '.join(missing)}"
        return unjudged(_violation("FT-TABLE-002", raw["name"], message))
    judgements = [_judgement(entry, results[number], frame) for number, entry in enumerate(entries)]
    return Validation(suite=raw["name"], rows=len(frame), judgements=judgements)


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"a key stands twice in one object, among {', '.join(key for key, _ in pairs)}")
    return made


class _Dropped(Exception):
    """Great Expectations did not take the suite as it is written."""


def _run(frame: pd.DataFrame, name: str, entries: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The result of each expectation, by its place in the suite: results come in another order."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.exceptions.exceptions import GreatExpectationsError

    context: Any = gx.get_context(mode="ephemeral")  # a fresh one: adding a data source twice to a context raises
    context.variables.progress_bars = {"globally": False}
    numbered = [{**entry, "meta": {"number": number}} for number, entry in enumerate(entries)]
    try:
        suite = gx.ExpectationSuite(name=name, expectations=numbered)
    except (GreatExpectationsError, TypeError, ValueError) as error:
        raise _Dropped(f"refused by Great Expectations: {error}") from error
    taken = {(expectation.meta or {}).get("number") for expectation in suite.expectations}
    if dropped := [entry["type"] for number, entry in enumerate(entries) if number not in taken]:
        # unknown types and severities are logged and left out: what is left of the suite would pass
        raise _Dropped(f"expectations that Great Expectations does not take and would drop: {', '.join(dropped)}")
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    # COMPLETE caps every list but `unexpected_index_list`. It holds row numbers here: with names of index columns it
    # holds a dictionary for each failing row, and 30,000 of those take ten seconds.
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    results = outcome.to_json_dict()["results"]  # raw results hold numpy values
    return {result["expectation_config"]["meta"]["number"]: result for result in results}


def _suite_faults(raw: Any, frame: pd.DataFrame, name: str) -> list[Violation]:
    """What makes a suite pass, or fail, for another reason than the data."""
    entries = raw.get("expectations") if isinstance(raw, dict) else None
    if not isinstance(entries, list) or not entries or not raw.get("name") or not all(map(_is_entry, entries)):
        return [_violation("FT-TABLE-001", name, "a suite needs a name and a list of expectations with their types")]
    faults: list[Violation] = []
    for number, entry in enumerate(entries):
        kwargs = entry.get("kwargs", {})
        columns = [value for key, value in kwargs.items() if key in ("column", "column_A", "column_B")]
        columns += kwargs.get("column_list", [])
        missing = [str(column) for column in columns if column not in frame.columns]
        rule = (entry["type"], kwargs)
        if reason := _argument_fault(entry["type"], kwargs):
            faults.append(_fault(name, entry, reason))
        elif rule in [(other["type"], other.get("kwargs", {})) for other in entries[:number]]:
            faults.append(_fault(name, entry, f"stands twice with the arguments {kwargs}"))
        elif missing and len(frame):
            message = f"{entry['type']}: the table has no column {', '.join(missing)}"
            faults.append(_violation("FT-TABLE-002", name, message, expected=list(frame.columns)))
        elif len(frame) and any(part in entry["type"] for part in _TEXT_ONLY):
            not_text = [column for column in columns if not _is_text(frame[column])]
            faults += [_fault(name, entry, f"`{c}` is not text: its print would be judged") for c in not_text]
    return faults


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("kwargs", {}), dict)


def _argument_fault(kind: str, kwargs: dict[str, Any]) -> str:
    """Why an expectation with these arguments could never fail, or never pass, whatever the data."""
    low, high, mostly = (kwargs.get(key) for key in ("min_value", "max_value", "mostly"))
    bounds = [bound for bound in (low, high) if bound is not None]
    numbers = all(map(_is_number, bounds))
    faults = [
        (_TYPE_LISTS in kind, "judges pandas strings wrongly; types are the schema's matter"),
        ("row_condition" in kwargs, "has a row_condition: where no row meets it, nothing is judged and it passes"),
        (
            mostly is not None and not (_is_number(mostly) and 0 < mostly <= 1),
            f"has mostly {mostly!r}: it must be above 0, which can never fail, and at most 1",
        ),
        (kwargs.get("value_set", "none") in ([], None), "has an empty value_set: it says nothing about the data"),
        ("between" in kind and not bounds, "has neither min_value nor max_value: it can never fail"),
        (not numbers, f"has bounds that are no numbers: {low!r}, {high!r}"),
        (
            numbers and len(bounds) == 2 and bounds[0] > bounds[1],
            f"has min_value {low} above max_value {high}: nothing can hold it",
        ),
    ]
    return next((reason for broken, reason in faults if broken), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(column: pd.Series) -> bool:
    import pandas as pd

    return isinstance(column.dtype, pd.StringDtype)


def _judgement(entry: dict[str, Any], result: dict[str, Any], frame: pd.DataFrame) -> Judgement:
    kwargs, meta, outcome = entry.get("kwargs", {}), entry.get("meta") or {}, result["result"]
    columns = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    columns += kwargs.get("column_list", [])
    numbers = outcome.get("unexpected_index_list") or []
    crash = _crash(result.get("exception_info"))
    return Judgement(
        expectation=entry["type"],
        rule=meta.get("message") or f"{entry['type']} holds",
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


def _whole(value: Any) -> Any:
    """A count that pandas turned into a fraction, because its column has missing values, as the count it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_violation(suite: str, judgement: Judgement) -> Violation:
    if judgement.outcome == "broken":
        message = f"{judgement.expectation} crashed: {judgement.observed}"
        return _violation("FT-TABLE-002", suite, message, field=judgement.column)
    message, places = f"it does not hold that {judgement.rule}", [row.place for row in judgement.rows]
    if judgement.failing:
        message += f"; {judgement.failing} of {judgement.judged} rows, at {', '.join(places)}"
        message += f" and {judgement.failing - len(places)} more" if judgement.failing > len(places) else ""
    different: list[Any] = []
    for row in judgement.rows:
        different += [row.value] if row.value not in different else []
    found = different if judgement.rows else judgement.observed
    return _violation(
        "FT-TABLE-004", suite, message,
        field=judgement.column, found=found, expected=judgement.expected, fix=judgement.fix,
    )  # fmt: skip


def _crash(info: Any) -> str:
    """The exception's message; GX gives it flat, or one dictionary for each metric."""
    if not isinstance(info, dict):
        return ""
    if "raised_exception" in info:
        info = {"": info}
    crashes = (entry for entry in info.values() if isinstance(entry, dict) and entry.get("raised_exception"))
    return next((str(entry.get("exception_message") or "an exception without a message") for entry in crashes), "")


def _fault(where: str, entry: dict[str, Any], reason: str) -> Violation:
    return _violation("FT-TABLE-001", where, f"{entry['type']} {reason}")


def _violation(code: str, where: str, message: str, **more: Any) -> Violation:
    more["fix"] = more.get("fix") or CODES[code].fix
    return Violation(code=code, where=where, message=message, **more)
