"""Copied texts are found by their 13-token runs; boilerplate, templates and short texts do not count."""

from __future__ import annotations

import random
from collections.abc import Sequence

from expectations.rules.contamination import (
    RUN,
    ContaminationHit,
    Search,
    Text,
    few_were_seen,
    find_contamination,
    nothing_was_seen,
)

HAN = "密钥算法分组加密解密签名验证证书协议随机散列曲线椭圆标量模幂素数域填充向量链接认证完整性抗碰撞前向安全握手会话"


def _words(seed: int, count: int) -> str:
    dice = random.Random(seed)  # noqa: S311
    return " ".join("".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(count))


def _han(seed: int, count: int) -> str:
    return "".join(random.Random(seed).choices(HAN, k=count))  # noqa: S311


def _texts(texts: Sequence[str], field: str = "question", dataset: str = "instruction") -> list[Text]:
    return [Text(dataset, f"{field}{n}", field, f"{field}.jsonl:{n + 1}", text) for n, text in enumerate(texts)]


def _search(
    held_out: Sequence[str], seen: Sequence[str], threshold: float = 0.5, field: str = "question", **more: list[str]
) -> Search:
    return find_contamination(_texts(held_out), lambda: _texts(seen, field), threshold, **more)


def test_a_copied_text_is_found_whatever_its_case_width_and_punctuation():
    english, chinese = _words(1, 20), _han(2, 30)
    seen = [_words(3, 40), english.upper().replace(" ", ", "), "前言。" + "，".join(chinese) + "！" + _han(4, 40)]
    found = _search([english, chinese, _words(5, 20), _han(6, 30)], seen)
    assert [(hit.held_out.text, hit.seen.text, hit.share) for hit in found.hits] == [
        (english, seen[1], 1.0),
        (chinese, seen[2], 1.0),
    ]
    assert [hit.common for hit in found.hits] == [english, chinese]
    assert (found.held_out, found.seen) == (4, 3)


def test_full_width_letters_and_mixed_scripts_are_the_same_tokens():
    text = "ＳＭ４ 分组密码算法的分组长度是 128 比特、密钥长度也是 128 比特"
    (hit,) = _search([text], ["请记住：sm4分组密码算法的分组长度是128比特，密钥长度也是128比特。"]).hits
    assert hit.share == 1.0 and "sm4" in hit.common


def test_the_share_is_that_of_the_held_out_text_in_one_text_of_training():
    text = _words(1, 40)  # 28 runs
    half, third = " ".join(text.split()[:26]), " ".join(text.split()[14:])
    assert [hit.share for hit in _search([text], [half, _words(2, 9)]).hits] == [0.5]  # 14 of 28
    assert not _search([text], [half], threshold=0.51).hits
    # two texts that hold half of it each are two texts
    assert [hit.share for hit in _search([text], [half, third]).hits] == [0.5]
    assert _search([half], [text]).hits[0].share == 1.0


def test_texts_of_fewer_than_thirteen_tokens_are_not_judged():
    short, enough = _words(1, RUN - 1), _words(1, RUN)
    assert _search([short, "2010 年", ""], [short, "2010 年", ""]) == Search([], 0, 3, 0)
    assert len(_search([enough], [enough]).hits) == 1


def test_boilerplate_that_many_texts_hold_does_not_count():
    prefix = _words(100, 40)
    held_out = [f"{prefix} {_words(n, 8)}" for n in range(5)]
    few = [f"{prefix} {_words(1000 + n, 8)}" for n in range(3)]
    many = [f"{prefix} {_words(1000 + n, 8)}" for n in range(30)]
    assert len(_search(held_out, few).hits) == 5  # so rare that it may be one text with several endings
    found = _search(held_out, many)
    assert not found.hits and found.boilerplate == 40 - RUN + 1 and found.held_out == 5
    # a copy next to the boilerplate is still found
    assert [hit.held_out.text for hit in _search(held_out, [*many, held_out[3]]).hits] == [held_out[3]]
    copied = _texts([*held_out, prefix])
    assert not find_contamination(copied, lambda: _texts(many), 0.5).hits


def test_templates_that_are_named_do_not_count():
    template = "请根据下面给出的资料回答问题，只依据资料，不要编造，不知道就说不知道："
    held_out, seen = [template + _han(1, 15)], [template + _han(2, 15)]
    assert _search(held_out, seen).hits
    assert not _search(held_out, seen, templates=[template]).hits


def test_a_passage_that_many_rows_were_given_is_one_text_and_not_boilerplate():
    passage = _han(1, 80)
    held_out = _texts([passage[10:50]])
    given = [*_texts([passage] * 50, "context"), *_texts([_han(2, 80)] * 50, "context")]
    found = find_contamination(held_out, lambda: given, 0.5)
    assert found.seen == 2 and found.hits[0].seen.record_id == "context0"
    # an answer that fifty rows give is boilerplate
    assert not find_contamination(held_out, lambda: _texts([passage] * 50, "answer"), 0.5).hits


def test_nothing_is_found_in_nothing():
    assert _search([], ["x"]) == Search([], 0, 1, 0)
    assert _search(["x"], []) == Search([], 0, 0, 0)
    assert not _search([_words(1, 20)], []).hits


def test_a_violation_names_both_places_the_share_and_the_common_text():
    (hit,) = _search([_han(1, 400)], [_han(1, 400)]).hits
    (violation,) = nothing_was_seen("instruction_splits", [hit], 0.5)
    assert (violation.code, violation.found, violation.expected) == ("FT-SPLIT-012", 1.0, "below 0.5")
    assert "question.jsonl:1" in violation.message and "datasets.split.templates" in violation.fix
    assert _han(1, 400)[:100] in violation.message and len(violation.message) < 500
    assert len(nothing_was_seen("x", [hit] * 100, 0.5)) == 20


def test_shares_are_those_that_comparing_every_pair_of_texts_gives():
    dice = random.Random(7)  # noqa: S311
    sources = [_han(n, 60) for n in range(20)]

    def patchwork() -> str:
        parts = [dice.choice(sources) for _ in range(3)]
        return "".join(part[(at := dice.randrange(40)) : at + dice.randrange(5, 40)] for part in parts)

    held_out, seen = [patchwork() for _ in range(30)], [patchwork() for _ in range(60)]

    def runs(text: str) -> set[str]:
        return {text[n : n + RUN] for n in range(len(text) - RUN + 1)}

    def holders(run: str) -> int:
        return sum(run in text for text in held_out + seen)

    expected: dict[str, float] = {}
    for text in held_out:
        counted = {run for run in runs(text) if holders(run) <= 20}
        share = max((len(counted & runs(other)) / len(counted) for other in seen), default=0) if counted else 0
        if share >= 0.3:
            expected[text] = share
    found = {hit.held_out.text: hit.share for hit in _search(held_out, seen, 0.3).hits}
    assert expected and found == expected


def test_hits_are_plain_values():
    text = Text("instruction", "a", "question", "a.jsonl:1", "x")
    assert str(text) == "the question of instruction record a (a.jsonl:1)"
    assert ContaminationHit(text, text, 0.5, "x").share == 0.5


def test_a_few_seen_records_pass_and_a_larger_share_does_not():
    assert few_were_seen("instruction_splits", "instruction", 2, 7017, 0.01) == []
    assert few_were_seen("instruction_splits", "instruction", 0, 0, 0.0) == []
    (violation,) = few_were_seen("instruction_splits", "instruction", 2, 100, 0.01)
    assert violation.code == "FT-SPLIT-014" and "2 of 100 held-out instruction records" in str(violation)
