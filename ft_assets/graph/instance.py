"""Open the Dagster instance below the state folder, with its settings and without a race."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from ruamel.yaml import YAML
from sqlalchemy import Engine, event

from expectations.violations import Refused, violation
from ft_assets.config.load import SettingsError, make_state_folder
from resources.files import file_lock, write_text

SETTINGS = Path(__file__).resolve().parents[2] / "dagster.yaml"
_log = logging.getLogger(__name__)
_STATE_PREFIX = ".ft/"


def open_instance(state: Path, settings: Path = SETTINGS) -> dg.DagsterInstance:
    """Return the instance of this state folder; set DAGSTER_HOME for this process and its children.

    Only one process at a time may create it: processes that create one SQLite home at once break it for ever (its
    migration table ends with two heads). Raises Refused (FT-RUN-001) where a database of the home is damaged.
    """
    home = dagster_home(state)
    make_state_folder(home)
    with file_lock(home / ".lock"):
        _move_from_earlier_places(home)
        _write_if_changed(home / "dagster.yaml", derive_settings(settings))
        os.environ["DAGSTER_HOME"] = str(home)
        _refuse_damaged(home)
        return dg.DagsterInstance.from_config(str(home))


@contextmanager
def keep_databases_open(instance: dg.DagsterInstance, run_id: str) -> Generator[None]:
    """Keep the databases of the event log open during a run, and let no event wait for the disk; without effect on
    another storage than SQLite.

    Dagster opens and closes one for each event. Closing the last connection merges SQLite's log into the database and
    waits for the disk: with one that stays open, 300 events took 3.7 s and not 7.8 s. With `synchronous = NORMAL` a
    power cut may lose the last events and damages nothing; no release and no artifact is proved by an event. It also
    makes an SQLAlchemy engine for each event, which compiles every statement again: with one for each database, a run
    of 27 assets that makes nothing took 5.5 s of CPU and not 9.
    """
    storage = instance.event_log_storage
    with ExitStack() as stack:
        if isinstance(storage, sqlite_event_log.SqliteEventLogStorage):
            stack.enter_context(_one_engine_a_database())
            with storage.run_connection(run_id):
                pass  # creates it
            for shard in ("index", run_id):
                connection = stack.enter_context(closing(sqlite3.connect(storage.path_for_shard(shard))))
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # opened by the first read
            event.listen(Engine, "connect", _wait_less)
            stack.callback(event.remove, Engine, "connect", _wait_less)
        yield


@contextmanager
def _one_engine_a_database() -> Generator[None]:
    module, engines = cast("Any", sqlite_event_log), dict[str, Engine]()
    make = module.create_engine

    def find_or_make(url: str, **options: Any) -> Engine:
        return engines.get(url) or engines.setdefault(url, make(url, **options))

    module.create_engine = find_or_make
    try:
        yield
    finally:
        module.create_engine = make


def _wait_less(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = NORMAL")


def refuse_another_home(state: Path) -> None:
    """Refuse (raises SettingsError) where FT_STATE_DIR is set and Dagster keeps its history in another place.

    A plain `dagster dev` would make the artifacts in one state and record them in another.
    """
    home = os.environ.get("DAGSTER_HOME")
    if "FT_STATE_DIR" in os.environ and (home is None or Path(home).resolve() != dagster_home(state)):
        where = f"DAGSTER_HOME is {home}" if home else "DAGSTER_HOME is not set"
        fix = f"Start with `ft ui`, or set DAGSTER_HOME={dagster_home(state)} after one `ft status`."
        raise SettingsError(state, [f"FT_STATE_DIR names it, but Dagster records elsewhere: {where}. {fix}"])


def _move_from_earlier_places(home: Path) -> None:
    """Move what earlier product versions kept elsewhere below the home to where Dagster looks for it by itself."""
    moves = [(home / "storage" / name, home / name) for name in ("history", "schedules")]
    moves += [(path, home / "storage" / path.name) for path in (home / "compute_logs").glob("*")]
    for before, now in moves:
        if before.exists() and now.exists():
            _log.warning("Dagster's history is in %s, and an earlier one in %s: keep one of them.", now, before)
        elif before.exists():
            now.parent.mkdir(exist_ok=True)
            before.rename(now)


def _refuse_damaged(home: Path) -> None:
    shared = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
    for path in (home / name for name in shared):
        if not path.is_file():
            continue
        try:
            with closing(sqlite3.connect(path)) as database:
                database.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:  # another process has it
            continue
        except sqlite3.DatabaseError as error:
            damaged = violation(
                "FT-RUN-001",
                where=str(path),
                field="file",
                found=str(error),
                fix=f"Move {home / path.relative_to(home).parts[0]} away, then run again.",
            )
            raise Refused("opening Dagster's history", [damaged]) from error


def dagster_home(state: Path) -> Path:
    """Return DAGSTER_HOME of a state folder."""
    return state.resolve() / "dagster"


def derive_settings(settings: Path) -> str:
    """Return the project's dagster.yaml without the sections that name `.ft/…` paths.

    Dagster's own defaults are the same places below DAGSTER_HOME. So the file names no folder, and the tools of Dagster
    that are started on a copy of the state write into the copy.
    """
    if not settings.is_file():
        raise FileNotFoundError(f"{settings} does not exist. ft_assets runs Dagster from a clone of the project.")
    yaml = cast("Any", YAML(typ="safe", pure=True))
    stream = StringIO()
    sections: dict[str, object] = yaml.load(settings.read_text("utf-8"))
    yaml.dump({name: section for name, section in sections.items() if not _is_in_state(section)}, stream)
    return f"# Derived from {settings}; edit that one.\n{stream.getvalue()}"


def _is_in_state(section: object) -> bool:
    if isinstance(section, dict):
        return any(_is_in_state(below) for below in cast("dict[str, object]", section).values())
    return isinstance(section, str) and section.startswith(_STATE_PREFIX)


def _write_if_changed(path: Path, text: str) -> None:
    if path.is_file() and path.read_text("utf-8") == text:
        return
    write_text(path, text)
