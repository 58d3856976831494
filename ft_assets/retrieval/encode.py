"""Encodes the corpus once for each model: vectors that an earlier run made of the same text are reused."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import ctypes
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from expectations.canonical import digest
from expectations.contracts.embedding import EmbeddingContract, Lexical
from expectations.lexical.bm25 import Bm25
from ft_assets.config.model import EmbeddingSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import (
    FREQUENCIES_FILE,
    SAMPLED,
    FrequencyCounter,
    plan_bm25,
    sparse_passages,
    with_frequencies,
)
from ft_assets.embedding.model import MODEL_FOLDER, Encoded, HybridEncoder
from ft_assets.retrieval.earlier import Earlier, find_earlier
from ft_assets.retrieval.jobs import EncodeJob, VectorsSummary
from ft_assets.retrieval.vectors import (
    ARMS,
    CONTRACT_FILE,
    CUT_FILE,
    TERMS_FILE,
    VECTORS_FILE,
    CutPassage,
    VectorShard,
    contract_of,
    schema,
    vector_writer,
    vectors_file,
    write_terms,
)
from resources import accelerator, models
from resources.artifacts import Artifact, ArtifactStore, write_json, write_shards
from resources.launcher import RAY_ENCODERS, Job, run_worker
from resources.parquet import open_tables, row_count, sample_column, table_batches
from resources.telemetry import Metrics
from resources.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CHUNK = 1024  # passages between two writes: it sets the peak of memory, whatever the size of the corpus
_NAMES = ("passage_id", "document_id", "heading", "content_sha256")


def main(job: Job) -> Artifact:
    """Publish `passage_vectors`, or `base_vectors` by the model before its training: full-width vectors of every
    passage."""
    # oneDNN keeps a kernel for each of the last 1024 shapes it met, hundreds of MB: every chunk brings new ones
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")
    passages, encoder = job.input("passages"), ChunkEncoder(job)
    contract, width = encoder.contract, encoder.contract.dense.dimensions[0]
    earlier, names = encoder.earlier, passages.table_parts(PASSAGES)
    shared = {name: shard for name in names if (shard := earlier.shard_of(passages, name))}
    fresh = [name for name in names if name not in shared]
    frequencies = earlier.count_terms() if contract.lexical else None
    shards: list[VectorShard] = []
    progress = _Progress(Metrics(job.folder()), row_count(passages.table(PASSAGES)))
    parts = encode_on_ray(job, encoder, fresh) if RAY_ENCODERS in os.environ else _encode(encoder, passages, fresh)
    parts = _count_parts(parts, frequencies, progress)
    with job.artifacts().stage(job.recipe) as staging:
        for name in names:
            if shard := shared.get(name):
                shard = earlier.share(shard, name, staging)
                progress.add(shard.rows, 0)
            else:
                path = staging.path / vectors_file(name)
                path.parent.mkdir(exist_ok=True)
                with vector_writer(path, width) as writer:
                    shard = _write_shard(passages, name, parts, writer)
            shards.append(shard)
        progress.end()
        if names != [PASSAGES]:
            write_shards(staging.path, VECTORS_FILE, shards)
            if frequencies:
                write_terms(staging.path / TERMS_FILE, frequencies)
        done, cut = sum(shard.rows for shard in shards), [*chain.from_iterable(shard.cut for shard in shards)]
        if contract.lexical and frequencies:
            table = frequencies.result().to_text()
            (staging.path / FREQUENCIES_FILE).write_text(table, "utf-8")
            contract = replace(contract, lexical=with_frequencies(contract.lexical, table, done))
        write_json(staging.path / CONTRACT_FILE, contract.to_json())
        write_json(staging.path / CUT_FILE, msgspec.to_builtins(sorted(cut, key=lambda passage: -passage.tokens)))
        summary = VectorsSummary(
            passages=done,
            encoded=progress.encoded,
            reused=done - progress.encoded,
            empty_sparse=sum(shard.empty for shard in shards),
            cut=len(cut),
            dimension=width,
        )
        artifact = staging.publish(summary)
    if RAY_ENCODERS in os.environ:
        from ft_assets.retrieval.encode_on_ray import remove_parts

        remove_parts(job)
    return artifact


class _Progress:
    """The passages that are done, of all."""

    def __init__(self, metrics: Metrics, total: int) -> None:
        self.done = self.encoded = 0
        self._metrics, self._total = metrics, total

    def add(self, passages: int, encoded: int) -> None:
        """Report that so many more are done."""
        self.done += passages
        self.encoded += encoded
        self._metrics.log("encode", self.done, self._total, encoded=self.encoded, reused=self.done - self.encoded)

    def end(self) -> None:
        """Close the file of the figures."""
        self._metrics.close()


def _count_parts(
    parts: Iterator[EncodedPart], frequencies: FrequencyCounter | None, progress: _Progress
) -> Iterator[EncodedPart]:
    """Yield the parts again; count their terms and their passages."""
    for part in parts:
        if frequencies:
            sparse = part.table.column("sparse_indices").combine_chunks()
            frequencies.add(sparse.flatten().to_numpy(), len(part.table))
        progress.add(len(part.table), part.encoded)
        yield part
        _release_memory()


def _write_shard(passages: Artifact, name: str, parts: Iterator[EncodedPart], writer: pq.ParquetWriter) -> VectorShard:
    """Write the vectors of one file of passages: the next parts have them."""
    total = row_count(passages.file(name))
    rows = empty = 0
    cut: list[CutPassage] = []
    while rows < total:
        part = next(parts)
        writer.write_table(part.table)
        empty += part.table.column("sparse_indices").combine_chunks().value_lengths().to_pylist().count(0)
        cut += part.cut
        rows += len(part.table)
    sha256 = passages.manifest.files[name].sha256
    return VectorShard(name=Path(name).stem, passages=sha256, rows=rows, empty=empty, cut=cut)


def _encode(encoder: ChunkEncoder, passages: Artifact, names: Sequence[str]) -> Iterator[EncodedPart]:
    for name in names:
        yield from map(encoder.encode, _chunks(passages.file(name)))


def encode_on_ray(job: Job, encoder: ChunkEncoder, names: Sequence[str]) -> Iterator[EncodedPart]:
    """Yield the parts of these files of passages, encoded by actors of the cluster that this worker is a job of."""
    from ft_assets.retrieval.encode_on_ray import encode_parts

    passages = job.input("passages")
    spans: list[tuple[int, int]] = []
    start = 0
    for name in passages.table_parts(PASSAGES):
        ends = [*accumulate(map(len, _chunks(passages.file(name), ["content_sha256"])), initial=start)]
        spans += pairwise(ends) if name in names else ()
        start = ends[-1]
    return encode_parts(job, digest(encoder.contract.to_json())[:12], spans)


class EncodedPart(NamedTuple):
    """The rows of one chunk of the corpus."""

    table: pa.Table
    cut: list[CutPassage]
    encoded: int
    """Texts that no earlier artifact had."""


class ChunkEncoder:
    """Encodes chunks of the corpus of a job. Every process that shares the work has one."""

    def __init__(self, job: Job) -> None:
        params = job.params_as(EncodeJob)
        model = _model_of(job, params)
        self.contract = model.contract
        if params.bm25:
            lexical = _plan_lexical(job.artifacts(), params.bm25, job.input("passages"))
            if params.factors and model.contract.factors_sha256:
                lexical = replace(lexical, kind="bm25_learned")
            self.contract = replace(self.contract, lexical=lexical)
        self.earlier = find_earlier(job, self.contract)
        self._source = _Vectors(model, self.earlier, self.contract)

    def encode(self, chunk: pa.RecordBatch) -> EncodedPart:
        """Return the rows of these passages."""
        import pyarrow as pa

        before = self._source.encoded
        vectors = self._source.of(chunk)
        columns = [*map(chunk.column, _NAMES), *map(vectors.column, ARMS)]
        # one piece a column, so that a file that is written here or read again has the same bytes
        table = pa.Table.from_arrays(columns, schema=schema(self.contract.dense.dimensions[0])).combine_chunks()
        return EncodedPart(table, self._source.cut_in(chunk), self._source.encoded - before)


class _Model(NamedTuple):
    """A model to encode with, which is loaded only if a passage is not known yet."""

    load: Callable[[], HybridEncoder]
    contract: EmbeddingContract
    tokenizer: Callable[[], Path]
    """The folder of its tokenizer."""


def _model_of(job: Job, params: EncodeJob) -> _Model:
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    if params.base is None:
        trained = job.input("embedding_model")
        return _Model(
            lambda: HybridEncoder.load(trained.folder(), compute),
            contract_of(trained),
            lambda: trained.folder(MODEL_FOLDER),
        )
    settings, state = EmbeddingSettings.model_validate(params.base), Path(params.compute.state_dir)
    base = base_encoder(settings, state, compute)
    return _Model(lambda: base, base.contract, lambda: models.locate(settings.base_model, state, settings.revision))


def base_encoder(settings: EmbeddingSettings, state: Path, compute: accelerator.Compute) -> HybridEncoder:
    """Return the model of these embedding settings, before its training."""
    folder = models.locate(settings.base_model, state, settings.revision)
    return HybridEncoder.from_base(folder, settings, "", compute)


def _plan_lexical(store: ArtifactStore, settings: Bm25Settings, passages: Artifact) -> Lexical:
    """Return the passages' side of BM25, from an even sample of the corpus and the newest vectors of the store."""
    contents = sample_column(passages.table(PASSAGES), "content", SAMPLED)
    earlier = (contract_of(artifact).lexical for artifact in store.versions("passage_vectors"))
    return plan_bm25(settings, contents, filter(None, earlier))


