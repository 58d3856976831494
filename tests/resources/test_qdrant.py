"""The embedded engine lets one client in at a time; the server is never sent a key in the clear."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from expectations.violations import Refused
from resources.qdrant import QdrantEngine, aliased


def engine(path: Path, **changes: Any) -> QdrantEngine:
    values = {"kind": "local", "path": path, "url": None, "alias": "passages", "api_key": None, "lock_timeout": 0.3}
    return QdrantEngine(**{**values, **changes})


def test_a_second_opening_waits_and_then_says_who_is_in_the_way(tmp_path: Path) -> None:
    with engine(tmp_path).open():
        started = time.monotonic()
        with pytest.raises(Refused, match="FT-QDR-001") as refusal, engine(tmp_path).open():
            pass
        assert time.monotonic() - started >= 0.3
    assert "qdrant.lock_timeout" in refusal.value.violations[0].mend


def test_a_second_opening_gets_in_as_soon_as_the_first_is_closed(tmp_path: Path) -> None:
    first = engine(tmp_path).open()
    first.__enter__()
    threading.Timer(0.3, lambda: first.__exit__(None, None, None)).start()
    with engine(tmp_path, lock_timeout=10.0).open() as client:
        assert client.get_collections().collections == []


def test_the_lock_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), engine(tmp_path).open():
        _ = 1 / 0
    with engine(tmp_path).open() as client:
        client.get_collections()


def test_writers_that_open_in_turn_lose_no_point(tmp_path: Path) -> None:
    with engine(tmp_path).open() as client:
        client.create_collection("c", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))

    def write(number: int) -> None:
        for n in range(10):
            with engine(tmp_path, lock_timeout=60.0).open() as client:
                client.upsert("c", [models.PointStruct(id=number * 10 + n, vector=[1.0, n])], wait=True)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine(tmp_path).open() as client:
        assert client.count("c", exact=True).count == 30


@pytest.mark.parametrize("url", ["http://qdrant.example.com:6333", "http://10.0.0.7:6333"])
def test_an_api_key_over_plain_http_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(Refused, match="FT-QDR-002"), engine(tmp_path, kind="server", url=url, api_key="secret").open():
        pass


def test_a_key_to_the_loopback_is_let_through_and_a_silent_server_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"FT-QDR-003.*127\.0\.0\.1:9") as refusal:
        engine(tmp_path, kind="server", url="http://127.0.0.1:9", api_key="secret").open().__enter__()
    assert "secret" not in str(refusal.value)


def test_an_alias_is_told_from_the_collection_it_names(tmp_path: Path) -> None:
    with engine(tmp_path).open() as client:
        client.create_collection("c", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
        assert aliased(client, "c") is None
        create = models.CreateAlias(collection_name="c", alias_name="passages")
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
        assert aliased(client, "passages") == "c"
