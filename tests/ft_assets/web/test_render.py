"""Figures for people: four digits, and whatever is no figure stays as it is."""

from __future__ import annotations

import pytest

from ft_assets.web.render import figures


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.5674956728017624", "0.5675"),
        ("-0.00012345678", "-0.0001235"),
        ("12345.678", "12346"),
        ('[{"epoch":1,"ndcg":0.1234567,"name":"0.1234567"}]', '[{"epoch":1,"ndcg":0.1235,"name":"0.1234567"}]'),
        ("7250921e12345678", "7250921e12345678"),
        ("2.10", "2.10"),
        ("[no list", "[no list"),
        ("true", "true"),
        ("1234567", "1234567"),
    ],
)
def test_only_figures_are_shortened(text: str, shown: str):
    assert figures(text) == shown