class _Vectors:
    """Gives the vectors of passages: those of an earlier artifact where it has them, else encoded now. Counts both."""

    def __init__(self, model: _Model, earlier: Earlier, contract: EmbeddingContract) -> None:
        self.encoded = self.reused = 0
        self._model, self._earlier = model, earlier
        self._width = contract.dense.dimensions[0]
        self._bm25 = Bm25(contract.lexical, "passage_vectors") if contract.lexical else None
        self._weighs = contract.lexical is not None and contract.lexical.kind == "bm25_learned"
        self._keeps_lexical = self._bm25 is None or earlier.has_lexical(contract)
        self._encoder: HybridEncoder | None = None
        self._tokens = dict(earlier.cut or {})
        """Content hash -> tokens, of the texts that are cut."""

    def of(self, chunk: pa.RecordBatch) -> pa.Table:
        """Return a table with the vectors of a chunk's passages, in their order."""
        import pyarrow as pa

        hashes: list[str] = chunk.column("content_sha256").to_pylist()
        rows = {sha: row for row, sha in enumerate(hashes)}

        def contents(wanted: list[str]) -> list[str]:  # only what is needed: most runs know nearly every text
            return chunk.column("content").take([rows[sha] for sha in wanted]).to_pylist()

        earlier = self._earlier.take(hashes)
        known: list[str] = earlier.column("content_sha256").to_pylist() if earlier else []
        found = set(known)
        fresh = [sha for sha in rows if sha not in found]
        tables: list[pa.Table] = []
        if earlier is not None:
            tables.append(earlier if self._keeps_lexical else self._with_bm25(earlier, contents(known)))
        if known and self._earlier.cut is None:  # by a release that did not note them
            self._note_cut(known, contents(known))
        if fresh:
            texts = contents(fresh)
            encoded = self._encode(texts)
            if encoded.cut:
                self._note_cut(fresh, texts)
            table = _encodings(fresh, encoded, self._width)
            tables.append(table if self._weighs else self._with_bm25(table, texts))
        self.encoded += len(fresh)
        self.reused += len(chunk) - len(fresh)
        table = pa.concat_tables(tables)
        # each text is in the table once; passages with equal texts take the same row
        places = {sha: row for row, sha in enumerate(table.column("content_sha256").to_pylist())}
        return table.take([places[sha] for sha in hashes])

    def cut_in(self, chunk: pa.RecordBatch) -> list[CutPassage]:
        """Return the passages of a chunk of which the encoder reads only a part."""
        pairs = zip(chunk.column("passage_id").to_pylist(), chunk.column("content_sha256").to_pylist(), strict=True)
        return [CutPassage(name, sha, self._tokens[sha]) for name, sha in pairs if sha in self._tokens]

    def _note_cut(self, hashes: Sequence[str], texts: Sequence[str]) -> None:
        """Count the tokens of these texts, and keep those beyond the limit."""
        limits = self._model.contract.texts
        counts = Tokenizer(self._model.tokenizer()).count([limits.passage_prompt + text for text in texts])
        lengths = zip(hashes, counts, strict=True)
        self._tokens |= {sha: tokens for sha, tokens in lengths if tokens > limits.passage_max_tokens}

    def _encode(self, texts: list[str]) -> Encoded:
        if self._encoder is None:  # not loaded if every passage is known
            self._encoder = self._model.load()
        return self._encoder.encode(texts, "passage", bm25=self._bm25 if self._weighs else None)

    def _with_bm25(self, table: pa.Table, texts: list[str]) -> pa.Table:
        """Return the table with the weights of BM25 as its lexical vectors."""
        import pyarrow as pa

        if self._bm25 is None:
            return table
        sparse = sparse_passages(self._bm25, texts)
        columns = {"sparse_indices": [ids for ids, _ in sparse], "sparse_values": [weights for _, weights in sparse]}
        for name, values in columns.items():
            field = schema(self._width).field(name)
            table = table.set_column(table.column_names.index(name), field, [pa.array(values, field.type)])
        return table


