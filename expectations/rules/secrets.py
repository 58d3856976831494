"""Secrets on the way to a server."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def travels_unencrypted(url: str, key: str | None, private: Collection[str] = ()) -> bool:
    """Return whether others could read the key on its way: over plain http, and not to this machine itself.

    `private`: hosts of a network that nobody else is in, as that of a compose file.
    """
    address = urlsplit(url)
    return bool(key) and address.scheme != "https" and address.hostname not in {*LOOPBACK, *private}
