"""A Qdrant server behind a network that fails at any request of a release: named, nothing half released, and resumed.

By default each fault meets one request; FT_FAULT_ROUNDS is their number.
"""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from qdrant_client import QdrantClient, models

from expectations.violations import Refused
from resources import qdrant
from resources.engines import client as engine_client
from tests.faults.network import FAULTS, Proxy, Server, proxy_to, served
from tests.faults.protocol import State

pytestmark = pytest.mark.slow
ROUNDS = os.environ.get("FT_FAULT_ROUNDS", "")
PER_FAULT = int(ROUNDS) if ROUNDS.isdigit() else 1


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    if url := os.environ.get("QDRANT_URL"):
        address = urlsplit(url)
        with proxy_to(address.hostname or "", address.port or 6333) as proxy:
            yield proxy
        return
    with served(Server()) as server, proxy_to("127.0.0.1", server.server_address[1]) as proxy:
        yield proxy


def test_a_network_that_fails_at_any_request_is_named_and_a_rerun_makes_the_same(
    place: Path, proxy: Proxy, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(engine_client, "_POLL_SECONDS", 0.05)
    alias = f"faults-{uuid.uuid4().hex[:8]}"  # the server may hold what others use

    def fresh(name: str) -> State:
        return State(place / name, "server", url=proxy.url, alias=alias)

    dice = random.Random(5)  # noqa: S311
    undisturbed = fresh("undisturbed")
    undisturbed.run()
    requests, expected = proxy.seen, undisturbed.versions()
    drop_all(undisturbed)
    assert requests > 50
    ends: Counter[str] = Counter()
    for fault in FAULTS:
        for at in dice.sample(range(requests), PER_FAULT):
            where, state = f"{fault} at request {at}", fresh(f"{fault} {at}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(qdrant, "_TIMEOUT_SECONDS", 1 if fault == "delay" else 60)
                patch.setattr(engine_client, "_COPY_SECONDS", 1 if fault == "delay" else 60)
                proxy.arm(fault, at)
                with pytest.raises(Refused, match=f"FT-QDR-003.*{proxy.url}"):
                    state.run()
                proxy.arm("", -1)
            ends[fault] += 1
            assert state.faults() == [], where
            state.run()
            assert state.faults() == [], where
            assert state.versions() == expected, where
            drop_all(state)
    record_property("network faults", dict(ends))


def drop_all(state: State) -> None:
    with state.engine.open() as client:
        gone = models.DeleteAlias(alias_name=state.alias)
        server: QdrantClient = client.client  # type: ignore[attr-defined] # ours has no call for it
        server.update_collection_aliases([models.DeleteAliasOperation(delete_alias=gone)])
        for name in client.names():
            if name.startswith(state.alias):
                client.drop(name)
