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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.violations import Refused, violation
from ft_assets.retrieval.encode import ENCODERS, ChunkEncoder, EncodedPart, chunk_of
from ft_assets.retrieval.vectors import CutPassage
from resources.launcher import Job
from resources.telemetry import Metrics

CPUS, GPUS = "FT_RAY_ENCODER_CPUS", "FT_RAY_ENCODER_GPUS"
QUIET_SECONDS = 1800.0
"""A pool that finishes no chunk for so long is stuck."""
_RESTARTS = 3
_log = logging.getLogger(__name__)
Span = tuple[int, int]


def encode_parts(job: Job, version: str, spans: Sequence[Span]) -> Iterator[EncodedPart]:
    """Yield the part of each span in order, after actors have encoded those that have no file yet.

    `version`: of all that decides vectors besides the recipe. Raises Refused: FT-RAY-004 the pool takes all CPUs,
    FT-RAY-005 no chunk was finished for half an hour.
    """
    folder = job.folder() / f"parts-{version}"
    folder.mkdir(exist_ok=True)
    missing = [span for span in spans if not _path(folder, span).is_file()]
    _log.info("%d of %d chunks are encoded already", len(spans) - len(missing), len(spans))
    if missing:
        _run(job, folder, missing, len(spans))
    for span in spans:
        yield _read(_path(folder, span))
    shutil.rmtree(folder)


def leaves_room(actors: int, cpus: float, free: float) -> bool:
    """Return whether a pool leaves a whole CPU: Ray's own tasks wait for ever where actors hold all of them."""
    return actors * cpus <= free - 1


def _run(job: Job, folder: Path, missing: Sequence[Span], total: int) -> None:
    import ray  # pyright: ignore[reportMissingImports]
    import ray.data  # pyright: ignore[reportMissingImports]

    actors, cpus, gpus = int(os.environ[ENCODERS]), float(os.environ[CPUS]), float(os.environ[GPUS])
    ray.init(log_to_driver=False)
    free = ray.cluster_resources().get("CPU", 0.0) - cpus  # this worker itself holds as much as an actor
    if not leaves_room(actors, cpus, free):
        found, expected = f"{actors} x {cpus:g} CPU", f"at most {max(free - 1, 0):g} of {free + cpus:g} CPU"
        full = violation("FT-RAY-004", where="launcher.ray.encoders", field="CPU", found=found, expected=expected)
        raise Refused("encoding on Ray", [full])
    spans = ray.data.from_items(
        [{"start": start, "end": end} for start, end in missing], override_num_blocks=len(missing)
    )
    done = spans.map_batches(
        _Actor,
        fn_constructor_args=(str(job.folder() / "job.json"), str(folder)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(missing))),
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
            if not path.is_file():
                _write(path, self._encoder.encode(chunk_of(self._passages, *span)))
        return {"start": batch["start"]}


def _path(folder: Path, span: Span) -> Path:
    return folder / f"part-{span[0]:012}-{span[1]:012}.arrow"


def _write(path: Path, part: EncodedPart) -> None:
    """Write a part so that it is seen whole or not at all."""
    import pyarrow as pa

    notes = {"cut": msgspec.json.encode(part.cut), "encoded": str(part.encoded)}
    table = part.table.replace_schema_metadata(notes)
    temporary = path.with_suffix(f".{os.getpid()}-{time.time_ns()}.tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)


def _read(path: Path) -> EncodedPart:
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as source:
        table = pa.ipc.open_file(source).read_all()
    notes = table.schema.metadata
    cut = msgspec.json.decode(notes[b"cut"], type=list[CutPassage])
    return EncodedPart(table.replace_schema_metadata(None).combine_chunks(), cut, int(notes[b"encoded"]))
