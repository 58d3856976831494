"""The vector engine: one way to open it, one writer at a time, never a dangling lock."""

# qdrant_client takes and gives untyped unions
# pyright: basic
from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from expectations.violations import Refused, Violation

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class QdrantEngine:
    """How to reach Qdrant. `open()` yields a client and closes it.

    The embedded engine (`local`) lets one client at a time into its folder: open late, close early, never nest two
    openings in one process, and hand no client to several writing threads.
    """

    kind: str
    path: Path
    url: str | None
    alias: str
    api_key: str | None
    lock_timeout: float

    @contextmanager
    def open(self) -> Generator[QdrantClient]:
        """A client, closed on leaving. Raises Refused: FT-QDR-001 the folder stays locked, FT-QDR-002 the API key
        would travel in the clear, FT-QDR-003 the server does not answer."""
        client = self._open_local() if self.kind == "local" else self._open_server()
        try:
            yield client
        finally:
            client.close()

    @property
    def address(self) -> str:
        """What tells one engine from another in a recipe: `local`, or the server's URL."""
        return self.url or "local"

    def _open_local(self) -> QdrantClient:
        from qdrant_client import QdrantClient

        self.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.lock_timeout
        while True:
            try:
                return QdrantClient(path=str(self.path))
            except RuntimeError as error:
                if "already accessed" not in str(error):
                    raise
                if time.monotonic() >= deadline:
                    raise _refused(
                        "FT-QDR-001", str(self.path), "another process holds the embedded engine.",
                        f"still locked after {self.lock_timeout:g} s", "wait for that process or end it, raise "
                        "qdrant.lock_timeout, or use a server (qdrant.engine: server)",
                    ) from error  # fmt: skip
            time.sleep(_POLL_SECONDS)

    def _open_server(self) -> QdrantClient:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        address = urlsplit(self.url or "")
        if self.api_key and address.scheme != "https" and address.hostname not in _LOOPBACK:
            raise _refused(
                "FT-QDR-002", self.url or "", "the API key would travel in the clear.", address.scheme,
                "use an https URL, or unset QDRANT_API_KEY",
            )  # fmt: skip
        client = QdrantClient(url=self.url, api_key=self.api_key, timeout=_TIMEOUT_SECONDS, check_compatibility=False)
        try:
            client.get_collections()
        except (ResponseHandlingException, UnexpectedResponse) as error:
            client.close()
            raise _refused(
                "FT-QDR-003", self.url or "", "the server does not answer as Qdrant does.", type(error).__name__,
                "start it, or mend qdrant.url and QDRANT_API_KEY",
            ) from error  # fmt: skip
        return client


def aliased(client: QdrantClient, alias: str) -> str | None:
    """The collection that an alias names now. `get_collection` would resolve the alias and hide which it was."""
    return next((a.collection_name for a in client.get_aliases().aliases if a.alias_name == alias), None)


def _refused(code: str, where: str, message: str, found: str, mend: str) -> Refused:
    return Refused("opening Qdrant", [Violation(code=code, where=where, message=message, field="qdrant", found=found,
                                                expected="an open engine", mend=mend)])  # fmt: skip
