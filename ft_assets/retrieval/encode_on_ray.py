"""A corpus encoded by actors of a Ray cluster, each chunk into a file of its own name.

The name decides order and resuming: a chunk that has its file is not encoded again, whoever was killed. Actors read
their chunk themselves and return nothing, so no vector travels through Ray.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ft_assets.retrieval.encode import ChunkEncoder, EncodedPart, chunk_of
from ft_assets.retrieval.vectors import CutPassage
from resources.files import sync_to_disk
from resources.launcher import RAY_ENCODERS, Job
from resources.ray_pool import ActorPool
from resources.telemetry import Metrics

_log = logging.getLogger(__name__)
Span = tuple[int, int]


def encode_parts(job: Job, version: str, spans: Sequence[Span]) -> Iterator[EncodedPart]:
    """Yield the part of each span in order, after actors have encoded those that have no file yet.

    `version`: of all that decides vectors besides the recipe. The files stay until `remove_parts`. Raises Refused as
    `ActorPool` does.
    """
    folder = job.folder() / f"parts-{version}"
    remove_parts(job, but=folder)
    folder.mkdir(exist_ok=True)
    missing = [span for span in spans if not _is_whole(_path(folder, span))]
    _log.info("%d of %d chunks are encoded already", len(spans) - len(missing), len(spans))
    if missing:
        _run(job, folder, missing, len(spans))
    for span in spans:
        yield _read(_path(folder, span))


def remove_parts(job: Job, but: Path | None = None) -> None:
    """Remove the files of chunks: all of them once the artifact is published, before it those of other versions."""
    for folder in job.folder().glob("parts-*"):
        if folder != but:
            shutil.rmtree(folder)


def _run(job: Job, folder: Path, missing: Sequence[Span], total: int) -> None:
    metrics, finished = Metrics(job.folder()), total - len(missing)
    arguments = str(job.folder() / "job.json"), str(folder)
    with ActorPool("launcher.ray.encoders", int(os.environ[RAY_ENCODERS]), _Encoder, *arguments) as pool:
        for _ in pool.run(missing):
            finished += 1
            metrics.log("encode on Ray", finished, total)
    metrics.close()


class _Encoder:
    """Encodes chunks in a process of the cluster, each into its file."""

    def __init__(self, job_file: str, folder: str) -> None:
        job = msgspec.json.decode(Path(job_file).read_bytes(), type=Job)
        self._passages, self._encoder, self._folder = job.input("passages"), ChunkEncoder(job), Path(folder)

    def __call__(self, span: Span) -> None:
        path = _path(self._folder, span)
        if not _is_whole(path):
            _write(path, self._encoder.encode(chunk_of(self._passages, *span)))


def _path(folder: Path, span: Span) -> Path:
    return folder / f"part-{span[0]:012}-{span[1]:012}.arrow"


def _is_whole(path: Path) -> bool:
    """Return whether the file of a part is there to its end: one that a failing disk has cut is encoded again."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path), "rb") as source:
            return pa.ipc.open_file(source).num_record_batches >= 0
    except (OSError, pa.ArrowInvalid):
        return False


def _write(path: Path, part: EncodedPart) -> None:
    """Write a part so that it is seen whole or not at all. It is on the disk then."""
    import pyarrow as pa

    notes = {"cut": msgspec.json.encode(part.cut), "encoded": str(part.encoded)}
    table = part.table.replace_schema_metadata(notes)
    temporary = path.with_suffix(f".{os.getpid()}-{time.time_ns()}.tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    sync_to_disk(temporary)
    temporary.replace(path)


def _read(path: Path) -> EncodedPart:
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as source:
        table = pa.ipc.open_file(source).read_all()
    notes = table.schema.metadata
    cut = msgspec.json.decode(notes[b"cut"], type=list[CutPassage])
    return EncodedPart(table.replace_schema_metadata(None).combine_chunks(), cut, int(notes[b"encoded"]))
