"""Several processes on one state, in any order of their steps, killed anywhere: the store, the ledger, releases.

After each step the state is looked at. Only the operation that took it may have changed it, by what it does, once and
as a whole; and what an operation returns was true at a moment between its beginning and its end. So the operations
have the results of some order, one after another: they are linearizable.

FT_FAULT_ROUNDS is the number of examples of each machine.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from contextlib import ExitStack
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ft_assets.config.from_artifact import SETTINGS_FILE
from ft_assets.config.model import DatasetSettings, SplitSettings
from ft_assets.corpus.collect import ALIASES, PASSAGES
from ft_assets.datasets.assets import split_ledger
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS
from ft_assets.datasets.ledger import read_ledger
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import Evidence
from ft_assets.retrieval import served_checks
from ft_assets.retrieval.release import (
    _RELEASED_ASSETS,
    is_served,
    release_collection,
    retire_collections,
    rollback_collection,
)
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.files import write_json
from resources.qdrant import aliased
from resources.releases import ReleaseBook, Releases
from tests.faults.actors import Actor, Perform, finish
from tests.faults.network import Server, served
from tests.faults.protocol import ROUNDS as VERSIONS
from tests.faults.protocol import State
from tests.faults.test_machine import REFUSALS

ACTORS = st.integers(0, 2)
EXAMPLES = os.environ.get("FT_FAULT_ROUNDS", "")
DOCUMENTS = [f"document{n}" for n in range(16)]


class Concurrent(RuleBasedStateMachine):
    """Three processes on one folder. A rule begins an operation, or takes a step of one, or kills a process."""

    @initialize()
    def begin(self) -> None:
        memory = Path("/dev/shm")  # noqa: S108
        self.root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.prepare()
        self.actors = [Actor(self.open, self.stops, self.root / "log") for _ in range(3)]
        self.seen: dict[Actor, list[Any]] = {}
        """Actor -> the states since its operation began."""
        self.number = 0
        self.state = self.look()

    # -- what each machine has ----------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Fill the folder."""

    def open(self) -> Perform:
        """Return what an actor does, in its process."""
        raise NotImplementedError

    def stops(self, name: str) -> bool:
        """Return whether an actor stops at this point or lock."""
        raise NotImplementedError

    def look(self) -> Any:
        """Return the state, as far as it can be seen. Fail if anything in it is half done."""
        raise NotImplementedError

    def judge_change(self, call: tuple[Any, ...], seen: list[Any], before: Any, after: Any) -> None:
        """Fail if a step of this operation may not change the state so."""
        raise NotImplementedError

    def judge_end(self, call: tuple[Any, ...], kind: str, value: Any, seen: list[Any]) -> None:
        """Fail if an operation may not end so, when the state was `seen` between its beginning and its end."""
        raise NotImplementedError

    # -- rules --------------------------------------------------------------------------------------------------
    @rule(actor=ACTORS, steps=st.integers(1, 8), then=st.sampled_from(("go", "go", "go", "kill")))
    def take_steps(self, actor: int, steps: int, then: str) -> None:
        for _ in range(steps):
            if self.actors[actor].call:
                self._step(self.actors[actor])
        if then == "kill":
            self.actors[actor].kill()
            self.seen.pop(self.actors[actor], None)
            assert self.look() == self.state, "a kill changes nothing"

    def start(self, actor: int, *call: Any) -> None:
        """Begin an operation and take its first step; end the one before."""
        one = self.actors[actor]
        for _ in range(20):
            if one.call:
                self._step(one)
        if not one.call:
            one.begin(*call)
            self.seen[one] = [self.state]
            self._step(one)

    def _step(self, actor: Actor) -> None:
        call = actor.call
        assert call
        ended = actor.step()
        before, self.state = self.state, self.look()
        if self.state != before:
            self.judge_change(call, self.seen[actor], before, self.state)
            for seen in self.seen.values():
                seen.append(self.state)
        if ended:
            self.judge_end(call, *ended, self.seen.pop(actor))

    def teardown(self) -> None:
        if not hasattr(self, "actors"):
            return
        try:
            finish(self.actors, self._step)
            self.judge_rest()
        finally:
            for actor in self.actors:
                actor.kill()
            self.clean()
            shutil.rmtree(self.root, ignore_errors=True)

    def judge_rest(self) -> None:
        """Fail if anything is left when all operations have ended."""

    def clean(self) -> None:
        """End what `prepare` began."""


