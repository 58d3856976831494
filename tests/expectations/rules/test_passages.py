"""Few passages are lost, their ids are unique, and every passage has the text of its source."""

from __future__ import annotations

from expectations.rules.passages import (
    few_are_quarantined,
    fit_the_encoder,
    ids_are_unique,
    offsets_point_at_the_text,
)


def test_an_id_that_two_passages_share_is_named_with_its_count() -> None:
    (violation,) = ids_are_unique("passages", ["aes#a", "密钥#b", "aes#a"])
    assert (violation.code, violation.found) == ("FT-CORPUS-010", 2) and "aes#a" in violation.message
    assert ids_are_unique("passages", ["a", "b"]) == []


def test_a_passage_that_its_source_does_not_say_is_named_and_twenty_are_shown() -> None:
    (violation,) = offsets_point_at_the_text("passages", [("a", "同", "同"), ("b", "32 轮", "16 轮")])
    assert (violation.code, violation.found, violation.expected) == ("FT-CORPUS-011", "32 轮", "16 轮")
    assert len(offsets_point_at_the_text("passages", ((str(n), "x", "y") for n in range(50)))) == 20


def test_the_share_of_lost_sections_and_that_of_lost_files_are_judged_apart() -> None:
    lost = {"sections": (1, 300), "files": (3, 10)}
    (violation,) = few_are_quarantined("passages", lost, 0.05)
    assert violation.code == "FT-CORPUS-012" and "3 of 10 files" in str(violation) and violation.found == 0.3
    assert few_are_quarantined("passages", lost, 0.3) == [] == few_are_quarantined("passages", {"files": (0, 0)}, 0)


def test_another_length_of_the_encoder_is_named_with_what_a_new_cut_costs() -> None:
    (longer,) = fit_the_encoder("passages", 256, 512, 40)
    assert (longer.code, longer.found, longer.expected) == ("FT-CORPUS-014", 256, 512)
    assert "corpus.max_tokens: 512" in longer.fix and "40" in longer.fix and "or 256 to keep them" in longer.fix
    (shorter,) = fit_the_encoder("passages", 256, 128, 40)
    assert "corpus.max_tokens: 128" in shorter.fix and "keep" not in shorter.fix
    assert fit_the_encoder("passages", 256, 256, 40) == []
