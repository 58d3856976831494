"""The whole stage with a model in this process: the author is trained, asks and judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_assets.generation.jobs import VerifiedSummary
from ft_assets.generation.kbalign_checks import GATES
from ft_assets.graph.gates import judge
from tests.copying import copy_tree

from .conftest import KBALIGN, PumpProject

pytestmark = pytest.mark.slow


def test_author_questions_and_judge_with_a_real_model(prepared: Path, tmp_path: Path):
    """A tiny random model asks nothing useful: all candidates have a code, and the gates refuse the table."""
    copy_tree(prepared, tmp_path / "pumps")
    pumps = PumpProject(tmp_path / "pumps")
    pumps.configure(
        kbalign={"author": "tuned", "judge": "author", "author_steps": 2, "max_passages": 3, "max_new_tokens": 8,
                 "max_tries": 1},
    )  # fmt: skip
    everything = ("kbalign_settings", "kbalign_author", *KBALIGN)
    pumps.run(*everything, raise_on_error=False)
    assert pumps.artifact("kbalign_author").summary["steps"] == 2
    found = pumps.artifact("kbalign_verified").summary_as(VerifiedSummary)
    assert found.judge_right == 2
    verdicts = {gate.name: judge(gate, pumps.evidence).violations for gate in GATES}
    assert verdicts["enough_are_verified"] and verdicts["judge_separates"]
    assert not verdicts["candidates_are_accounted_for"]
    again = pumps.run(*everything, raise_on_error=False)
    assert all(values["reused"] for values in again.values())
