"""Actors of a Ray cluster that share the work of one worker: as many as there is room for, replaced when they die.

They are plain actors and not Ray Data's, which starts a pool for each data set: a model would be loaded for each window
of calls.
"""

# pyright: basic
# ray has no type information.
from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import floor
from typing import Any

from expectations.violations import Refused, violation
from resources.launcher import RAY_CPUS, RAY_GPUS, RAY_MEMORY_GB

QUIET_SECONDS = 1800.0
"""A pool that finishes nothing for so long is stuck."""
_RESTARTS = 3
"""Replacements of each actor, on average, before the pool gives up."""
_TRIES = 2
_GIB = 1024**3
_log = logging.getLogger(__name__)


def asked_resources() -> dict[str, float]:
    """Return what the launcher asks for each process of this job, by Ray's names; `memory` in bytes."""
    amounts = {
        "CPU": float(os.environ[RAY_CPUS]),
        "GPU": float(os.environ[RAY_GPUS]),
        "memory": float(os.environ[RAY_MEMORY_GB]) * _GIB,
    }
    return {name: amount for name, amount in amounts.items() if amount}


def room_for(asked: Mapping[str, float], cluster: Mapping[str, float]) -> int:
    """Return how many actors a cluster has room for, besides the worker, which holds as much as one of them.

    A whole CPU is left: Ray's own tasks wait for ever where actors hold all of them.
    """
    kept = {"CPU": 1}
    rooms = [(cluster.get(name, 0) - amount - kept.get(name, 0)) / amount for name, amount in asked.items()]
    return max(0, floor(min(rooms) + 1e-9))  # a tenth of a CPU is no exact number


class ActorPool:
    """At most `most` actors, started when there are items for them. `close` ends them; it is a context manager, too.

    Each calls `make(*arguments)` with its first item, and with every item what that returned. Arguments, items and
    results travel through Ray: paths and texts, not models. `setting`: the key of config.yaml that `most` comes from.
    Raises Refused (FT-RAY-004) where the cluster has no room for one.
    """

    def __init__(self, setting: str, most: int, make: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        asked = asked_resources()
        ray.init(log_to_driver=False)
        cluster = ray.cluster_resources()
        self._setting, self._size = setting, min(most, room_for(asked, cluster))
        if not self._size:
            ray.shutdown()
            found = ", ".join(f"{cluster.get(name, 0):g} {name}" for name in asked)
            expected = ", ".join(f"{2 * amount + (name == 'CPU'):g} {name}" for name, amount in asked.items())
            full = violation("FT-RAY-004", where=setting, field="room", found=found, expected=f"at least {expected}")
            raise Refused("starting actors on Ray", [full])
        remote = ray.remote(PoolActor).options(
            num_cpus=asked["CPU"], num_gpus=asked.get("GPU"), memory=asked.get("memory")
        )
        self._start = lambda: remote.remote(make, arguments)
        self._restarts = _RESTARTS * self._size
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        """A running call -> its actor, and the number of its item: None for an actor that is starting."""

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors."""
        import ray  # pyright: ignore[reportMissingImports]

        ray.shutdown()

    def run(self, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (number, result) of each item, in the order in which they are done.

        An actor that dies is replaced, and the item that it had is done again, once. Raises Refused: FT-RAY-005
        nothing was finished for half an hour, FT-RAY-006 actors die again and again, and what the work itself refuses.
        """
        import ray  # pyright: ignore[reportMissingImports]

        for _ in range(min(self._size, len(items)) - len(self._idle) - len(self._busy)):
            self._add_actor()
        waiting, tries, left = deque(range(len(items))), Counter[int](), len(items)
        heard = time.monotonic()
        while left:
            while waiting and self._idle:
                actor, number = self._idle.pop(), waiting.popleft()
                tries[number] += 1
                self._busy[actor.work.remote(items[number])] = actor, number
            patience = max(0.0, heard + QUIET_SECONDS - time.monotonic())
            ended, _ = ray.wait(list(self._busy), timeout=patience)
            if not ended:
                quiet = f"none for {QUIET_SECONDS / 60:.0f} minutes"
                stuck = violation("FT-RAY-005", where=self._setting, field="finished", found=quiet)
                raise Refused("working on Ray", [stuck])
            actor, number = self._busy.pop(ended[0])
            try:
                result = ray.get(ended[0])
            except ray.exceptions.RayTaskError as error:  # of the work
                raise error.cause if isinstance(error.cause, Refused) else error from None
            except ray.exceptions.RayError as error:  # of its process or its node
                self._replace(actor, error, last=number is not None and tries[number] == _TRIES)
                if number is not None:
                    waiting.appendleft(number)
                continue
            self._idle.append(actor)
            if number is not None:
                left, heard = left - 1, time.monotonic()
                yield number, result

    def _add_actor(self) -> None:
        """Start an actor. It gets items once it runs: one that no node has room for keeps none from the others."""
        actor = self._start()
        self._busy[actor.__ray_ready__.remote()] = actor, None

    def _replace(self, actor: Any, error: Exception, *, last: bool) -> None:
        """Start another actor for one that died. Raises Refused (FT-RAY-006) after the last try."""
        import ray  # pyright: ignore[reportMissingImports]

        ray.kill(actor)  # its node may only be out of reach: the same work must not be done by two
        reason = " ".join(str(error).split())
        if last or not self._restarts:
            found = "the same work ended two of them" if last else f"{_RESTARTS * self._size} were replaced"
            message = f"{found.capitalize()}. The last one: {reason}"
            raise Refused("working on Ray", [violation("FT-RAY-006", where=self._setting, message=message)])
        _log.warning("an actor died, and another one does its work: %s", reason)
        self._restarts -= 1
        self._add_actor()


class PoolActor:
    """The process of an actor. What it needs is made with its first item: what that refuses has a way back."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], arguments: Sequence[Any]) -> None:
        self._make, self._arguments = make, arguments
        self._do: Callable[[Any], Any] | None = None

    def work(self, item: Any) -> Any:
        """Return the result of an item. Raises Refused as it is, anything else as RuntimeError: Ray hands on only what
        can be pickled."""
        try:
            if self._do is None:
                self._do = self._make(*self._arguments)
            return self._do(item)
        except Refused:
            raise
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