class Store(Concurrent):
    """The artifact store: recipe -> the text in its files and whether they are whole; and the current recipe."""

    def open(self) -> Perform:
        store, held = ArtifactStore(self.root / "artifacts"), list[Artifact]()

        def hold(artifact: Artifact | None) -> str | None:
            held[:] = [artifact] if artifact else []
            return artifact.summary["text"] if artifact else None

        def publish(number: int, text: str) -> str | None:
            with store.stage(recipe(number)) as staging:
                for name in ("one", "two"):
                    (staging.path / name).write_text(text)
                return hold(staging.publish({"text": text}))

        def make(number: int, text: str) -> str | None:
            """Reuse or publish, and point, as an asset does."""
            made = hold(store.find_whole("things", recipe(number).id)) or publish(number, text)
            store.point(held[0])
            return made

        operations: dict[str, Perform] = {
            "publish": publish,
            "make": make,
            "find": lambda number: hold(store.find("things", recipe(number).id)),
            "read": lambda *_: [held[0].recipe_id, held[0].summary["text"], bool(held[0].verify())] if held else None,
            "require": lambda: hold(store.require("things")),
            "discard": lambda *_: store.discard(held[0]),
            "prune": lambda: store.prune("things", 1),
            "sweep": store.sweep,
        }
        return lambda name, *arguments: operations[name](*arguments)

    def stops(self, name: str) -> bool:
        return "manifest" not in name and ".new" not in name  # a mark that nobody else has

    def look(self) -> tuple[dict[str, tuple[str, bool]], str | None]:
        store = ArtifactStore(self.root / "artifacts")
        found = {one.recipe_id: (one.summary["text"], not one.verify()) for one in store.versions("things")}
        return found, store._pointer("things")

    @rule(actor=ACTORS, number=st.integers(0, 1), name=st.sampled_from(("publish", "make", "make")))
    def publish(self, actor: int, number: int, name: str) -> None:
        self.number += 1
        self.start(actor, name, number, f"text {self.number}")

    @rule(actor=ACTORS, number=st.integers(0, 1), after=st.sampled_from(("read", "discard", "discard")))
    def find(self, actor: int, number: int, after: str) -> None:
        self.start(actor, "find", number)
        if not self.actors[actor].call and (found := self.state[0].get(recipe(number).id)):
            self.start(actor, after, number, found[0])

    @rule(actor=ACTORS, name=st.sampled_from(("read", "require", "prune", "sweep")))
    def others(self, actor: int, name: str) -> None:
        self.start(actor, name)

    @rule(number=st.integers(0, 1), actors=st.permutations(range(3)))
    def damage(self, number: int, actors: list[int]) -> None:
        """Lose a file of an artifact, which two processes then need."""
        (self.root / "artifacts/things" / recipe(number).id / "two").unlink(missing_ok=True)
        self.state = self.look()
        for seen in self.seen.values():
            seen.append(self.state)
        for actor in actors[:2]:
            self.publish(actor, number, "make")

    def judge_change(self, call: tuple[Any, ...], seen: list[Any], before: Any, after: Any) -> None:
        (made, pointer), (now, pointer_now) = before, after
        changed = {one: (made.get(one), now.get(one)) for one in {*made, *now} if made.get(one) != now.get(one)}
        name, own = call[0], recipe(call[1]).id if len(call) > 1 else ""
        if pointer != pointer_now:
            assert name == "make" and pointer_now == own and not changed
        elif name in {"publish", "make"}:
            ((one, (old, new)),) = changed.items()
            assert one == own
            assert (old is None and new == (call[2], True)) or (name == "make" and old and not old[1] and new is None)
        else:
            ((one, (old, new)),) = changed.items()
            assert old and new is None, "nothing but a removal"
            held = (own, call[2]) if name == "discard" else (one, seen[0][0].get(one, ("",))[0])
            assert name in {"discard", "prune"} and (one, old[0]) == held, "of what was found, not of what came after"

    def judge_end(self, call: tuple[Any, ...], kind: str, value: Any, seen: list[Any]) -> None:
        made, pointer = self.state
        match call[0]:
            case "publish" | "make":
                assert kind == "done" and any(value == had.get(recipe(call[1]).id, ("",))[0] for had, _ in seen)
            case "find":
                assert value == made.get(recipe(call[1]).id, (None,))[0]
            case "read" if value:
                one, text, is_damaged = value
                assert is_damaged == (made.get(one) != (text, True)), "whole, or named"
            case "require":
                assert (kind, value) == (("done", made[pointer][0]) if pointer in made else ("refused", ["FT-ART-001"]))
            case "prune":
                assert seen[0][1] not in value
            case _:
                assert kind == "done"

    def judge_rest(self) -> None:
        store = ArtifactStore(self.root / "artifacts")
        for actor in self.actors:
            actor.kill()
        store.sweep()
        assert not list(store.root.glob(".staging/*")) and not list(store.root.glob(".trash/*"))
        assert self.look() == self.state


