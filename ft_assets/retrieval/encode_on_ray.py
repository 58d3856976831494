"""A corpus encoded by actors of a Ray cluster, each chunk into a file of its own name.

The name decides order and resuming: a chunk that has its file is not encoded again, whoever was killed. Actors read
their chunk themselves and return one number, so no vector travels through Ray.
"""

# pyright: basic
# ray and pyarrow have no type information.
from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any

import msgspec

from expectations.violations import Refused, violation
from ft_assets.retrieval.encode import ChunkEncoder, EncodedPart, chunk_of
from ft_assets.retrieval.vectors import CutPassage
from resources.files import sync_to_disk
from resources.launcher import RAY_CPUS, RAY_ENCODERS, RAY_GPUS, Job
from resources.telemetry import Metrics

QUIET_SECONDS = 1800.0
"""A pool that finishes no chunk for so long is stuck."""
_RESTARTS = 3
_log = logging.getLogger(__name__)
Span = tuple[int, int]


def encode_parts(job: Job, version: str, spans: Sequence[Span]) -> Iterator[EncodedPart]:
    """Yield the part of each span in order, after actors have encoded those that have no file yet.

    `version`: of all that decides vectors besides the recipe. The files stay until `remove_parts`. Raises Refused:
    FT-RAY-004 the cluster has no room for an actor, FT-RAY-005 no chunk was finished for half an hour.
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


def room_for(cpus: float, gpus: float, cluster: Mapping[str, float]) -> int:
    """Return how many actors a cluster has room for, besides the worker, which holds as much as one of them.

    A whole CPU is left: Ray's own tasks wait for ever where actors hold all of them.
    """
    rooms = [(cluster.get("CPU", 0.0) - cpus - 1) / cpus]
    rooms += [(cluster.get("GPU", 0.0) - gpus) / gpus] if gpus else []
    return max(0, floor(min(rooms) + 1e-9))  # a tenth of a CPU is no exact number


def _run(job: Job, folder: Path, missing: Sequence[Span], total: int) -> None:
    import ray  # pyright: ignore[reportMissingImports]
    import ray.data  # pyright: ignore[reportMissingImports]

    actors = int(os.environ[RAY_ENCODERS])
    cpus, gpus = float(os.environ[RAY_CPUS]), float(os.environ[RAY_GPUS])
    ray.init(log_to_driver=False)
    cluster = ray.cluster_resources()
    room = room_for(cpus, gpus, cluster)
    if not room:
        found = f"{cluster.get('CPU', 0.0):g} CPU, {cluster.get('GPU', 0.0):g} GPU"
        expected = f"at least {2 * cpus + 1:g} CPU, {2 * gpus:g} GPU"
        full = violation("FT-RAY-004", where="launcher.ray.encoders", field="room", found=found, expected=expected)
        raise Refused("encoding on Ray", [full])
    spans = ray.data.from_items(
        [{"start": start, "end": end} for start, end in missing], override_num_blocks=len(missing)
    )
    done = spans.map_batches(
        _Actor,
        fn_constructor_args=(str(job.folder() / "job.json"), str(folder)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(missing), room)),
        num_cpus=cpus,
        num_gpus=gpus or None,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )
    metrics = Metrics(job.folder())
    finished = total - len(missing)
    for _ in _until_quiet(done.iter_batches(batch_size=1, prefetch_batches=0)):
        finished += 1
        metrics.log("encode on Ray", finished, total)
    metrics.close()
    ray.shutdown()


def _until_quiet(batches: Any) -> Iterator[Any]:
    """Yield the batches. Raises Refused (FT-RAY-005) if none comes for too long, and what their source raises."""
    arrived: queue.Queue[Any] = queue.Queue()
    end = object()

    def fetch() -> None:
        try:
            for batch in batches:
                arrived.put(batch)
            arrived.put(end)
        except Exception as error:  # raised where it is waited for
            arrived.put(error)

    threading.Thread(target=fetch, daemon=True).start()
    while True:
        try:
            item = arrived.get(timeout=QUIET_SECONDS)
        except queue.Empty:
            minutes = f"{QUIET_SECONDS / 60:.0f} minutes"
            stuck = violation("FT-RAY-005", where="launcher.ray.encoders", field="chunks", found=f"none for {minutes}")
            raise Refused("encoding on Ray", [stuck]) from None
        if item is end:
            return
        if isinstance(item, Exception):
            raise item
        yield item


class _Actor:
    """Encodes chunks in a process of the cluster."""

    def __init__(self, job_file: str, folder: str) -> None:
        job = msgspec.json.decode(Path(job_file).read_bytes(), type=Job)
        self._passages, self._encoder, self._folder = job.input("passages"), ChunkEncoder(job), Path(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for span in zip(batch["start"].tolist(), batch["end"].tolist(), strict=True):
            path = _path(self._folder, span)
            if not _is_whole(path):
                _write(path, self._encoder.encode(chunk_of(self._passages, *span)))
        return {"start": batch["start"]}


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
