"""Time, memory and disk of a corpus of any size, step by step, from unit costs that were measured on small ones.

Unit costs are CPU seconds and bytes a passage (`benchmarks/scale.py`, `benchmarks/index.py`, `benchmarks/encode.py`;
docs/scale.md has their table). They hold for passages of some 60 words and grow with their length.
"""

from __future__ import annotations

import re

import msgspec

from resources.estimate import GIB
from resources.fit_plan import CARDS, GpuCard, find_card

_NODES = re.compile(
    r"(?:(?P<nodes>[1-9]\d*)\s*x\s*)?(?P<cores>[1-9]\d*)(?:/(?P<memory>\d+(?:\.\d+)?)GB)?(?:/(?P<gpu>.+))?"
)
_COUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[kMB]?)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
_CORE_FLOPS = 0.3e12
"""Operations of an encoder that one core with bf16 units (AMX) reaches: 0.28 with MiniLM, 0.40 with BERT-base."""
_PLAIN_CORE_FLOPS = _CORE_FLOPS / 2.3
"""Operations of an encoder that one core without bf16 units reaches."""
_GPU_SHARE = 0.2
"""Share of a card's peak that encoding is planned with; not measured here."""
_PROCESS = 0.5 * GIB
"""Memory of a process with its libraries before the first passage."""
_EARLIER = 12
"""Bytes a passage of the index of earlier vectors."""
_LEXICAL = 57
"""Lexical weights of a passage, 8 bytes each."""
_TEXT = 600
"""Bytes of a passage with its ids, as a table or a point holds it."""


class Cluster(msgspec.Struct, frozen=True):
    """Equal nodes. `memory` in bytes of one; `card` of its GPU, None without one."""

    nodes: int
    cores: int
    memory: float
    card: GpuCard | None = None
    bf16: bool = True


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """One step. It runs as one worker on one node, in one thread unless it encodes."""

    step: str
    core_seconds: float
    seconds: float
    """On one node, as this version runs it."""
    memory: float
    """Peak of its process, in bytes."""
    fits: bool
    """Into the memory of one node."""
    on_gpu: bool = False


class CorpusReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that the command shows. Bytes and seconds."""

    passages: int
    dimension: int
    tokens: float
    cluster: Cluster
    steps: list[StepCost]
    seconds: float
    """Of all steps, one after another on one node."""
    passages_file: float
    vectors_file: float
    engine_memory: float
    """Of the engine, with float32 vectors in memory."""
    engine_memory_int8: float
    """With scalar quantisation in memory, originals and lexical vectors on disk."""
    engine_disk: float
    money: float | None = None


def count_of(text: str) -> int:
    """Return a number of passages: `200000`, `200k`, `1.5M`, `1B`. Raises ValueError."""
    match = _COUNT.fullmatch(text.strip().replace(",", ""))
    count = round(float(match["number"]) * _UNITS[match["unit"]]) if match else 0
    if count < 1:
        raise ValueError(f"{text!r} is no number of passages: 200000, 200k, 1.5M or 1B")
    return count


def cluster_of(text: str) -> Cluster:
    """Return the nodes that a text describes: `[NODESx]CORES[/MEMORYGB][/CARD]`, as `8x16/64GB/A100`.

    Raises ValueError.
    """
    match = _NODES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no cluster: [NODESx]CORES[/MEMORYGB][/CARD], as 8x16/64GB or 2x16/128GB/A100")
    card = find_card(match["gpu"] or "")
    if match["gpu"] and card is None:
        raise ValueError(f"{match['gpu']!r} is no card that is known: {', '.join(CARDS)}")
    cores = int(match["cores"])
    # four gigabytes a core are usual where nothing is said
    return Cluster(int(match["nodes"] or 1), cores, float(match["memory"] or 4 * cores) * GIB, card)


def plan_corpus(  # noqa: PLR0917 - what a corpus is
    passages: int, parameters: int, dimension: int, tokens: float, cluster: Cluster, price: float | None = None
) -> CorpusReport:
    """Return what each step takes. `parameters`: of the encoder without its embeddings; `price`: of a node and hour."""
    flops = 2.0 * parameters * tokens
    core_flops = _CORE_FLOPS if cluster.bf16 else _PLAIN_CORE_FLOPS
    encoding = cluster.card.tflops * 1e12 * _GPU_SHARE if cluster.card else cluster.cores * core_flops
    # milliseconds of a point at 128 and at 384 dimensions, and on the same line beyond
    point = (0.57 + (0.73 - 0.57) * (dimension - 128) / 256) / 1000
    steps = [
        _step("passages", 200e-6, 600, passages, cluster),
        _step("gates on passages", 26e-6, 1000, passages, cluster),
        _step("splits and records", 56e-6, 900, passages, cluster),
        _step("encoder: training", 70e-6, 1900, passages, cluster),
        _encode("vectors, twice (base and trained)", 2 * flops, passages, encoding, cluster),
        _step("gates on vectors", 8e-6, 20, passages, cluster),
        _step("evaluations", 60e-6, 350, passages, cluster),
        _step("collection", point, 900, passages, cluster),
        _step("gates on the collection", 36e-6, 900, passages, cluster),
    ]
    vector = 4 * dimension + 8 * _LEXICAL
    seconds = sum(step.seconds for step in steps)
    return CorpusReport(
        passages=passages,
        dimension=dimension,
        tokens=tokens,
        cluster=cluster,
        steps=steps,
        seconds=seconds,
        passages_file=passages * _TEXT / 2,  # zstd halves texts
        vectors_file=passages * vector,
        engine_memory=passages * (1.5 * 4 * dimension + 8 * _LEXICAL),
        engine_memory_int8=passages * (1.5 * dimension + _graph()),
        engine_disk=passages * (vector + _TEXT + dimension),
        money=None if price is None else seconds / 3600 * price,
    )


def _graph(m: int = 16) -> int:
    """Return the bytes of a point's links in HNSW: 2m on the lowest level."""
    return 2 * m * 8


def _step(step: str, unit: float, kept: float, passages: int, cluster: Cluster) -> StepCost:
    core_seconds, memory = unit * passages, _PROCESS + kept * passages
    return StepCost(
        step=step, core_seconds=core_seconds, seconds=core_seconds, memory=memory, fits=memory <= cluster.memory
    )


def _encode(step: str, flops: float, passages: int, speed: float, cluster: Cluster) -> StepCost:
    seconds, memory = flops * passages / speed, 2 * _PROCESS + _EARLIER * passages
    return StepCost(
        step=step,
        core_seconds=0.0 if cluster.card else seconds * cluster.cores,
        seconds=seconds,
        memory=memory,
        fits=memory <= cluster.memory,
        on_gpu=cluster.card is not None,
    )
