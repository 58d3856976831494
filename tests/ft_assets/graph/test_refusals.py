"""A refusal on the page of a run: code, reason and fix first, and no second try."""

from __future__ import annotations

from typing import Any

import dagster as dg

from expectations.violations import Refused, violation
from ft_assets.commands.execution import failures, reason
from ft_assets.graph.asset import AssetSpec

SPEC = AssetSpec(name="passages", group="corpus", kinds={"python"}, code_version="1", description="-")


@SPEC.asset
def passages() -> dg.MaterializeResult[Any]:
    raise Refused(
        "reading corpus.files", [violation("FT-FILE-001", where="config.yaml", field="corpus.files", found=0)]
    )


def test_a_failure_begins_with_code_reason_and_fix() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([passages], instance=instance, raise_on_error=False)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure and failure.description
    first, second = failure.description.splitlines()
    assert first.startswith("[FT-FILE-001] config.yaml: ") and "corpus.files: found 0" in first
    assert second.startswith("Fix: ")
    assert isinstance(failure.metadata["violations"], dg.TableMetadataValue)
    (error,) = failures(result.all_events).values()
    assert reason(error).startswith("reading corpus.files refused:")
