from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from expectations.canonical import digest, file_digest
from expectations.violations import Refused
from resources.artifacts import ArtifactStore, Recipe
from resources.files import write_json

RECIPE = Recipe(asset="corpus", code_version="1", settings={"a": 1}, inputs={"files": "v1"})


def publish(store: ArtifactStore, recipe: Recipe = RECIPE, text: str = "hello", log: str = ""):
    with store.stage(recipe) as staging:
        (staging.path / "sub").mkdir()
        (staging.path / "sub/data.txt").write_text(text)
        if log:
            (staging.path / "training.log").write_text(log)
        return staging.publish({"rows": 3})


def test_a_published_artifact_is_found_by_its_recipe_and_carries_its_summary(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    found = ArtifactStore(tmp_path).find("corpus", RECIPE.id)
    assert found is not None
    assert found.data_version == artifact.data_version
    assert found.summary == {"rows": 3}
    assert found.file("sub/data.txt").read_text() == "hello"


def test_an_artifact_that_another_process_built_again_is_read_again(tmp_path: Path):
    here, there = ArtifactStore(tmp_path), ArtifactStore(tmp_path)
    there.discard(publish(here, log="first"))
    publish(there, log="second run")
    found = here.find("corpus", RECIPE.id)
    assert found is not None
    assert found.file("training.log").read_text() == "second run"


def test_an_artifact_that_was_made_again_is_not_removed_for_the_damage_of_the_one_before(tmp_path: Path):
    here, there = ArtifactStore(tmp_path), ArtifactStore(tmp_path)
    damaged = publish(here)
    (damaged.path / "sub/data.txt").unlink()
    assert there.find_whole("corpus", RECIPE.id) is None
    again = publish(there)
    here.discard(damaged)  # it saw the damage at the same time
    found = here.find_whole("corpus", RECIPE.id)
    assert found is not None and found.manifest == again.manifest


def test_the_recipe_changes_with_every_part_of_it():
    others = [
        Recipe("corpus", "2", {"a": 1}, {"files": "v1"}),
        Recipe("corpus", "1", {"a": 2}, {"files": "v1"}),
        Recipe("corpus", "1", {"a": 1}, {"files": "v2"}),
        Recipe("vectors", "1", {"a": 1}, {"files": "v1"}),
    ]
    assert len({RECIPE.id, *(r.id for r in others)}) == 5


def test_the_data_version_covers_the_content_and_not_the_log_of_the_run(tmp_path: Path):
    one = publish(ArtifactStore(tmp_path / "1"), log="took 3 s")
    two = publish(ArtifactStore(tmp_path / "2"), log="took 4 s")
    three = publish(ArtifactStore(tmp_path / "3"), text="hello!")
    assert one.data_version == two.data_version != three.data_version


def test_a_failed_build_leaves_no_files(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(RuntimeError), store.stage(RECIPE) as staging:
        (staging.path / "half").write_text("half")
        raise RuntimeError
    assert store.find("corpus", RECIPE.id) is None
    assert list((tmp_path / ".staging").iterdir()) == []


def test_a_folder_without_a_whole_manifest_is_not_an_artifact(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    manifest = artifact.path / "manifest.json"
    manifest.write_text(manifest.read_text()[:-40])
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is None
    publish(ArtifactStore(tmp_path))  # and a new artifact can replace it
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is not None


def test_one_flipped_byte_is_refused_by_file_with_both_hashes_and_the_fix(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    assert artifact.file("sub/data.txt").read_text() == "hello"
    (artifact.path / "sub/data.txt").write_text("hellp")
    with pytest.raises(Refused) as refusal:
        artifact.file("sub/data.txt")
    (violation,) = refusal.value.violations
    assert violation.code == "FT-ART-003"
    assert "sub/data.txt" in violation.where
    assert violation.found != violation.expected
    assert "ft run --asset corpus" in violation.fix


def test_a_missing_artifact_names_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(Refused, match="ft run --asset corpus"):
        ArtifactStore(tmp_path).require("corpus")


def test_the_pointer_moves_back_to_an_older_artifact(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    first, second = publish(store), publish(store, Recipe("corpus", "2"), "other")
    store.point(second)
    store.point(first)
    current = ArtifactStore(tmp_path).current("corpus")
    assert current is not None and current.recipe_id == first.recipe_id


def test_retention_keeps_the_newest_the_current_and_the_protected(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    made = [publish(store, Recipe("corpus", str(n)), str(n)) for n in range(5)]
    store.point(made[0])
    retired = store.prune("corpus", keep=1, protected=[made[1].recipe_id])
    assert set(retired) == {made[2].recipe_id, made[3].recipe_id}
    assert {a.recipe_id for a in store.versions("corpus")} == {made[n].recipe_id for n in (0, 1, 4)}


def test_sweeping_removes_only_the_folders_of_dead_processes(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    dead = tmp_path / ".staging/corpus-dead"
    dead.mkdir(parents=True)
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    write_json(dead / ".owner", {"pid": int(process.stdout), "host": os.uname().nodename})
    with store.stage(RECIPE) as alive:
        assert store.sweep() == ["corpus-dead"]
        assert alive.path.is_dir()


def test_sweeping_leaves_a_file_that_is_not_ours(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    for name in (".staging", ".trash"):
        (tmp_path / name / "corpus-of-nobody").mkdir(parents=True)
        (tmp_path / name / ".DS_Store").write_text("x")
        for path in (tmp_path / name / "corpus-of-nobody", tmp_path / name / ".DS_Store"):
            os.utime(path, (1, 1))
    assert store.sweep() == ["corpus-of-nobody"] * 2
    assert (tmp_path / ".staging/.DS_Store").is_file() and (tmp_path / ".trash/.DS_Store").is_file()


def test_staging_of_a_dead_process_goes_at_once_also_where_its_id_belongs_to_another_one(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    child = os.fork()
    if child == 0:
        with store.stage(RECIPE):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = (tmp_path / ".staging").iterdir()
    (left / ".owner").write_text(json.dumps({"pid": os.getpid(), "host": "another container"}))
    assert store.sweep() == [left.name]
    assert list((tmp_path / ".owners").iterdir()) == []


def test_staging_of_another_host_is_left_until_nothing_in_it_changed_for_a_day(tmp_path: Path):
    left, mark = tmp_path / ".staging/corpus-far", tmp_path / ".owners/corpus-far"
    left.mkdir(parents=True)
    mark.parent.mkdir()
    mark.write_text("another node")  # its lock is not seen here, as on a mount that keeps locks by node
    (left / "vectors").write_text("half")
    os.utime(left, (0, 0))
    store = ArtifactStore(tmp_path)
    assert store.sweep() == []
    os.utime(left / "vectors", (0, 0))
    assert store.sweep() == ["corpus-far"]
    assert list(mark.parent.iterdir()) == []


def test_a_mark_is_locked_for_writing_as_nfs_requires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flock = fcntl.flock

    def of_nfs(stream: TextIO, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    store = ArtifactStore(tmp_path)
    with store.stage(RECIPE) as staging:
        assert store.sweep() == []
        assert staging.path.is_dir()


@pytest.mark.parametrize(
    "owner", [{"pid": "many", "host": ""}, {"pid": 1}, {"pid": 10**30, "host": ""}, {"pid": None, "host": ""}, {}]
)
def test_an_owner_that_means_nothing_owns_nothing(tmp_path: Path, owner: dict[str, object]):
    left = tmp_path / ".staging/corpus-odd"
    left.mkdir(parents=True)
    (left / ".owner").write_text(json.dumps({**owner, **({"host": os.uname().nodename} if "host" in owner else {})}))
    assert ArtifactStore(tmp_path).sweep() == ["corpus-odd"]


def test_staging_of_an_earlier_product_version_that_runs_is_left(tmp_path: Path):
    working = tmp_path / ".staging/corpus-working"
    working.mkdir(parents=True)
    (working / ".owner").write_text(json.dumps({"pid": os.getpid(), "host": os.uname().nodename}))
    assert ArtifactStore(tmp_path).sweep() == []


WRITER = """
import sys
from pathlib import Path
from resources.artifacts import ArtifactStore, Recipe
store = ArtifactStore(Path(sys.argv[1]))
n = int(sys.argv[2])
while True:
    n += 1
    with store.stage(Recipe("big", str(n))) as staging:
        for part in range(4):
            (staging.path / f"part{part}").write_bytes(str(n).encode() * 50_000)
        store.point(staging.publish({"n": n}))
"""


def test_kill_9_at_any_moment_leaves_the_last_whole_version_readable(tmp_path: Path, project: Path):
    for trial in range(8):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(trial * 10_000)], cwd=project)
        deadline = time.monotonic() + 20
        while not (tmp_path / "big/current.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05 + 0.037 * trial)
        process.send_signal(signal.SIGKILL)
        process.wait()
        current = ArtifactStore(tmp_path).current("big")
        assert current is not None
        assert current.verify() == []
        parts = {current.file(f"part{n}").read_bytes() for n in range(4)}
        assert len(parts) == 1
        assert json.loads((current.path / "manifest.json").read_text())["summary"] == current.summary
    ArtifactStore(tmp_path).sweep()


def test_every_flipped_bit_of_a_manifest_is_detected(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    path = artifact.path / "manifest.json"
    whole = path.read_bytes()
    undetected: list[int] = []
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found = ArtifactStore(tmp_path).find("corpus", RECIPE.id)
        # the last digit of a time may be one too many: then the number is the same
        if found is not None and found.manifest != artifact.manifest:
            undetected.append(bit)
    assert undetected == []


def test_a_damaged_manifest_of_the_current_artifact_is_named_and_a_run_makes_it_again(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    store.point(artifact)
    path = artifact.path / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 3', '"rows": 4'))
    with pytest.raises(Refused, match=r"FT-ART-007.*its digest is .*ft run --asset corpus") as refusal:
        ArtifactStore(tmp_path).require("corpus")
    assert refusal.value.violations[0].where == str(path)
    publish(ArtifactStore(tmp_path))
    assert ArtifactStore(tmp_path).require("corpus").summary == {"rows": 3}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: json.dumps(content | {"seal": "é" * 64}),
        lambda content: '{"recipe":' * 990 + "1" + "}" * 990,
        lambda content: "[" * 100_000,
    ],
    ids=["seal", "deep", "deeper"],
)
def test_an_odd_manifest_is_named_like_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[object], str]
):
    monkeypatch.setenv("FT_SEAL_KEY", "a key")
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    store.point(artifact)
    path = artifact.path / "manifest.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(Refused, match="FT-ART-007"):
        ArtifactStore(tmp_path).require("corpus")


@pytest.mark.parametrize(
    "content",
    [
        *(json.dumps({"recipe": recipe}) for recipe in ("a\0b", "x" * 300, "../corpus", "")),
        "[" * 100_000,
        "{}",
        b"\xff",
    ],
    ids=["zero", "long", "path", "empty", "deep", "no key", "bytes"],
)
def test_an_odd_pointer_is_named_with_its_path(tmp_path: Path, content: str | bytes):
    store = ArtifactStore(tmp_path)
    store.point(publish(store))
    path = tmp_path / "corpus" / "current.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused, match="FT-ART-005") as refusal:
        store.require("corpus")
    assert refusal.value.violations[0].where == str(path)


def test_a_sub_folder_that_is_missing_is_named(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    shutil.rmtree(artifact.path / "sub")
    with pytest.raises(Refused, match=r"FT-ART-002.*ft run --asset corpus") as refusal:
        artifact.folder("sub")
    assert refusal.value.violations[0].where == str(artifact.path / "sub/data.txt")
    with pytest.raises(Refused, match="FT-ART-002") as refusal:
        artifact.folder("other")
    assert refusal.value.violations[0].where == str(artifact.path / "other")


def test_an_artifact_of_a_newer_version_is_refused_and_stays(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    ArtifactStore(tmp_path).point(artifact)
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text()) | {"stamps": ["a key of a later version"]}
    del content["digest"]
    write_json(path, content | {"digest": digest(content)})
    store, whole = ArtifactStore(tmp_path), path.read_bytes()
    for work in (
        lambda: store.require("corpus"),
        lambda: publish(store),
        lambda: store.refuse_newer("corpus", RECIPE.id),
    ):
        with pytest.raises(Refused, match=r"FT-ART-008.*stamps"):
            work()
    assert store.find("corpus", RECIPE.id) is None
    publish(store, Recipe("corpus", "another"))
    store.prune("corpus", 0)
    store.sweep()
    assert path.read_bytes() == whole and not list(tmp_path.glob(".trash/*"))


def test_a_renamed_folder_and_a_linked_one_are_no_artifacts(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    other = Recipe("corpus", "other")
    shutil.copytree(artifact.path, tmp_path / "corpus" / other.id)
    assert store.find("corpus", other.id) is None
    shutil.copytree(artifact.path, tmp_path / "vectors" / RECIPE.id)
    assert store.find("vectors", RECIPE.id) is None
    moved = tmp_path / "elsewhere"
    artifact.path.rename(moved)
    artifact.path.symlink_to(moved)
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is None
    assert ArtifactStore(tmp_path).versions("corpus") == []


def test_an_added_file_is_refused_where_a_folder_is_read(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    assert artifact.verify() == []
    (artifact.path / "sub" / "adapter_config.json").write_text("{}")
    with pytest.raises(Refused, match=r"FT-ART-006.*adapter_config"):
        artifact.folder("sub")
    assert [violation.code for violation in artifact.verify()] == ["FT-ART-006"]


def test_a_file_behind_a_link_is_refused(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    (artifact.path / "sub").rename(tmp_path / "aside")
    (artifact.path / "sub").symlink_to(tmp_path / "aside")
    with pytest.raises(Refused, match="FT-ART-002"):
        artifact.file("sub/data.txt")


def test_an_added_link_to_a_folder_is_refused(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "config.json").write_text("{}")
    (artifact.path / "sub" / "1_Pooling").symlink_to(tmp_path / "aside")
    with pytest.raises(Refused, match=r"FT-ART-006.*1_Pooling"):
        artifact.folder("sub")
    assert [violation.code for violation in artifact.verify()] == ["FT-ART-006"]


def test_a_link_is_not_published(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(Refused) as refusal, store.stage(RECIPE) as staging:
        (staging.path / "real").mkdir()
        (staging.path / "real/data.txt").write_text("x")
        (staging.path / "folder").symlink_to("real")
        (staging.path / "real/file").symlink_to("data.txt")
        staging.publish()
    assert [(one.code, one.where) for one in refusal.value.violations] == [
        ("FT-ART-002", "corpus/folder"), ("FT-ART-002", "corpus/real/file"),
    ]  # fmt: skip
    assert store.find("corpus", RECIPE.id) is None


def test_with_a_key_a_manifest_that_was_written_without_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact = publish(ArtifactStore(tmp_path))
    monkeypatch.setenv("FT_SEAL_KEY", "a key")
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is None
    publish(ArtifactStore(tmp_path))
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is not None
    # somebody edits a figure and computes the digest again
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text())
    content["summary"]["rows"] = 4
    content["digest"] = digest({key: value for key, value in content.items() if key not in {"digest", "seal"}})
    path.write_text(json.dumps(content))
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is None
    monkeypatch.delenv("FT_SEAL_KEY")
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is not None  # integrity, not authenticity


def test_a_manifest_of_the_first_versions_without_a_digest_is_read(tmp_path: Path):
    artifact = publish(ArtifactStore(tmp_path))
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content))
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is not None
    path.write_text(json.dumps(content | {"other": 1}))
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is None


def test_a_folder_that_cannot_be_listed_fails_the_publication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def failing(path: Path) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "no", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(PermissionError):
        publish(ArtifactStore(tmp_path))
    monkeypatch.undo()
    assert ArtifactStore(tmp_path).find("corpus", RECIPE.id) is None


def test_a_publication_that_hashes_for_an_hour_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ArtifactStore(tmp_path)
    swept: list[str] = []

    def hash_slowly(path: Path) -> str:
        os.utime(path.parent, (0, 0))
        swept.extend(ArtifactStore(tmp_path).sweep())
        return file_digest(path)

    monkeypatch.setattr("resources.artifacts.file_digest", hash_slowly)
    publish(store)
    assert swept == []
    assert store.find("corpus", RECIPE.id) is not None


def test_what_another_process_removed_is_no_error(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    artifact = publish(store)
    shutil.rmtree(artifact.path)
    store.discard(artifact)
    left = tmp_path / "corpus" / ".current.json.1.abc.tmp"
    left.parent.mkdir(exist_ok=True)
    left.write_text("{}")
    assert store.sweep() == []  # somebody may be writing it now
    os.utime(left, (0, 0))
    assert store.sweep() == [left.name]


def test_versions_share_a_file_and_each_names_its_damage(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with store.stage(Recipe(asset="table", code_version="1")) as staging:
        (staging.path / "rows").mkdir()
        (staging.path / "rows/one.txt").write_text("one")
        first = staging.publish()
    with store.stage(Recipe(asset="table", code_version="2")) as staging:
        staging.link(first, "rows/one.txt", "rows/two.txt")
        (staging.path / "own.txt").write_text("own")
        second = staging.publish()
    shared = second.file("rows/two.txt")
    assert shared.samefile(first.file("rows/one.txt"))
    assert second.manifest.files["rows/two.txt"] == first.manifest.files["rows/one.txt"]
    store.discard(first)
    assert not second.verify() and shared.read_text() == "one"
    shared.write_text("two")
    assert second.damaged_files() == {"rows/two.txt"}
    with store.stage(Recipe(asset="table", code_version="3")) as staging, pytest.raises(Refused, match="FT-ART-003"):
        staging.link(second, "rows/two.txt")
