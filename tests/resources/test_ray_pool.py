"""The rules of a pool that need no cluster; those that need one are in test_ray_launcher.py."""

from __future__ import annotations

import pickle

from expectations.violations import Refused, violation
from resources.ray_pool import room_for


def test_a_pool_has_as_many_actors_as_there_is_room_besides_the_worker_and_a_cpu() -> None:
    assert [room_for({"CPU": 1}, {"CPU": cpus}) for cpus in (2, 3, 4)] == [0, 1, 2]
    assert room_for({"CPU": 0.1}, {"CPU": 1.4}) == 3
    assert [room_for({"CPU": 1, "GPU": 1}, {"CPU": 16, "GPU": gpus}) for gpus in (0, 1, 2, 8)] == [0, 0, 1, 7]
    assert room_for({"CPU": 1, "GPU": 0.5}, {"CPU": 16, "GPU": 1}) == 1
    assert room_for({"CPU": 4, "GPU": 1}, {"CPU": 9, "GPU": 8}) == 1
    assert room_for({"CPU": 1, "memory": 8}, {"CPU": 16, "memory": 30}) == 2
    assert room_for({"CPU": 1, "GPU": 1}, {"CPU": 16}) == 0


def test_a_refusal_keeps_its_violations_on_the_way_between_processes() -> None:
    refused = Refused("work", [violation("FT-RAY-007", where="a model", field="version", found="v1", expected="v2")])
    arrived = pickle.loads(pickle.dumps(refused))  # noqa: S301 - made in the line itself
    assert (arrived.subject, arrived.violations, str(arrived)) == ("work", refused.violations, str(refused))
