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

from expectations.formats.codes import CODES
from expectations.violations import Violation

if TYPE_CHECKING:
    import pandas as pd

Table = Literal["passages", "instruction_records", "preference_records", "retrieval_records"]
SUITES = Path(__file__).parent / "suites"
PLACES_SHOWN = 20

# For each table: its id, the texts whose lengths count, the lists whose lengths count, what is taken as it is.
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
_AS_IS = {
    "passages": ["document_id", "start", "end", "language", "source"],
    "instruction_records": ["difficulty", "language", "source"],
    "preference_records": ["margin", "language", "source"],
    "retrieval_records": ["language", "source"],
}
# Measured by GX on str(x), or always false on pandas-3 strings: such an expectation judges something else than it says.
_LENGTHS = "value_lengths"
_TYPE_LISTS = "in_type_list"


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
    for batch in file.iter_batches(batch_size=16384, columns=[*wanted, *({"line_no"} & names)]):
        numbers = pa.array(range(rows + 1, rows + batch.num_rows + 1))
        slim = {"line_no": batch["line_no"] if "line_no" in names else numbers, "id": batch[wanted[0]]}
        slim |= {f"{name}_len": pc.utf8_length(batch[name]) for name in _TEXTS[kind]}
        slim |= {f"{name}_count": pc.list_value_length(batch[name]) for name in _LISTS[kind]}
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


def _flags(batch: Any, kind: Table) -> dict[str, Any]:
    import pyarrow as pa

    pc = _compute()
    if kind == "preference_records":
        return {"chosen_differs": pc.not_equal(batch["chosen"], batch["rejected"])}
    if kind == "passages":
        return {"span": pc.subtract(batch["end"], batch["start"])}
    if kind == "retrieval_records":
        positives, scores = batch["positive_ids"].to_pylist(), batch["scores"].to_pylist()
        return {
            "scores_match": pa.array(
                [None not in (a, b) and len(a) == len(b) for a, b in zip(positives, scores, strict=True)]
            ),
            "positives_differ": pa.array([ids is not None and len(set(ids)) == len(ids) for ids in positives]),
        }
    return {}


def validate(frame: pd.DataFrame, suite: Path) -> list[Violation]:
    """What does not hold in a slim frame by a suite file. No violations means: every expectation ran, and held.

    Violations name the failing rows by `source:line_no` (all are counted, the first 20 shown). FT-TABLE-001 the suite
    cannot be used, FT-TABLE-002 a check is broken, FT-TABLE-003 the table is empty, FT-TABLE-004 a rule does not hold.
    """
    try:
        raw = json.loads(suite.read_text("utf-8"))
    except (OSError, ValueError) as error:
        return [_violation("FT-TABLE-001", suite.name, f"cannot be read: {error}")]
    if broken := _suite_faults(raw, frame, suite.name):
        return broken
    if not len(frame):
        return [_violation("FT-TABLE-003", raw["name"], "the table has no rows", found=0, expected="at least 1")]

    try:
        results = _run(frame, raw)
    except _Dropped as error:
        return [_violation("FT-TABLE-001", suite.name, str(error))]
    if len(results) != len(raw["expectations"]):
        message = f"{len(results)} of {len(raw['expectations'])} expectations gave a result"
        return [_violation("FT-TABLE-002", raw["name"], message)]
    return [violation for result in results if (violation := _judge(raw["name"], result))]


class _Dropped(Exception):
    """Great Expectations did not take the suite as it is written."""


def _run(frame: pd.DataFrame, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """One result for each expectation. The context is fresh: adding a data source twice to one context raises."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.exceptions.exceptions import GreatExpectationsError

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    try:
        suite = gx.ExpectationSuite(name=raw["name"], expectations=raw["expectations"])
    except (GreatExpectationsError, TypeError, ValueError) as error:
        raise _Dropped(f"refused by Great Expectations: {error}") from error
    if len(suite.expectations) != len(raw["expectations"]):  # unknown types are logged and left out
        known = {expectation.expectation_type for expectation in suite.expectations}
        dropped = [entry["type"] for entry in raw["expectations"] if entry["type"] not in known]
        raise _Dropped(f"unknown expectations, which would be dropped: {', '.join(dropped)}")
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    index = [column for column in ("source", "line_no") if column in frame.columns]
    # COMPLETE still caps every list but `unexpected_index_list`; to_json_dict, because raw results hold numpy values.
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": index})
    return outcome.to_json_dict()["results"]


def _suite_faults(raw: Any, frame: pd.DataFrame, name: str) -> list[Violation]:
    """What makes a suite pass, or fail, for another reason than the data."""
    entries = raw.get("expectations") if isinstance(raw, dict) else None
    if not entries or not raw.get("name") or not all(isinstance(entry, dict) and "type" in entry for entry in entries):
        return [_violation("FT-TABLE-001", name, "a suite needs a name and a list of expectations with their types")]
    faults: list[Violation] = []
    for entry in entries:
        kwargs = entry.get("kwargs", {})
        low, high = kwargs.get("min_value"), kwargs.get("max_value")
        columns = [value for key, value in kwargs.items() if key in ("column", "column_A", "column_B")]
        columns += kwargs.get("column_list", [])
        missing = [column for column in columns if column not in frame.columns]
        if low is not None and high is not None and low > high:
            faults.append(_fault(name, entry, f"min_value {low} is above max_value {high}: nothing can hold it"))
        elif missing and len(frame):
            message = f"{entry['type']}: the table has no column {', '.join(missing)}"
            faults.append(_violation("FT-TABLE-002", name, message, expected=list(frame.columns)))
        elif _TYPE_LISTS in entry["type"]:
            faults.append(_fault(name, entry, "judges pandas strings wrongly; types are the schema's matter"))
        elif _LENGTHS in entry["type"] and len(frame) and not _is_text(frame[kwargs["column"]]):
            faults.append(_fault(name, entry, f"`{kwargs['column']}` is not text: the length of its print would count"))
    return faults


def _is_text(column: pd.Series) -> bool:
    import pandas as pd

    return isinstance(column.dtype, pd.StringDtype)


def _judge(where: str, result: dict[str, Any]) -> Violation | None:
    config = result["expectation_config"]
    column = config["kwargs"].get("column") or config["kwargs"].get("column_list") or ""
    if crash := _crash(result.get("exception_info")):
        return _violation("FT-TABLE-002", where, f"{config['type']} crashed: {crash}", field=str(column))
    if result["success"]:
        return None
    meta, outcome = config.get("meta") or {}, result["result"]
    rows = outcome.get("unexpected_index_list") or []
    places = [":".join(str(row[key]) for key in ("source", "line_no") if key in row) for row in rows]
    message = meta.get("message", f"{config['type']} does not hold")
    if places:
        message += f"; {len(places)} rows, at {', '.join(places[:PLACES_SHOWN])}"
        message += f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
    found = outcome.get("observed_value")
    if found is None:
        found = [row.get(column) for row in rows[:PLACES_SHOWN]] if isinstance(column, str) else len(rows)
    expected = {key: value for key, value in config["kwargs"].items() if key not in ("column", "batch_id")}
    return _violation(
        "FT-TABLE-004", where, message, field=str(column), found=found, expected=expected, mend=meta.get("mend", "")
    )


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
    more["mend"] = more.get("mend") or CODES[code].mend
    return Violation(code=code, where=where, message=message, **more)
