"""Rules on tables of generated questions: enough of them, like those of people, and apart from held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from expectations.violations import Violation, violation

_SHOWN = 20  # violations of one rule that are listed
_LEAST, _MOST = 0.5, 2.0


def enough_are_verified(where: str, verified: int, candidates: int, least: float) -> list[Violation]:
    """FT-KBA-020: at least the share `least` (0 to 1) of the candidates is verified, and at least one."""
    share = verified / candidates if candidates else 0.0
    if verified and share >= least:
        return []
    message = f"{verified} of {candidates} candidates are verified"
    found, expected = round(share, 4), f"at least {least:g}"
    return [violation("FT-KBA-020", where=where, message=message, field="share", found=found, expected=expected)]


def nothing_is_held_out(where: str, held_out: Mapping[str, str]) -> list[Violation]:
    """FT-KBA-021: no row is made from held-out data. `held_out`: record id -> the reason why it is."""
    return [
        violation("FT-KBA-021", where=where, field=record_id, found=reason, expected="training data alone")
        for record_id, reason in held_out.items()
    ][:_SHOWN]


def answers_are_as_long(where: str, generated: float, written: float) -> list[Violation]:
    """FT-KBA-022: the median length of answers is half to twice that of hand-written ones. 0: there are none."""
    if not generated or not written or _LEAST <= generated / written <= _MOST:
        return []
    expected = f"{_LEAST * written:g} to {_MOST * written:g}"
    return [violation("FT-KBA-022", where=where, field="median length", found=generated, expected=expected)]


def judge_separates(
    where: str, *, questions: int, recall: float, false_accept: float, least: float, most: float
) -> list[Violation]:
    """FT-KBA-023, -024, -026: the judge was tried, accepts few wrong answers and enough right ones (shares, 0 to 1)."""
    if not questions:
        return [violation("FT-KBA-026", where=where, field="held-out questions", found=0, expected="at least 1")]
    violations: list[Violation] = []
    if false_accept > most:
        found, expected = false_accept, f"at most {most:g}"
        violations.append(violation("FT-KBA-023", where=where, field="accepted", found=found, expected=expected))
    if recall < least:
        found, expected = recall, f"at least {least:g}"
        violations.append(violation("FT-KBA-024", where=where, field="accepted", found=found, expected=expected))
    return violations


def rows_name_their_judge(where: str, rows: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-KBA-027: each verified row names its judge and its rules. `rows`: (record id, judge, rules)."""
    return [
        violation("FT-KBA-027", where=where, field=record_id, found=[judge, rules], expected="a judge and rules")
        for record_id, judge, rules in rows
        if not judge or not rules
    ][:_SHOWN]