def recipe(number: int) -> Recipe:
    return Recipe(asset="things", code_version=str(number))


class Ledger(Concurrent):
    """The split ledger of runs whose files differ: no record ever changes its split, none is ever forgotten."""

    is_dealing = False

    def prepare(self) -> None:
        store = ArtifactStore(self.root / "artifacts")
        section = DatasetSettings(split=SplitSettings(train=0.5, validation=0.2, test=0.3, group_by=["document"]))
        documents = {"passage_id": [*DOCUMENTS], "document_id": [*DOCUMENTS]}
        aliases: dict[str, list[str]] = {"alias": [], "document_id": [], "passage_id": []}
        publish_files(store, "dataset_settings", {SETTINGS_FILE: section.model_dump(mode="json")})
        publish_files(store, "passages", {PASSAGES: documents, ALIASES: aliases})
        for dataset in DATASETS:
            columns = [dataset.id_column, dataset.question, dataset.evidence, dataset.group]
            publish_files(store, dataset.records, {RECORDS: {column: list[str]() for column in columns if column}})

    def open(self) -> Perform:
        store = ArtifactStore(self.root / "artifacts")
        artifacts = ArtifactsResource(state_dir=str(self.root), config_path="config.yaml")
        qdrant = QdrantResource(state_dir=str(self.root))
        deal: Any = split_ledger.op.compute_fn.decorated_fn  # type: ignore[attr-defined] # Dagster makes a database
        AssetSpec.enforce = lambda *_: None  # type: ignore[method-assign] # the gates read the files of the project

        def perform(number: int) -> None:
            """Run `instruction_records` and `split_ledger` where the files hold a part of the records."""
            publish_files(store, "instruction_records", {RECORDS: instructions(number)}, str(number))
            self.is_dealing = True
            deal(artifacts, qdrant)
            self.is_dealing = False

        return perform

    def stops(self, name: str) -> bool:
        return self.is_dealing and name in {"publish.seal", "publish.rename", "lock .split_ledger.lock"}

    def look(self) -> tuple[str, dict[tuple[str, str], str]]:
        store = ArtifactStore(self.root / "artifacts")
        ledger = store.current("split_ledger")
        if ledger is None:
            return "", {}
        if ledger.data_version != getattr(self, "state", ("",))[0]:
            assert ledger.verify() == []
            return ledger.data_version, {key: one.split for key, one in read_ledger(ledger).items()}
        return self.state

    @rule(actor=ACTORS, number=st.integers(0, 3))
    def deal(self, actor: int, number: int) -> None:
        self.start(actor, number)

    def judge_change(self, call: tuple[Any, ...], seen: list[Any], before: Any, after: Any) -> None:
        forgotten = before[1].keys() - after[1].keys()
        assert not forgotten, f"{len(forgotten)} records have lost their split"
        assert {key: after[1][key] for key in before[1]} == before[1], "a record keeps its split"

    def judge_end(self, call: tuple[Any, ...], kind: str, value: Any, seen: list[Any]) -> None:
        assert kind == "done"


