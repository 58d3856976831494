"""One contract of the store on a folder and on buckets: several machines publish, read, point at, retire and release.

The buckets are obstore's in memory and one of an S3 server of this process, or the real one of TEST_STORE_URL.
"""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from expectations.violations import Refused
from resources import bucket as buckets
from resources import faults, shared
from resources.artifacts import Artifact, ArtifactStore, Recipe, open_store
from resources.bucket import STORE_URL, Bucket, bucket_of_environment, require_conditions
from resources.releases import Releases, _Objects
from resources.shared import SharedArtifacts

pytest.importorskip("obstore", reason="obstore is not installed")
RECIPE = Recipe(asset="corpus", code_version="1", settings={"a": 1})


class Machine(NamedTuple):
    store: ArtifactStore
    releases: Releases


class Site:
    """Machines with a state each, and what they share."""

    def __init__(self, root: Path, bucket: Bucket | None) -> None:
        self.root, self.bucket, self._number = root, bucket, itertools.count()

    def machine(self) -> Machine:
        """Return a process on another machine; those of a folder see the same file system."""
        if self.bucket is None:
            return Machine(ArtifactStore(self.root / "artifacts"), Releases(self.root / "released"))
        place = self.root / f"machine-{next(self._number)}"
        artifacts = SharedArtifacts(self.bucket.below("artifacts"))
        records = _Objects(self.bucket.below("released"))
        return Machine(ArtifactStore(place / "artifacts", artifacts), Releases(place / "released", records))


def in_memory() -> Bucket:
    from obstore.store import MemoryStore

    return Bucket(MemoryStore(), "memory://")


