"""The rows of artifacts: a page of a table or of a quarantine, filtered, read as a stream."""

# pyarrow is untyped here
# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.violations import Refused
from ft_assets.web.project import NotFound, ShownProject, asset_names
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import open_tables, row_count, table_batches, table_schema

PAGE_SIZE = 25
_BATCH = 20_000  # rows that are searched at once
_ENDINGS = (".parquet", ".jsonl", ".json", ".txt", ".md")
_FIRST = (
    "query_id",
    "record_id",
    "passage_id",
    "question",
    "query",
    "text",
    "answer",
    "chosen",
    "rejected",
    "code",
    "reason",
)
_SHOWN_COLUMNS = 5
_OF_A_QUARANTINE = ["code", "reason", "file", "line", "raw"]
# columns with ids of passages
_PASSAGE_COLUMNS = {"evidence", "passage_ids", "positive_ids", "negative_ids", "retrieved", "passages", "passage_id"}


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an artifact that can be looked at."""

    name: str
    rows: int | None
    bytes: int


class ShownData(msgspec.Struct, frozen=True, kw_only=True):
    """An asset with data, and its current artifact."""

    asset: str
    recipe: str
    version: str
    files: list[DataFile]


class DataView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /data."""

    sets: list[ShownData]
    damage: list[str]
    """The reasons why an asset's current artifact is not known."""


class ShownRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row: the columns of the table, and everything."""

    number: int
    cells: list[str]
    fields: dict[str, Any]


class TableView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /data/<asset>."""

    asset: str
    recipe: str
    recipes: list[str]
    files: list[DataFile]
    file: str
    columns: list[str]
    shown: list[str]
    rows: list[ShownRow]
    total: int
    query: str
    column: str
    exact: bool
    page: int
    pages: int
    passage_columns: list[str]


class _Rows(msgspec.Struct):
    """The rows that a filter keeps, of which one page is read."""

    columns: list[str]
    total: int
    rows: list[tuple[int, dict[str, Any]]]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that a reader looks for: by a text in any column or in one, as a part or exactly."""

    query: str = ""
    column: str = ""
    exact: bool = False


def list_data(project: ShownProject) -> DataView:
    """Return every asset with rows."""
    sets, damage = list[ShownData](), list[str]()
    for asset in asset_names(project.store):
        try:
            artifact = project.store.current(asset)
        except Refused as refused:  # the other assets can be shown
            damage.append(str(refused.violations[0]))
            continue
        files = _files(artifact) if artifact else []
        if artifact and any(file.name.endswith((".parquet", ".jsonl")) for file in files):
            found = ShownData(asset=asset, recipe=artifact.recipe_id, version=artifact.data_version, files=files)
            sets.append(found)
    return DataView(sets=sets, damage=damage)


def show_table(project: ShownProject, asset: str, *, recipe: str, file: str, look: Filter, page: int) -> TableView:
    """Return one page of a file. Raises NotFound where the store has no such artifact or file."""
    artifact = find_artifact(project.store, asset, recipe)
    files = _files(artifact)
    file = file or next((one.name for one in files if one.rows), files[0].name if files else "")
    paths = files_of(artifact, file)
    page = max(page, 1)
    start = (page - 1) * PAGE_SIZE
    found = _read_parquet(paths, look, start) if file.endswith(".parquet") else _read_lines(paths[0], look, start)
    shown = _choose_columns(found.columns)
    return TableView(
        asset=asset,
        recipe=artifact.recipe_id,
        recipes=[one.recipe_id for one in project.store.versions(asset)],
        files=files,
        file=file,
        columns=found.columns,
        shown=shown,
        rows=[
            ShownRow(number=number, cells=[_cell(row.get(name)) for name in shown], fields=row)
            for number, row in found.rows
        ],
        total=found.total,
        query=look.query,
        column=look.column,
        exact=look.exact,
        page=page,
        pages=max(-(-found.total // PAGE_SIZE), 1),
        passage_columns=[name for name in found.columns if name in _PASSAGE_COLUMNS],
    )


def find_artifact(store: ArtifactStore, asset: str, recipe: str = "") -> Artifact:
    """Return an artifact that is in the store, by names that are in the store. Raises NotFound."""
    if asset not in asset_names(store):
        raise NotFound(f"There is no asset {asset} in this state. The page Data lists those that have rows.")
    artifacts = {artifact.recipe_id: artifact for artifact in store.versions(asset)}
    current = store.current(asset)
    artifact = artifacts.get(recipe) if recipe else current
    if artifact is None:
        raise NotFound(f"{asset} has no artifact {recipe or 'yet'}.")
    return artifact


def files_of(artifact: Artifact, name: str) -> list[Path]:
    """Return a file that the manifest lists, or the shards of a table, as they were published. Raises NotFound."""
    if name not in artifact.manifest.files and name not in artifact.sharded_tables():
        raise NotFound(f"{artifact.asset}/{artifact.recipe_id} has no file {name}.")
    return artifact.table(name)


def file_of(artifact: Artifact, name: str) -> Path:
    """Return a file that the manifest lists, as it was published. Raises NotFound, also for a table in shards."""
    path, *others = files_of(artifact, name)
    if others:
        folder = artifact.path / name.removesuffix(".parquet")
        raise NotFound(f"{name} is {len(others) + 1} files in the state: {folder}")
    return path


def _files(artifact: Artifact) -> list[DataFile]:
    seals = artifact.manifest.files
    files = {name: [name] for name in seals if name.endswith(_ENDINGS) and "/" not in name}
    files |= {name: artifact.table_parts(name) for name in artifact.sharded_tables()}
    found = [
        DataFile(
            name=name,
            rows=_row_count([artifact.path / part for part in parts]),
            bytes=sum(seals[part].size for part in parts if part in seals),
        )
        for name, parts in files.items()
    ]
    return sorted(found, key=lambda file: (not file.name.endswith(".parquet"), file.name))


def _row_count(tables: list[Path]) -> int | None:
    try:
        return row_count(tables) if tables[0].suffix == ".parquet" else None
    except (OSError, ValueError):  # a damaged file is named when it is opened
        return None


def _choose_columns(columns: list[str]) -> list[str]:
    """Return the columns of the table on the page: ids and texts first; a row's details have all."""
    if set(_OF_A_QUARANTINE) <= set(columns):
        return _OF_A_QUARANTINE
    wanted = [name for name in _FIRST if name in columns]
    return [*wanted, *(name for name in columns if name not in wanted)][:_SHOWN_COLUMNS]