def publish_files(store: ArtifactStore, asset: str, files: dict[str, Any], version: str = "1") -> None:
    """Make an artifact of these files, tables by column or JSON, the current one."""
    made_of = Recipe(asset=asset, code_version=version)
    with store.stage(made_of) as staging:
        for name, content in files.items():
            if name.endswith(".parquet"):
                pq.write_table(pa.table(content), staging.path / name)
            else:
                write_json(staging.path / name, content)
        store.point(staging.publish())


def instructions(part: int) -> dict[str, list[Any]]:
    """Return the records of files that hold a part of the rows; every third names a second document."""
    rows = [n for n in range(40) if n % 5 in {part, part + 1}]
    return {
        "record_id": [f"record {n}" for n in rows],
        "question": [f"question {n}" for n in rows],
        "evidence": [[DOCUMENTS[n % 16], *([DOCUMENTS[n * 7 % 16]] if n % 3 == 0 else [])] for n in rows],
        "group": [""] * len(rows),
        "source": ["file"] * len(rows),
        "line_no": rows,
    }


class Releasing(Concurrent):
    """Releases, rollbacks and gates of three processes on an embedded engine."""

    kind = "local"

    def prepare(self) -> None:
        self.base = built(self.kind)
        shutil.copytree(self.base.state.root, self.root, dirs_exist_ok=True)
        self.closing = ExitStack()
        self.server = self.closing.enter_context(served(Server()))
        self.server.client = copy.deepcopy(self.base.server.client)
        self.lost: set[str] = set()

    def clean(self) -> None:
        self.closing.close()

    def here(self) -> State:
        return State(self.root, self.kind, self.server.url)

    def open(self) -> Perform:
        state = self.here()
        store, releases, engine = state.store, state.releases, state.engine
        served_checks._MOVE_SECONDS = inf  # a step may come late
        served_checks._passages_of = lambda *_: None  # what comes after the alias and the record is judged elsewhere

        def perform(name: str, *arguments: Any) -> object:
            if name == "gate":
                verdict = served_checks.judge_served(Evidence(store, releases, engine), quick=True)
                return sorted({one.code for one in verdict.violations})
            with releases.exclusive("collection"):
                if name == "roll back":
                    move = rollback_collection(store, releases, engine, None, who="machine", why="").move
                    return [move.before, move.after]
                candidate = self.base.candidates[arguments[0]]
                for artifact in candidate:
                    store.point(artifact)
                release = release_collection(store, releases, engine)
                book = releases.book("collection")
                assert book
                retire_collections(engine, book, 2, release.details["collection"])
                return release.version

        return perform

    def stops(self, name: str) -> bool:
        return name.startswith(("release.", "retire.", "lock .", "write collection."))

    def look(self) -> tuple[ReleaseBook | None, str | None]:
        releases = Releases(self.root / "released")
        book, intent = releases.book("collection"), releases.announced("collection")
        client = Looking(self)
        name, current = aliased(client, "passages"), book.find(book.current) if book else None
        allowed = [current.details["collection"] if current else None]
        if intent:  # in the middle of a move, or interrupted there
            allowed.append(intent.release.details["collection"])
        else:
            assert current is None or is_served(client, "passages", current), "the fusion is the released one"
        assert name in allowed, "alias and record agree"
        assert name is None or client.metadata(name)["whole"]
        return book, name

    @rule(actor=ACTORS, number=st.integers(0, VERSIONS - 1))
    def release(self, actor: int, number: int) -> None:
        self.start(actor, "release", number)

    @rule(actor=ACTORS, name=st.sampled_from(("roll back", "gate")))
    def others(self, actor: int, name: str) -> None:
        self.start(actor, name)

    def judge_change(self, call: tuple[Any, ...], seen: list[Any], before: Any, after: Any) -> None:
        (book, _), (now, _) = before, after
        if book == now:
            return
        if book and now and call[0] == "release" and book == msgspec.structs.replace(now, withheld=book.withheld):
            assert now.withheld == []  # what serves was released once more, which ends what was withheld
            return
        moves, history = (book.moves, book.history) if book else ([], [])
        assert now is not None and now.moves[:-1] == moves and now.history[: len(history)] == history, "one more move"
        assert now.moves[-1].before == (book.current if book else "") and now.moves[-1].after == now.current

    def judge_end(self, call: tuple[Any, ...], kind: str, value: Any, seen: list[Any]) -> None:
        if kind == "refused":  # nothing to go back to, or the collection of a release was retired
            assert {*value} <= REFUSALS, value
            return
        books = [book for book, _ in seen if book]
        match call[0]:
            case "release":
                assert value in [book.current for book in books]
            case "roll back":
                assert value in [[book.moves[-1].before, book.moves[-1].after] for book in books]
            case _:
                assert not {"FT-REL-004", "FT-REL-005"} & {*value}, "a gate takes no move for a fault"

    def judge_rest(self) -> None:
        for actor in self.actors:
            actor.kill()
        state = self.here()
        assert state.faults() == []
        with state.releases.exclusive("collection", wait=False):
            pass


