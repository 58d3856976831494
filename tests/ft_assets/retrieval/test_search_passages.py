"""Passages of a prompt: held-out ones are passed over, and the next hit takes their place."""

from __future__ import annotations

from collections.abc import Sequence

from ft_assets.retrieval.search_passages import FoundPassage, show_passages

CORPUS = [f"p{n}" for n in range(40)]


def find(questions: Sequence[str], k: int) -> list[list[FoundPassage]]:
    """Rank the whole corpus from the passage that the question names."""
    ranked = [CORPUS[int(question) :] + CORPUS[: int(question)] for question in questions]
    return [[FoundPassage(name, name.upper()) for name in names[:k]] for names in ranked]


def test_the_next_hit_takes_the_place_of_a_held_out_passage_however_far_down():
    far = set(CORPUS) - {"p0", "p39"}
    shown = show_passages(find, ["0", "5", "5"], [set(), {"p5", "p7"}, far], 2, len(CORPUS))
    assert [[one.passage_id for one in each.passages] for each in shown] == [["p0", "p1"], ["p6", "p8"], ["p39", "p0"]]
    assert [each.held_out for each in shown] == [0, 2, 34]


def test_where_too_few_are_allowed_those_are_shown():
    (shown,) = show_passages(find, ["3"], [set(CORPUS) - {"p3"}], 2, len(CORPUS))
    assert [one.content for one in shown.passages] == ["P3"] and shown.held_out == 0
    (nothing,) = show_passages(find, ["3"], [set(CORPUS)], 2, len(CORPUS))
    assert nothing.passages == [] and nothing.held_out == len(CORPUS)
