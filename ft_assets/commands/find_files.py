"""The files that a command's arguments name: files, folders and globs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from expectations.reading import glob_files
from expectations.reading.columns import is_dataset_folder
from expectations.text.documents import is_document

_SUFFIXES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".qrels", ".trec"}
_PACKED = {".gz", ".zst"}
_GLOB = frozenset("*?[")


def find_files(arguments: Iterable[str]) -> list[Path]:
    """Return the files of all arguments in order, each once.

    A folder gives the data files and documents below it, a glob what it matches (`**` goes through folders). Hidden
    files are left out. A name that is neither is returned as it is: the reader reports that there is no such file.
    click.UsageError for a folder or a glob without a file.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir() and not is_dataset_folder(path):
            paths = sorted(_walk(path))
            problem = f"the folder {argument} has no file to verify ({', '.join(sorted(_SUFFIXES))}, documents)"
        elif not path.exists() and _GLOB.intersection(argument):
            paths = sorted(glob_files(argument))
            problem = f"no file matches {argument}"
        else:
            paths, problem = [path], ""
        if not paths:
            raise click.UsageError(problem)
        found.update(dict.fromkeys(paths))
    return list(found)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the data files and documents below a folder; one that the `datasets` library saved is one file."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_dataset_folder(path):
            yield from _walk(path)
        elif path.is_dir() or _is_data(path) or is_document(path):
            yield path


def _is_data(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in _SUFFIXES