class ReleasingOnServer(Releasing):
    """The same on a server, into which all of them may write at the same time."""

    kind = "server"


class Looking:
    """The alias and the metadata of collections, read past the engine: an actor may have it open."""

    def __init__(self, machine: Releasing) -> None:
        self._meta = machine.root / "qdrant/meta.json"
        self._server = machine.server.client if machine.kind == "server" else None

    def names(self) -> list[str]:
        if self._server:
            return [one.name for one in self._server.get_collections().collections]
        return [*msgspec.json.decode(self._meta.read_bytes())["collections"]]

    def aliases(self) -> dict[str, str]:
        if self._server:
            return {one.alias_name: one.collection_name for one in self._server.get_aliases().aliases}
        return msgspec.json.decode(self._meta.read_bytes())["aliases"]

    def metadata(self, name: str) -> dict[str, Any]:
        if self._server:
            return self._server.get_collection(name).config.metadata or {}
        return msgspec.json.decode(self._meta.read_bytes())["collections"][name]["metadata"]


class Built:
    """A state with its candidates, of which none was released."""

    def __init__(self, kind: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.server = Server()
        self.candidates: list[list[Artifact]] = []
        with served(self.server):
            self.state = State(Path(self.folder.name), kind, self.server.url)
            for number in range(VERSIONS):
                self.state.prepare(number)
                self.candidates.append(
                    [self.state.store.require(asset) for asset in (*_RELEASED_ASSETS, "fusion_sweep")]
                )


built = cache(Built)


@pytest.mark.slow
def test_a_gate_takes_no_release_at_the_same_time_for_a_fault() -> None:
    """The machines come here seldom: the alias has moved, the record has not."""
    machine = ReleasingOnServer()
    machine.begin()
    try:
        for number, place in enumerate(("", "release.record")):
            machine.start(0, "release", number)
            while machine.actors[0].call and machine.actors[0].at != place:
                machine.take_steps(0, 1, "go")
        machine.start(1, "gate")
        assert machine.actors[0].at == "release.record"
        machine.take_steps(1, 8, "go")
        assert machine.actors[1].call, "it looks again"
    finally:
        machine.teardown()


def as_test(machine: type[Concurrent], examples: int) -> Any:
    machine.TestCase.settings = settings(
        max_examples=int(EXAMPLES) if EXAMPLES.isdigit() else examples,
        stateful_step_count=14,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=not EXAMPLES,
        phases=[Phase.generate],  # a failing example names its steps; to make it smaller takes minutes
    )
    return pytest.mark.slow(machine.TestCase)


test_store = as_test(Store, 15)
test_ledger = as_test(Ledger, 8)
test_releases = as_test(Releasing, 6)
test_releases_on_a_server = as_test(ReleasingOnServer, 6)
