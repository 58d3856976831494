"""The seal of an engine's files finds a flipped bit, and never refuses what another program has written."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from expectations.violations import Refused
from resources import faults
from resources.engines import seal
from resources.engines.seal import require_sealed, write_seal
from tests.resources.test_engines import EMBEDDED, SERVING, engine, points, queries_of

LIBRARY = "qdrant-client"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "shard/points", tmp_path / "shard/点"]
    found[0].parent.mkdir()
    for path in found:
        path.write_bytes(b"points" * 1000)
    write_seal(tmp_path / "seal.json", tmp_path / "shard", found, LIBRARY)
    return found


def compare(files: list[Path]) -> bool:
    """Compare files with their seal, and return whether it is still there."""
    place = files[0].parent.parent / "seal.json"
    require_sealed(place, files[0].parent, files, LIBRARY, "the fix")
    return place.is_file()


def flip(path: Path, *, newer: bool) -> None:
    stamp = path.stat()
    content = bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + (10**11 if newer else 0)))


def test_a_bit_that_flips_on_the_disk_is_named(files: list[Path]) -> None:
    flip(files[1], newer=False)
    with pytest.raises(Refused, match=r"FT-QDR-012.*点"):
        compare(files)


def test_a_file_that_is_gone_is_named_and_one_that_came_is_not(files: list[Path]) -> None:
    old = files[0].stat().st_mtime_ns
    other = files[0].with_name("other")
    other.write_bytes(b"")
    os.utime(other, ns=(old, old))
    assert compare([*files, other])
    with pytest.raises(Refused, match=r"FT-QDR-012.*点.*no such file"):
        compare(files[:1])


def test_files_that_a_program_wrote_after_the_seal_are_not_refused(files: list[Path]) -> None:
    flip(files[0], newer=True)
    assert not compare(files)


def test_files_of_another_version_of_the_library_are_not_refused(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(files[0], newer=False)
    monkeypatch.setattr(metadata, "version", lambda _: "99.0")
    assert not compare(files)


def test_more_than_would_be_compared_is_not_sealed(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "MOST", 0)
    write_seal(files[0].parent.parent / "seal.json", files[0].parent, files, LIBRARY)
    assert not (files[0].parent.parent / "seal.json").exists()


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_full_disk_leaves_no_seal_and_breaks_no_search(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(faults, "_passed", {})
    monkeypatch.setenv(faults.VARIABLE, f"write {'.seal.json' if kind == 'local' else '.b.seal.json'}:enospc")
    with engine(tmp_path, kind).open() as client:
        for name in ("a", "b"):
            client.create(name, SERVING, {})
            client.upsert(name, points(0, 3))
    assert "is not sealed" in caplog.text
    assert len(list(tmp_path.rglob("*seal.json"))) == (kind == "edge")  # that of the other shard
    with engine(tmp_path, kind).open() as client:
        assert [client.count(name) for name in ("a", "b")] == [3, 3]


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_search_leaves_the_seal_in_force(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path, kind).open() as client:
        client.create("c", SERVING, {})
        client.upsert("c", points(0, 30))
        client.index("c")
    dropped: list[Path] = []
    monkeypatch.setattr(seal, "drop_seals", dropped.extend)
    for _ in range(3):
        with engine(tmp_path, kind).open() as client:
            assert client.count("c") == 30
            assert len(client.query("c", queries_of("fused"))) == 8
    assert len(list(tmp_path.rglob("*seal.json"))) == 1
    assert dropped == []


@pytest.mark.parametrize(("kind", "lost"), [("edge", "version.info"), ("edge", "segment"), ("local", "storage.sqlite")])
def test_a_collection_that_lost_a_file_is_not_searched_without_its_points(tmp_path: Path, kind: str, lost: str) -> None:
    for _ in range(2):  # the second time nothing is written
        with engine(tmp_path, kind).open() as client:
            if "c" not in client.names():
                client.create("c", SERVING, {})
                client.upsert("c", points(0, 30))
                client.index("c")
            assert len(list(client.scroll("c"))) > 0
    (found, *_) = tmp_path.rglob("version.info" if lost == "segment" else lost)
    if lost == "segment":
        shutil.rmtree(found.parent)
    else:
        found.unlink()
    for _ in range(2):
        with pytest.raises(Refused, match=r"FT-QDR-012.*no such file"), engine(tmp_path, kind).open() as client:
            client.count("c")
