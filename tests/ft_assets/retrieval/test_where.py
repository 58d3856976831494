"""Conditions as people write them: typed by the collection's fields, refused where no point could meet them."""

from __future__ import annotations

import pytest

from expectations.violations import Refused
from ft_assets.retrieval.where import payload_fields, read_conditions
from resources.engines.protocol import Condition, PayloadType

FIELDS: dict[str, PayloadType] = {"tenant": "text", "tags": "texts", "year": "whole", "share": "number", "open": "bool"}


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("tenant=a", Condition("tenant", "=", "a")),
        (" tenant = Ａ b>=c ", Condition("tenant", "=", "A b>=c")),
        ("tags=x=y", Condition("tags", "=", "x=y")),
        ("year=2020", Condition("year", "=", 2020)),
        ("year>=2020.5", Condition("year", ">=", 2020.5)),
        ("share=1", Condition("share", "=", 1.0)),
        ("share < -1", Condition("share", "<", -1.0)),
        ("open=true", Condition("open", "=", value=True)),
    ],
)
def test_a_condition_has_the_type_of_its_field(text: str, condition: Condition):
    (read,) = read_conditions([text], FIELDS, "c")
    assert read == condition and type(read.value) is type(condition.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tenant", "is no condition"),
        ("=a", "is no condition"),
        ("tenent=a", "no payload field `tenent`"),
        ("tenant>=a", "only `=`"),
        ("tags<2", "only `=`"),
        ("year=new", "whole number"),
        ("year=2020.5", "whole number"),
        ("share>=nan", "is a number"),
        ("open=yes", "true or false"),
    ],
)
def test_what_no_point_could_meet_is_refused(text: str, reason: str):
    with pytest.raises(Refused, match=rf"FT-RET-009.*{reason}"):
        read_conditions([text], FIELDS, "c")


def test_all_faults_are_named_at_once_and_an_old_collection_has_no_fields():
    with pytest.raises(Refused) as refusal:
        read_conditions(["tenent=a", "year=x", "tenant=a"], FIELDS, "c")
    assert len(refusal.value.violations) == 2
    assert payload_fields({"contract": {}}) == {} and payload_fields({"payload": {"a": "text"}}) == {"a": "text"}
