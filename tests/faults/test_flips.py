"""One bit is flipped in every file of a finished state, as a disk does it: it is named, or it changes nothing.

By default two bits of a file, at random places (of small files, for those are read whole, and of the blocks that
hold data); FT_FAULT_ROUNDS is the number of bits where it is a number.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from expectations.contracts.embedding import Fusion
from expectations.violations import Refused
from resources.artifacts import list_files
from resources.call_cache import CallCache
from resources.engines.protocol import OpenJson, Query
from resources.qdrant import aliased
from tests.faults.protocol import State
from tests.resources.test_engines import EMBEDDED

pytestmark = pytest.mark.slow
_LOCKS = (".lock", ".writer", ".exclusive.lock")
_BLOCK = 4096


def observe(root: Path, kind: str) -> dict[str, object]:
    """Return all that a reader gets from a state: every current file, the record, the answers to searches, a reply."""
    state = State(root, kind)
    assets = sorted(path.name for path in state.store.root.glob("[!.]*") if path.is_dir())
    current = {asset: state.store.require(asset) for asset in assets}
    files = {
        f"{asset}/{name}": artifact.file(name).read_bytes()
        for asset, artifact in current.items()
        for name in artifact.manifest.files
    }
    book = state.releases.book("collection")
    served, answers, collections = search(state)
    calls = CallCache(root)
    replies = calls.get(["key"])  # one that is damaged is asked again
    calls.close()
    reply = replies["key"].text if replies else "a reply"
    return {
        "current": {asset: artifact.recipe_id for asset, artifact in current.items()},
        "files": files,
        "book": book,
        "served": served,
        "answers": answers,
        "collections": collections,
        "reply": reply,
    }


def search(state: State) -> tuple[str, list[object], dict[str, OpenJson]]:
    """Return the name of what serves, answers to a question like each point in each arm, and the metadata of all."""
    with state.engine.open() as client:
        name = str(aliased(client, "passages"))
        points = next(client.scroll(name, 1000))
        answers: list[object] = []
        for arm in ("dense", "sparse", "fused"):
            queries = [
                Query(dense, sparse, arm, 5, ("content",), None, book_fusion(state))
                for dense, sparse in zip(points.dense.tolist(), points.sparse, strict=True)
            ]
            answers.append([[(hit.id, hit.score, hit.payload) for hit in hits] for hits in client.query(name, queries)])
        collections = {name: client.metadata(name) for name in client.names()}
    return name, answers, collections


def book_fusion(state: State) -> Fusion | None:
    release = state.releases.current("collection")
    return msgspec.convert(release.details["fusion"], Fusion) if release else None


def kind_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    if parts[0] == "artifacts":
        return "manifest" if path.name == "manifest.json" else "pointer" if len(parts) == 3 else "artifact file"
    if parts[0] == "qdrant":
        return "engine: " + (path.name if path.suffix in {".json", ".sqlite"} else path.suffix.lstrip(".") or "other")
    return {"released": "release record", "generated_calls": "call cache"}.get(parts[0], parts[0])


def data_places(path: Path, dice: random.Random, count: int) -> list[int]:
    """Return bits of a file: of its blocks that hold data, and, with the last one, of its empty part."""
    content = path.read_bytes()
    blocks = [at for at in range(0, len(content), _BLOCK) if any(content[at : at + _BLOCK])] or [0]
    chosen = [dice.choice(blocks) * 8 + dice.randrange(min(_BLOCK, len(content)) * 8) for _ in range(count - 1)]
    return [bit for bit in [*chosen, dice.randrange(len(content) * 8)] if bit < len(content) * 8]


def flip(path: Path, bit: int) -> None:
    """Flip one bit and leave the time of change: a disk that fails does not touch it."""
    stamp = path.stat()
    with path.open("r+b") as stream:
        stream.seek(bit // 8)
        (byte,) = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def compute_again(_memo: object, _key: object, compute: Callable[[], object]) -> object:
    return compute()


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_flipped_bit_is_named_or_changes_nothing(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "edge":
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    # in one process a file whose time of change is equal is not read again
    monkeypatch.setattr("resources.memo.Memo.get", compute_again)
    root, dice = tmp_path / "state", random.Random(kind)  # noqa: S311
    State(root, kind).run()
    expected = observe(root, kind)
    rounds = os.environ.get("FT_FAULT_ROUNDS", "2")
    files = [path for path in list_files(root) if path.stat().st_size and not path.name.endswith(_LOCKS)]
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for path in files:
        whole = path.stat()
        for bit in data_places(path, dice, int(rounds) if rounds.isdigit() else 20):
            flip(path, bit)
            what, where = kind_of(path, root), f"{path.relative_to(root)} bit {bit}"
            try:
                found = observe(root, kind)
                differing = [key for key in expected if found[key] != expected[key]]
                outcomes[f"{what}: {'changed' if differing else 'harmless'}"] += 1
                wrong += [f"{where}: changed {differing}"] if differing else []
            except Refused as refusal:
                outcomes[f"{what}: named"] += 1
                if not any(str(one.where) for one in refusal.violations):
                    wrong.append(f"{where}: refused without a place: {refusal}")
            except Exception as error:  # any other error is a crash
                outcomes[f"{what}: crash"] += 1
                wrong.append(f"{where}: {type(error).__name__}: {error}")
            if path.exists() and path.stat().st_size == whole.st_size:
                flip(path, bit)
    record_property("flips", dict(sorted(outcomes.items())))
    assert not wrong, f"{len(wrong)} of {sum(outcomes.values())} {dict(sorted(outcomes.items()))}\n" + "\n".join(wrong)
