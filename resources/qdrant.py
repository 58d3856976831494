"""The vector engine: one way to open it, one writer at a time, no lock that outlives its process."""

# qdrant_client takes and gives untyped unions
# pyright: basic
from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from expectations.rules.secrets import travels_unencrypted
from expectations.violations import Refused, violation
from resources.engines.lock import exclusive, held
from resources.engines.protocol import VectorClient
from resources.files import copy_folder

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

PRIVATE_HOSTS = "FT_PRIVATE_HOSTS"
"""Servers of a private network, to which the API key may go over plain http."""
_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 60
_REASON = 300  # characters of an error of the server


class EngineParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine as a job names it. The API key is not part of it: a worker reads QDRANT_API_KEY."""

    kind: str
    path: str
    url: str | None
    alias: str
    lock_timeout: float

    def engine(self) -> QdrantEngine:
        """Return the engine, with the API key of this process's environment."""
        fields = {**msgspec.structs.asdict(self), "path": Path(self.path)}
        return QdrantEngine(**fields, api_key=os.environ.get("QDRANT_API_KEY"))


@dataclass(frozen=True)
class QdrantEngine:
    """An engine and the way to reach it. `open()` yields its collections and closes it.

    The embedded engines (`local`, `edge`) let one process at a time into their folder: open late, close early, never
    nest two openings, and hand no client to several writing threads.
    """

    kind: str
    path: Path
    url: str | None
    alias: str
    api_key: str | None
    lock_timeout: float

    @contextmanager
    def open(self) -> Generator[VectorClient]:
        """Yield the collections of this engine; they are closed at the end.

        Raises Refused: FT-QDR-001 the folder stays locked, FT-QDR-002 the API key would travel unencrypted, FT-QDR-003
        the server does not answer, FT-QDR-008 the engine's library is not installed; later, FT-QDR-007 or FT-QDR-011
        the files in the folder cannot be read.
        """
        if self.kind == "server":
            from resources.engines.client import Address, ServerClient

            with self._names_silence():
                connected = self._connect(_TIMEOUT_SECONDS)  # a server that does not answer is named at once
                client = ServerClient(lambda: connected, Address(self.url or "", self.api_key, self._connect))
                try:
                    yield client
                finally:
                    client.close()
            return
        with exclusive(self.folder, time.monotonic() + self.lock_timeout, self.lock_timeout), ExitStack() as stack:
            if not os.access(self.folder, os.W_OK):
                copy = stack.enter_context(tempfile.TemporaryDirectory(prefix="ft-qdrant-"))
                yield stack.enter_context(self._copied(Path(copy)))
                return
            client = self._open_edge() if self.kind == "edge" else self._open_local()
            try:
                yield client
            finally:
                client.close()

    @contextmanager
    def _copied(self, folder: Path) -> Generator[VectorClient]:
        """Yield the collections from a copy of their folder: the embedded engines cannot open one that is read only."""
        copied = replace(self, path=folder)
        copied.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir() and path.name != "edge":
                copy_folder(path, copied.folder / path.name)
            elif path.is_file() and not path.name.endswith((".writer", ".lock")):
                shutil.copyfile(path, copied.folder / path.name)
        with copied.open() as client:
            yield client

    @property
    def params(self) -> EngineParams:
        """This engine for a job, without its API key."""
        return EngineParams(
            kind=self.kind, path=str(self.path), url=self.url, alias=self.alias, lock_timeout=self.lock_timeout
        )

    @property
    def address(self) -> str:
        """The identity of the engine in a recipe: `local`, `edge`, or the server's URL."""
        return self.url or self.kind

    @property
    def folder(self) -> Path:
        """The folder of an embedded engine's points; the two engines do not share one."""
        return self.path / "edge" if self.kind == "edge" else self.path

    def _open_edge(self) -> VectorClient:
        try:
            from resources.engines.edge import EdgeClient
        except ModuleNotFoundError as error:
            raise _refused("FT-QDR-008", "qdrant.engine: edge", f"no module {error.name}") from error
        return EdgeClient(self.folder)

    def _open_local(self) -> VectorClient:
        from resources.engines.client import LocalClient

        return LocalClient(self._connect_local, self.folder)

    def _connect_local(self) -> QdrantClient:
        from qdrant_client import QdrantClient

        deadline = time.monotonic() + self.lock_timeout
        # an asset check reports it, with the figure and the fix
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        warnings.filterwarnings("ignore", message="Local mode performs exact")
        while True:
            try:
                return QdrantClient(path=str(self.folder))
            except Exception as error:  # what lies there is unpickled, which can raise anything
                if "already accessed" not in str(error):
                    from resources.engines.client import unreadable

                    raise unreadable(self.folder, error) from error
                # a program that is not ours, through qdrant-client's own lock
                if time.monotonic() >= deadline:
                    raise held(self.folder, self.lock_timeout, "another program") from error
            time.sleep(_POLL_SECONDS)

    def _connect(self, timeout: float) -> QdrantClient:
        from qdrant_client import QdrantClient

        private = os.environ.get(PRIVATE_HOSTS, "").replace(",", " ").split()
        if travels_unencrypted(self.url or "", self.api_key, private):
            raise _refused("FT-QDR-002", self.url or "", urlsplit(self.url or "").scheme)
        client = QdrantClient(url=self.url, api_key=self.api_key, timeout=int(timeout), check_compatibility=False)
        try:
            client.get_collections()
        except Exception:  # whatever it is: the connection is closed first
            client.close()
            raise
        return client

    @contextmanager
    def _names_silence(self) -> Generator[None]:
        """Raise Refused (FT-QDR-003) where the server, or the way to it, fails in the middle of the block."""
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except ApiException as error:  # no answer, half an answer, or one that is none of Qdrant's
            reason = " ".join(str(error).split())[:_REASON]
            raise _refused("FT-QDR-003", self.url or "", f"{type(error).__name__}: {reason}") from error


def engine_of_state(state: Path, *, kind: str, url: str | None, alias: str, lock_timeout: float) -> QdrantEngine:
    """Return the engine of a state folder, as config.yaml configures it. The API key comes only from QDRANT_API_KEY."""
    path = str(state / "qdrant")
    return EngineParams(kind=kind, path=path, url=url, alias=alias, lock_timeout=lock_timeout).engine()


def aliased(client: VectorClient, alias: str) -> str | None:
    """Return the collection that an alias names."""
    return client.aliases().get(alias)


def other_engine_serves(engine: QdrantEngine) -> str:
    """Return what to do where the alias is in the other embedded engine of this state; empty where it is not there.

    A config.yaml that names no engine was one for `local` in earlier product versions.
    """
    other = replace(engine, kind="local" if engine.kind == "edge" else "edge")
    try:
        aliases = msgspec.json.decode((other.folder / "meta.json").read_bytes(), type=_Aliases).aliases
    except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return ""
    if engine.kind == "server" or engine.alias not in aliases:
        return ""
    return (
        f"It is in the engine `{other.kind}` of this state, and qdrant.engine is `{engine.kind}`. Set `qdrant.engine: "
        f"{other.kind}`, or move it with `FT__QDRANT__ENGINE={other.kind} ft migrate --to {engine.kind}`, or build it "
        "again with `ft run --group retrieval`."
    )


class _Aliases(msgspec.Struct):
    aliases: dict[str, str] = {}


def _refused(code: str, where: str, found: str) -> Refused:
    refusal = violation(code, where=where, field="qdrant", found=found, expected="an open engine")
    return Refused("opening Qdrant", [refusal])
