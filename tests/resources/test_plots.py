from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ET

import pytest

from resources.plots import MAX_CHARS, bars, histogram, sparkline


def _svg(markdown: str) -> ET.Element:
    assert markdown.startswith("![") and len(markdown) < MAX_CHARS
    return ET.fromstring(base64.b64decode(markdown.partition("base64,")[2].rstrip(")")))  # noqa: S314


def _tags(svg: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in svg.iter() if element.tag.endswith(name)]


@pytest.mark.parametrize("length", [1, 2, 50, 10_000])
def test_a_line_of_any_length_is_a_small_picture_from_its_first_to_its_last_value(length: int):
    values = [math.cos(n) for n in range(length)]
    svg = _svg(sparkline(values, [1 / (n + 1) for n in range(length)], "loss"))
    assert len(_tags(svg, "polyline")) == 2


def test_higher_values_are_drawn_higher():
    (line,) = _tags(_svg(sparkline([0, 5, 10])), "polyline")
    heights = [int(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3


def test_bars_that_do_not_fit_are_counted_in_one_line_and_names_are_escaped():
    svg = _svg(bars({f"FT-PREF-{n:03d} <密钥&>": 1 for n in range(30)}, "codes"))
    texts = [element.text for element in _tags(svg, "tspan")]
    assert texts[-2] == "others" and sum(float(text or 0) for text in texts[1::2]) == 30


def test_an_empty_plot_is_replaced_by_text():
    assert "no values" in sparkline([]) and "no values" in bars({})


def test_a_histogram_draws_one_column_for_each_count_and_omits_empty_ones():
    svg = _svg(histogram([1, 0, 4] * 8, 0, 4096, "tokens of a row"))
    (path,) = _tags(svg, "path")
    assert path.attrib["d"].count("M") == 16
    assert str(_tags(svg, "text")[0].text).endswith("at most 4")
    assert histogram([0, 0], 0, 1, "x") == "_x: no values_"
