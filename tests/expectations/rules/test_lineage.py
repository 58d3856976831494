"""An artifact built from an input that is not current is named with both versions."""

from __future__ import annotations

from expectations.rules.lineage import made_from_current


def test_an_artifact_built_from_current_inputs_passes() -> None:
    assert made_from_current("vectors", {"passages": "v1", "files": "f1"}, {"passages": "v1"}) == []


def test_an_older_input_is_named_with_both_versions_and_the_command_that_fixes_it() -> None:
    (violation,) = made_from_current("vectors", {"passages": "v1", "model": "m1"}, {"passages": "v2", "model": "m1"})
    assert (violation.code, violation.where, violation.field) == ("FT-LIN-001", "vectors", "passages")
    assert (violation.found, violation.expected) == ("v1", "v2")
    assert "ft run --asset vectors" in violation.fix