def _encodings(hashes: list[str], encoded: Encoded, width: int) -> pa.Table:
    """Return a table like that of `Earlier.take` for texts that were encoded now."""
    import pyarrow as pa

    columns = {
        "content_sha256": hashes,
        "dense": list(encoded.dense),
        "sparse_indices": [ids for ids, _ in encoded.sparse],
        "sparse_values": [weights for _, weights in encoded.sparse],
    }
    return pa.table(columns, schema=pa.schema([schema(width).field(name) for name in columns]))


def _release_memory() -> None:
    """Give freed memory back to the system: glibc would keep it in pieces that do not fit the next chunk's shapes."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _chunks(table: Path, columns: Sequence[str] = (*_NAMES, "content")) -> Iterator[pa.RecordBatch]:
    """Yield the passages of a file as record batches."""
    return table_batches(table, _CHUNK, columns)


def chunk_of(passages: Artifact, start: int, end: int) -> pa.RecordBatch:
    """Return one of the chunks, by the numbers of its first passage and of the next chunk's."""
    import pyarrow as pa

    for file in open_tables(passages.table(PASSAGES)):
        total = file.metadata.num_rows
        if start < total:
            ends = list(accumulate(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)))
            first, last = bisect_right(ends, start), bisect_left(ends, end)
            table = file.read_row_groups(list(range(first, last + 1)), [*_NAMES, "content"])
            rows = table.slice(start - (ends[first - 1] if first else 0), end - start).combine_chunks()
            return pa.RecordBatch.from_arrays([column.chunk(0) for column in rows.columns], schema=rows.schema)
        start, end = start - total, end - total
    raise IndexError(f"there is no passage {start}")


if __name__ == "__main__":
    run_worker(main)
