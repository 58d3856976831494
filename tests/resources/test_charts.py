from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest

from resources.charts import Line, line_chart, line_image, small_line_image


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]  # noqa: S314


def _paths(svg: str) -> list[str]:
    return [element.attrib["d"] for element in ET.fromstring(svg).iter() if element.tag.endswith("path")]  # noqa: S314


@pytest.mark.parametrize("length", [2, 50, 10_000])
def test_a_line_of_any_length_has_axes_with_units_and_stays_small(length: int):
    svg = line_chart([Line("sft", [(n, math.cos(n)) for n in range(length)])], "loss", y="loss (nats)")
    assert {"step", "loss (nats)"} <= {*_texts(svg)} and len(svg) < 12_000
    assert "style" not in svg  # a page with a strict Content-Security-Policy shows it


def test_a_peak_of_a_long_line_is_drawn():
    flat = [(n, 1.0) for n in range(100_000)]
    flat[77_777] = (77_777, 9.0)
    (path,) = _paths(line_chart([Line("loss", flat)], "loss", y="loss"))
    heights = [float(value) for value in path.replace("M", "").replace("L", "").split()[1::2]]
    assert min(heights) < 0.2 * max(heights)


def test_more_lines_than_colours_are_all_named_and_drawn():
    svg = line_chart([Line(f"run {n}", [(0, n), (9, n)]) for n in range(12)], "loss")
    assert {f"run {n}" for n in range(12)} <= {*_texts(svg)} and len(_paths(svg)) == 12


def test_equal_values_are_drawn_where_they_are():
    svg = line_chart([Line("rate", [(0, 1e-5), (50, 1e-5)])], "learning rate")
    assert "1e-05" in _texts(svg)


def test_values_that_are_not_finite_are_left_out_and_an_empty_chart_is_empty():
    assert line_chart([Line("loss", [(0, math.nan), (1, math.inf)])], "loss") == ""
    assert len(_paths(line_chart([Line("loss", [(0, 1), (1, math.nan), (2, 3)])], "loss"))) == 1


def test_hostile_names_stay_text():
    name = '<script>alert(1)</script>\x00"密钥&'
    svg = line_chart([Line(name, [(0, 1), (1, 2)]), Line("b", [(0, 1)])], name)
    ET.fromstring(svg)  # noqa: S314
    assert "<script" not in svg and "密钥" in svg


def test_an_image_needs_no_page():
    picture = line_image([Line("chosen", [(0, 0.5), (10, 0.25)])], "reward ](http://example.com)", y="reward")
    svg = base64.b64decode(picture.partition("base64,")[2].rstrip(")")).decode()
    assert "currentColor" not in svg and {"step", "reward"} <= set(_texts(svg))
    assert picture.count("](") == 1 + picture.count("\\](")
    assert "no values" in line_image([], "loss")


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 20, 100_000])
def test_a_small_image_is_shown_without_a_click_and_keeps_the_peak_and_both_ends(count: int, length: int):
    lines = [Line(f"run {n}", [(step, float(n)) for step in range(length)]) for n in range(count)]
    if length > 100:
        lines[0].points[700] = (700, 50.0)  # type: ignore[index]
    picture = small_line_image(lines, "loss")
    assert len(picture) < 1000 and " " not in picture.partition("](")[2].partition(")")[0]
    svg = unquote(picture.partition("svg+xml,")[2].partition(") ")[0])
    drawn = [element.attrib["points"].split(",") for element in ET.fromstring(svg) if "points" in element.attrib]  # noqa: S314
    assert len(drawn) == count and all(f"run {n} {n} → {n}" in picture for n in range(count))
    assert all(0 <= int(y) <= 48 for points in drawn for y in points[1::2])
    if length > 100:
        assert drawn[0][1::2].count("2") == 1


def test_a_small_image_without_room_or_values_is_words():
    assert "no values" in small_line_image([Line("loss", [(0, math.nan)])], "loss")
    many = small_line_image([Line(f"a long name of a line {n}", [(0, 1), (1, 2)]) for n in range(12)], "loss")
    assert "svg" not in many and "a long name of a line 11 1 → 2" in many