def _read_parquet(tables: list[Path], look: Filter, start: int) -> _Rows:
    names = [field.name for field in table_schema(tables) if not _is_vector(field.type)]
    if not look.query:
        total = row_count(tables)
        return _Rows(names, total, list(_take(tables, names, range(start, min(start + PAGE_SIZE, total)))))
    searched = [look.column] if look.column in names else names
    at, total = 0, 0
    wanted: list[int] = []
    for batch in table_batches(tables, _BATCH, searched):
        places = _matches(batch, searched, look)
        wanted += [at + place for place in places[max(start - total, 0) : max(start + PAGE_SIZE - total, 0)]]
        at, total = at + len(batch), total + len(places)
    return _Rows(names, total, list(_take(tables, names, wanted)))


def _take(tables: list[Path], names: list[str], wanted: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield these rows with their numbers; only row groups that hold one of them are read."""
    before = 0
    for file in open_tables(tables):
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if here := [place for place in wanted if before <= place < before + count]:
                table = file.read_row_group(group, columns=names).take([place - before for place in here])
                yield from zip((place + 1 for place in here), table.to_pylist(), strict=True)
            before += count


def _matches(batch: Any, names: list[str], look: Filter) -> list[int]:
    """Return the places of the rows that hold the text."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.zeros(len(batch), dtype=bool)
    for name in names:
        column, parents = batch.column(name), None
        if pa.types.is_list(column.type):
            column, parents = pc.list_flatten(column), pc.list_parent_indices(column)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            column = column.cast(pa.string())
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        same = pc.equal(column, look.query) if look.exact else pc.match_substring(column, look.query, ignore_case=True)
        places = pc.indices_nonzero(pc.fill_null(same, False))
        found[(parents.take(places) if parents is not None else places).to_numpy()] = True
    return np.flatnonzero(found).tolist()


def _is_vector(kind: Any) -> bool:
    import pyarrow as pa

    return (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )


def _read_lines(path: Path, look: Filter, start: int) -> _Rows:
    """Return a page of the lines of a text file; of JSON lines their fields."""
    needle = look.query.lower()
    total, rows = 0, []
    columns: dict[str, None] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            text = line.decode("utf-8", "replace")
            if needle and needle not in text.lower():
                continue
            row = _fields(text) if start <= total < start + PAGE_SIZE or look.column else {}
            if look.column and needle not in str(row.get(look.column, "")).lower():
                continue
            if start <= total < start + PAGE_SIZE:
                columns |= dict.fromkeys(row)
                rows.append((number, row))
            total += 1
    return _Rows(list(columns), total, rows)


def _fields(line: str) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        row = None
    return row if isinstance(row, dict) else {"text": line.rstrip("\n")}


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
