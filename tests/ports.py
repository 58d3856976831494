"""Ports of this machine at which a test starts a server that must be given its port."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

_BELOW_CLIENTS = range(20_000, 32_000)
"""Linux gives those from 32768 up to the clients of other tests: one that is free now may be taken a second later."""


def free_ports(count: int) -> list[int]:
    """Return `count` adjacent ports of the loopback that nobody uses, the lowest first."""
    for _ in range(1000):
        first = random.SystemRandom().choice(_BELOW_CLIENTS)
        ports = list(range(first, first + count))
        with ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return ports
    raise OSError(f"no {count} adjacent ports are free in {_BELOW_CLIENTS}")
