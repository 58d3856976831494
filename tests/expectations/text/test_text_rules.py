"""Texts that are only apparently there, characters that were lost or misread, and residue that may be meant."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml.error import YAMLError

from expectations.text.cleaning import NULLS, find_lost_number, find_mojibake, find_special_token, is_invisible
from expectations.text.webpages import read_page
from expectations.verify import Report, verify_file
from expectations.verify_reports import dump_json, report_github, report_junit, report_markdown, report_table
from expectations.yaml_text import load_yaml


def _verify(tmp_path: Path, *rows: dict[str, Any]) -> Report:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return verify_file(path, "instruction")


def _row(answer: str, question: str = "How does the library open?") -> dict[str, Any]:
    return {"instruction": question, "output": answer}


@pytest.mark.parametrize(
    "answer", ["\u200b\u200b", "\ufeff", "\u00ad", "\u200d \ufe0f", "\u3164", "\u2800", "\u200b\n"]
)
def test_an_answer_that_nobody_sees_is_empty(tmp_path: Path, answer: str) -> None:
    assert is_invisible(answer)
    assert _verify(tmp_path, _row(answer)).counts == {"FT-INST-003": 1}


def test_an_invisible_answer_behind_its_reasoning_is_empty(tmp_path: Path) -> None:
    assert _verify(tmp_path, _row("<think>hm</think>\u200b")).counts == {"FT-INST-003": 1}


@pytest.mark.parametrize("answer", ["❤️", "a\u200b", "क्‍ष", "。"])
def test_a_visible_text_with_joiners_stays(tmp_path: Path, answer: str) -> None:
    assert _verify(tmp_path, _row(answer)).clean == 1


@pytest.mark.parametrize("null", sorted(NULLS))
def test_a_printed_null_is_no_answer(tmp_path: Path, null: str) -> None:
    report = _verify(tmp_path, _row(null), _row(f"It prints {null} then."))
    assert report.counts == {"FT-TEXT-005": 1}
    assert null in report.rejected[0].reason


def test_a_name_may_be_a_printed_null(tmp_path: Path) -> None:
    assert _verify(tmp_path, {**_row("At nine."), "difficulty": "N/A"}).clean == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Um neun \ufffd\ufffdhr.", "FT-TEXT-006"),
        ("Die BÃ¼cherei Ã¶ffnet um neun.", "FT-TEXT-007"),
        ("Itâ€™s open.", "FT-TEXT-007"),
        ("Ã–ffnet um neun.", "FT-TEXT-007"),
        ("Ð‘Ð¸Ð±Ð»Ð¸Ð¾Ñ‚ÐµÐºÐ°", "FT-TEXT-007"),
        ("Open \u202egnihton\u202c.", "FT-TEXT-008"),
        ("Open \u2066x\u2069.", "FT-TEXT-008"),
        ("<image>\nIt opens at nine.", "FT-TEXT-009"),
        ("Look: <video>", "FT-TEXT-009"),
    ],
)
def test_what_is_wrong_with_the_characters_has_its_code(tmp_path: Path, answer: str, code: str) -> None:
    assert _verify(tmp_path, _row(answer)).counts == {code: 1}


@pytest.mark.parametrize(
    "text",
    [
        *("NÃO", "SÃO PAULO", "MINHA IRMÃ” disse", "ÇÃO — “ÃO”", "SIELLÄ…", "”Å”", "ÅÄÖ", "20 °C", "créé à l’été"),
        *("l’Âge d’or", "naïve façade", "Việt Nam ở đâu", "Привет, мир", "Ελλάδα είναι", "日本語", "bytes `fÃ¤hrt`"),
    ],
)
def test_words_of_real_languages_are_no_mojibake(text: str) -> None:
    assert find_mojibake(text) is None


def test_mojibake_is_named_with_what_it_should_read() -> None:
    assert find_mojibake("Die BÃ¼cherei") == ("BÃ¼cherei", "Bücherei")


def test_a_passage_of_the_web_may_hold_mojibake(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "hours", "pos": ["OpenÂ® at nine"], "neg": ["EleguÃ¡"]}\n', "utf-8")
    assert verify_file(path).clean == 1


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Write a Jinja loop.", "{% for book in books %}{{ book }}{% endfor %}"),
        ("Show a value in Vue.", "<p>{{ title }}</p>"),
        ("Build the prompt.", "prompt = f'Answer this: {question}'"),
        ("How do I fill it in?", "Call `template.format(question=q)` on `{question}`"),
        ("How do I fill it in?", "```python\nprint('### Response:')\n{question}\n```"),
        ("How do I strike out?", "Write <s>old</s>."),
        ("How do I strike out?", "Use `<s>` and `</s>`."),
        ("What does np.arange give?", "array([0, 1, 2])"),
        ("What does torch.ones give?", "tensor([1., 1.])"),
        ("Print a percent sign.", "%% in printf."),
        ("Print a number.", "%.2f prints two digits."),
        ("How do I embed a film in HTML?", "Use the <video> element."),
        ("How do I embed a film?", "<video>film</video>"),
    ],
)
def test_code_and_prose_on_code_are_no_residue(tmp_path: Path, question: str, answer: str) -> None:
    report = _verify(tmp_path, _row(answer, question))
    assert report.counts == {}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("{answer}", "FT-TEXT-002"),
        ("The answer is {answer}", "FT-TEXT-002"),
        ("{context}\nIt opens at nine.", "FT-TEXT-002"),
        ("### Response: At nine.", "FT-TEXT-002"),
        ("At nine.\n### Instruction:\nAnd now?\n### Response:\nAt ten.", "FT-TEXT-002"),
        ("At nine.<|im_end|>", "FT-INST-006"),
        ("The token `<|im_end|>` ends a turn.", "FT-INST-006"),
        ("<s> It opens at nine.</s>", "FT-INST-006"),
        ("At nine.</s>", "FT-INST-006"),
        ("array(['At nine.'], dtype=object)", "FT-TEXT-003"),
        ("% per annum.", "FT-INST-009"),
    ],
)
def test_residue_around_a_text_is_refused(tmp_path: Path, answer: str, code: str) -> None:
    assert _verify(tmp_path, _row(answer)).counts == {code: 1}


def test_a_slot_inside_a_text_is_refused_where_rows_repeat_it(tmp_path: Path) -> None:
    rows = [_row(f"Number {n}.", f"Read {{context}} and answer: {n}?") for n in range(4)]
    assert _verify(tmp_path, rows[0], _row("At nine.")).clean == 2
    report = _verify(tmp_path, *rows, _row("At nine."))
    assert report.counts == {"FT-TEXT-002": 4}
    assert "{context}" in report.rejected[0].reason
    assert (report.rows, report.clean) == (5, 1)


def test_find_helpers_keep_their_old_finds() -> None:
    assert find_lost_number(",000.") and find_lost_number("%。")
    assert find_special_token("[INST] x") == "[INST]"


def test_no_report_prints_what_a_terminal_or_a_log_obeys(tmp_path: Path) -> None:
    path = tmp_path / "a\n::error::x\x1b[31m\r##[group]y.jsonl"
    rows = [
        _row("\n::stop-commands::x", "::warning::a\x1b[2J\u009b31m"),
        _row("None"),
        _row("a\r::error::b"),
        _row("c", "d"),
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(text + "\n  ::error::raw\x1b[0m\n", "utf-8")
    report = verify_file(path)
    printed = {
        "text": report_table(report),
        "junit": report_junit([report]).decode(),
        "markdown": report_markdown([report]),
        "json": dump_json([report]),
        "github": report_github([report]),
    }
    for form, text in printed.items():
        assert [c for c in text if not c.isprintable() and c != "\n"] == [], form
        lines = [line.strip() for line in text.split("\n")]
        assert not any(line.startswith("::") for line in lines) or form == "github", form
        assert "##[" not in text, form
    assert all(line.startswith(("::error file=", "::notice title=ft verify")) for line in printed["github"].split("\n"))
    assert json.loads(printed["json"])[0]["file"] == str(path)


@pytest.mark.parametrize("tags", ["<div>", "<table><tr><td>", "<span>", "<ul><li>", "<b>"])
def test_a_page_of_many_open_elements_is_read_in_linear_time(tags: str) -> None:
    started = time.perf_counter()
    page = read_page(f"<p>before</p>{tags * 30_000}inside")
    assert time.perf_counter() - started < 10
    assert "before" in page.text and "inside" in page.text


def test_a_page_of_usual_depth_is_not_touched() -> None:
    page = "<div>" * 300 + "<p>a</p><p>b</p>" * 300 + "</div>" * 300
    assert read_page(page).text.split("\n\n")[:2] == ["a", "b"]


def test_yaml_that_grows_by_its_aliases_is_refused() -> None:
    assert load_yaml("a: &a [1]\nb: *a\n") == {"a": [1], "b": [1]}
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    for text in (bomb, "[" * 5000, "a: &a\n  b: *a"):
        with pytest.raises(YAMLError):
            load_yaml(text)