@pytest.fixture(params=["folder", "memory", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "folder":
        return Site(tmp_path, None)
    if request.param == "memory":
        return Site(tmp_path, in_memory())
    url = os.environ.get("TEST_STORE_URL") or request.getfixturevalue("s3")
    return Site(tmp_path, buckets._open(url).below(uuid.uuid4().hex))


@pytest.fixture
def far(tmp_path: Path) -> Site:
    """Return machines that share a bucket alone."""
    return Site(tmp_path, in_memory())


def publish(store: ArtifactStore, text: str = "hello", recipe: Recipe = RECIPE) -> Artifact:
    with store.stage(recipe) as staging:
        (staging.path / "sub").mkdir()
        (staging.path / "sub/data.txt").write_text(text)
        (staging.path / "training.log").write_text("step 1")
        return staging.publish({"rows": 3})


def test_what_one_machine_publishes_another_one_reads(site: Site) -> None:
    here, there = site.machine(), site.machine()
    made = publish(here.store)
    assert there.store.current("corpus") is None
    here.store.point(made)
    found = there.store.require("corpus")
    assert found.data_version == made.data_version and found.summary == {"rows": 3}
    assert (found.path / "training.log").read_text() == "step 1", "files about the run are there at once"
    assert found.file("sub/data.txt").read_text() == "hello"
    assert (found.folder() / "sub/data.txt").is_file() and found.verify() == []
    assert there.store.assets() == ["corpus"]
    assert [one.recipe_id for one in there.store.versions("corpus")] == [RECIPE.id]
    other = publish(there.store, "second", Recipe("corpus", "2"))
    there.store.point(other)
    assert here.store.require("corpus").data_version == other.data_version
    assert here.store.find_version("corpus", made.data_version) is not None


def test_of_eight_publishers_one_wins_and_no_reader_sees_half_an_artifact(site: Site) -> None:
    together, done = threading.Barrier(9, timeout=60), threading.Event()
    seen: list[str] = []

    def make(number: int) -> str:
        store = site.machine().store
        together.wait()
        return publish(store, f"text of {number}").data_version

    def read() -> None:
        store = site.machine().store
        together.wait()
        while not done.is_set():
            if found := store.find("corpus", RECIPE.id):
                assert found.verify() == []
                seen.append(found.data_version)

    with ThreadPoolExecutor(9) as pool:
        reader = pool.submit(read)
        versions = [one.result() for one in [pool.submit(make, number) for number in range(8)]]
        last = site.machine().store.find("corpus", RECIPE.id)
        done.set()
        reader.result()
    assert last is not None and set(versions) == {last.data_version} >= set(seen)


def test_a_publisher_that_is_killed_leaves_nothing_to_see(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def kill(name: str) -> None:
        if name in {"bucket.publish", "publish.rename"}:
            raise Killed

    here, there = site.machine(), site.machine()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(faults, "point", kill)
        publish(here.store)
    assert there.store.find("corpus", RECIPE.id) is None and there.store.versions("corpus") == []
    assert publish(there.store, "again").file("sub/data.txt").read_text() == "again"
    found = here.store.find("corpus", RECIPE.id)
    assert found is not None and found.file("sub/data.txt").read_text() == "again"
    if site.bucket:
        below = site.bucket.below("artifacts/corpus")
        assert len(below.objects()) == 5, "the manifest, its two files and two of the killed one"
        monkeypatch.setattr(shared, "_LEFT_BEHIND", -1.0)
        there.store.prune("corpus", 5)
        assert len(below.objects()) == 3 and found.verify() == []


def test_a_retired_artifact_is_gone_everywhere_and_made_again_it_is_the_new_one(site: Site) -> None:
    here, there = site.machine(), site.machine()
    publish(here.store)
    found = there.store.find("corpus", RECIPE.id)
    assert found is not None and found.verify() == []
    newer = [publish(here.store, f"text {n}", Recipe("corpus", f"newer {n}")) for n in range(2)]
    here.store.point(newer[1])
    assert here.store.prune("corpus", 1, protected=[newer[0].recipe_id]) == [RECIPE.id]
    assert there.store.find("corpus", RECIPE.id) is None
    assert {one.recipe_id for one in there.store.versions("corpus")} == {one.recipe_id for one in newer}
    there.store.prune("corpus", 5)
    assert not (there.store.root / "corpus" / RECIPE.id).exists(), "nor does its copy take space"
    publish(here.store, "made again")
    found = there.store.find("corpus", RECIPE.id)
    assert found is not None and found.file("sub/data.txt").read_text() == "made again"


def test_a_copy_of_what_was_retired_and_made_again_is_not_read(far: Site) -> None:
    here, there = far.machine(), far.machine()
    old = publish(here.store)
    assert there.store.find("corpus", RECIPE.id) is not None
    here.store.discard(old)
    new = publish(here.store, "made again")
    found = there.store.find("corpus", RECIPE.id)
    assert found is not None and found.data_version == new.data_version
    assert found.file("sub/data.txt").read_text() == "made again"


def test_a_file_that_is_damaged_or_gone_in_the_bucket_is_refused(far: Site) -> None:
    assert far.bucket
    publish(far.machine().store)
    below = far.bucket.below("artifacts")
    (key,) = [one.key for one in below.objects() if one.key.endswith("data.txt")]
    below.write(key, b"other")
    found = far.machine().store.find("corpus", RECIPE.id)
    assert found is not None
    with pytest.raises(Refused, match="FT-ART-003"):
        found.file("sub/data.txt")
    below.delete(key)
    found = far.machine().store.find("corpus", RECIPE.id)
    assert found is not None and found.verify(fetch=False) == []
    assert [one.code for one in found.verify()] == ["FT-ART-002"]
    below.write(f"corpus/{RECIPE.id}/manifest.json", b"{")
    assert far.machine().store.find("corpus", RECIPE.id) is None
    again = publish(far.machine().store, "published again over the damaged one")
    found = far.machine().store.find("corpus", RECIPE.id)
    assert found is not None and found.data_version == again.data_version
    assert found.verify() == []


@pytest.mark.parametrize("damaged", ["here", "in the bucket"])
def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_is_made_again(far: Site, damaged: str) -> None:
    assert far.bucket
    made, store = publish(far.machine().store), far.machine().store
    copy = store.find_whole("corpus", RECIPE.id)
    assert copy is not None and copy.data_version == made.data_version
    (copy.path / "sub/data.txt").write_text("other")
    (copy.path / "not published").write_text("x")
    below = far.bucket.below("artifacts")
    if damaged == "in the bucket":
        below.write(next(one.key for one in below.objects() if one.key.endswith("data.txt")), b"other")
    found = store.find_whole("corpus", RECIPE.id)
    if damaged == "here":
        assert found is not None and found.verify() == []
    else:
        assert found is None and below.objects() == []


def test_a_manifest_cannot_write_outside_its_folder(far: Site) -> None:
    made = publish(far.machine().store)
    store = far.machine().store
    assert store.shared
    place = store.shared.find("corpus", RECIPE.id)
    assert place is not None
    store._fetch(place, "../../outside.txt")
    store._fetch(place, "/outside.txt")
    assert not store.root.exists() and made.verify() == []


def test_releases_of_two_machines_are_one_record(site: Site) -> None:
    here, there = site.machine().releases, site.machine().releases
    assert not there.has_record("adapter")
    plans = [here.plan_release("adapter", {"sft_adapter": f"r{n}"}, {}) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        places = [site.machine().releases for _ in plans]
        made = [*pool.map(lambda place, plan: place.commit("adapter", plan), places, plans)]
    book = there.book("adapter")
    assert book is not None and there.has_record("adapter")
    assert {one.version for one in book.history} == {one.version for one in made}
    assert len(book.moves) == 6 and book.moves[-1].after == book.current
    there.announce("adapter", there.plan_rollback("adapter", made[0]))
    there.announce("adapter", there.plan_rollback("adapter", made[1]))
    intent = here.announced("adapter")
    assert intent is not None and intent.release == made[1]
    here.withdraw("adapter")
    assert there.announced("adapter") is None


def test_one_machine_at_a_time_releases(site: Site) -> None:
    here, there = site.machine().releases, site.machine().releases
    with here.exclusive("collection"):
        with pytest.raises(BlockingIOError), there.exclusive("collection", wait=False):
            pass
        with there.exclusive("adapter", wait=False):
            pass
    with there.exclusive("collection", wait=False):
        pass


def test_one_machine_at_a_time_makes_an_asset_from_its_last_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_POLL_SECONDS", 0.05)
    here, there = site.machine().store, site.machine().store
    second = threading.Event()

    def wait() -> None:
        with there.alone("corpus"):
            second.set()

    with ThreadPoolExecutor(1) as pool:
        with here.alone("corpus"), there.alone("another"):
            waiting = pool.submit(wait)
            assert not second.wait(0.3) and here.assets() == []
        waiting.result(30)


def test_a_lease_is_renewed_while_it_is_held_and_free_after_its_holder_ended(
    far: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert far.bucket
    monkeypatch.setattr(buckets, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(buckets, "_POLL_SECONDS", 0.05)
    with far.bucket.lease("a"), pytest.raises(BlockingIOError), far.bucket.lease("a", wait=1.2):
        pass
    assert far.bucket._take("leases/a.json", "a process that ends now")
    with pytest.raises(BlockingIOError), far.bucket.lease("a", wait=0):
        pass
    with far.bucket.lease("a", wait=10):
        assert not far.bucket._take("leases/a.json", "a process that ends now"), "whoever lost it knows"
    assert far.bucket.read("leases/a.json") is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://key:secret@bucket/x", "a user name or a password"),
        ("file:///tmp/x", "no bucket"),
        ("bucket", "no bucket"),
    ],
)
def test_an_address_of_no_bucket_is_refused_without_its_secret(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(STORE_URL, url)
    with pytest.raises(Refused, match="FT-ART-009") as refusal:
        open_store(tmp_path)
    assert reason in str(refusal.value) and "secret" not in str(refusal.value)
    monkeypatch.delenv(STORE_URL)
    assert bucket_of_environment() is None and open_store(tmp_path).shared is None


def ignoring(call: str) -> Callable[..., bool]:
    write = Bucket.write

    def ignored(self: Bucket, key: str, content: bytes, *_: str) -> bool:
        write(self, key, content)
        return True

    return ignored


@pytest.mark.parametrize("call", ["create", "replace"])
def test_a_bucket_that_ignores_conditions_is_refused(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_conditions(in_memory()).objects() == []
    monkeypatch.setattr(Bucket, call, ignoring(call))
    with pytest.raises(Refused, match="FT-ART-009"):
        require_conditions(in_memory())
