"""The real Qwen3 vocabulary and the template of Qwen3-4B-Thinking-2507."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.formats.dialect import ReadPolicy
from expectations.formats.instruction import InstructionRecord
from expectations.records.read import read_records
from expectations.rules.training import TokenisedRow
from expectations.violations import Refused
from ft_assets.adapters.preflight import Preflight
from ft_assets.adapters.rows.tokenise import (
    answer_message,
    answers_of,
    opens_thought,
    prompt_messages,
    tokenise,
)
from ft_assets.adapters.rows.training_data import judge_tokens
from ft_assets.config.model import SftSettings
from resources.generator import render
from resources.model_check import ModelLimits
from tests.ft_assets.adapters.qwen_vocabulary import qwen_tokenizer
from tests.ft_assets.adapters.tiny_llm import PROMPT, instruction, preference

pytestmark = pytest.mark.slow

THINK, CLOSE, END = 151667, 151668, 151645
SETTINGS = SftSettings(base_model="Qwen/Qwen3-4B-Thinking-2507", max_length=1024)


@pytest.fixture(scope="module")
def qwen(shared: Path) -> Any:
    template = shared / "reference" / "qwen3_thinking_2507_full.jinja"
    if not template.is_file():
        pytest.skip("the chat template of Qwen3-4B-Thinking-2507 is not in ../shared/reference")
    return qwen_tokenizer(template)


@pytest.fixture(scope="module")
def cryptography(shared: Path) -> list[dict[str, Any]]:
    """Chinese questions with `<thinking>` answers, as our reader gives them."""
    path = shared / "data" / "crypto_qa_zh" / "thinking_training_data.json"
    found = read_records(path, "instruction", policy=ReadPolicy(thinking="require"))
    return [msgspec.to_builtins(record) for record in found if isinstance(record, InstructionRecord)]


def judge(made: list[list[TokenisedRow]], folder: Path, **settings: Any) -> Preflight:
    preflight = Preflight("training", folder)
    judge_tokens(
        preflight, {"train": made, "validation": made[:1]}, settings=SETTINGS.model_copy(update=settings),
        stop_ids=[END], opening=[THINK], too_long=[], left=[],
        limits=ModelLimits(None, 2**31),
    )  # fmt: skip
    return preflight


def test_the_vocabulary_is_the_one_that_serves(qwen: Any) -> None:
    # as a public serving log of Qwen3-4B-Thinking-2507 shows them
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert qwen(text)["input_ids"] == [151644, 872, 198, 14990, 151645, 198, 151644, 77091, 198]
    assert len(qwen) == 151669 and qwen.convert_tokens_to_ids(["<think>", "</think>"]) == [THINK, CLOSE]
    assert opens_thought(qwen)


def test_reasoning_is_trained_up_to_the_stop_token_and_its_opening_tag_is_not(qwen: Any, tmp_path: Path) -> None:
    ((row,),) = tokenise(qwen, [instruction(1, reasoning="先看标准。")], PROMPT, "require")
    assert row.ids[: len(row.serving)] == row.serving and list(row.serving[-2:]) == [THINK, 198]
    assert qwen.decode(row.trained) == "先看标准。\n</think>\n\n1 比特<|im_end|>\n"
    assert THINK not in row.trained and row.trained[-2] == END and row.thought == "full" and row.joined
    assert all(result.passed for result in judge([[row]], tmp_path).results)


def test_empty_reasoning_keeps_the_served_prompt_although_a_token_crosses_its_end(qwen: Any) -> None:
    row = instruction(1)
    ((made,),) = tokenise(qwen, [row], PROMPT, "allow_empty")
    chat = prompt_messages(row, PROMPT)
    naive = render(qwen, [*chat, answer_message(answers_of(row, "")[0])], add_generation_prompt=False)
    assert naive[: len(made.serving)] != made.serving, "one token holds both line ends of the empty thought"
    assert made.ids[: len(made.serving)] == made.serving and not made.joined
    assert qwen.decode(made.ids) == qwen.decode(naive)
    assert qwen.decode(made.trained) == "\n</think>\n\n1 比特<|im_end|>\n" and made.thought == "empty"


def test_mask_empty_takes_empty_reasoning_out_of_the_loss(qwen: Any, tmp_path: Path) -> None:
    rows = [instruction(1), instruction(2, reasoning="想一想。")]
    (empty,), (full,) = tokenise(qwen, rows, PROMPT, "mask_empty")
    assert qwen.decode(empty.trained) == "\n\n1 比特<|im_end|>\n"
    assert [empty.thought, full.thought] == ["masked", "full"] and CLOSE in full.trained
    assert all(result.passed for result in judge([[empty], [full]], tmp_path).results)


def test_rows_that_teach_to_skip_reasoning_are_refused_by_name_above_the_allowed_share(
    qwen: Any, tmp_path: Path
) -> None:
    made = tokenise(qwen, [instruction(n, reasoning="想。" * (n > 0)) for n in range(4)], PROMPT, "allow_empty")
    with pytest.raises(Refused, match=r"FT-TRAIN-020.*questions\.jsonl:1 \(q0\)"):
        judge(made, tmp_path)
    judged = judge(made, tmp_path, max_empty_thinking_share=0.4).results[-1]
    assert judged.figures["teach_to_skip"] == 2 and judged.figures["full"] == 3  # row 0 is the validation row too
    stripped = tokenise(qwen, [instruction(1, reasoning="想。")], PROMPT, "strip")
    with pytest.raises(Refused, match="FT-TRAIN-020"):
        judge(stripped, tmp_path)


def test_pairs_keep_their_reasoning_and_only_those_that_prefer_none_are_refused(qwen: Any, tmp_path: Path) -> None:
    thought, bare = "<thinking>先算。</thinking>\n128 比特", "64 字节"
    made = tokenise(qwen, [preference(1, chosen=thought, rejected=bare)], PROMPT, "mask_empty")
    chosen, rejected = made[0]
    assert qwen.decode(chosen.trained) == "先算。\n</think>\n\n128 比特<|im_end|>\n"
    assert qwen.decode(rejected.trained) == "\n</think>\n\n64 字节<|im_end|>\n"
    assert chosen.serving == rejected.serving == rejected.ids[: len(chosen.serving)]
    both_empty = tokenise(qwen, [preference(2)], PROMPT, "allow_empty")
    assert all(result.passed for result in judge(made + both_empty, tmp_path).results)
    turned = tokenise(qwen, [preference(3, chosen=bare, rejected=thought)], PROMPT, "mask_empty")
    with pytest.raises(Refused, match=r"FT-TRAIN-020.*preferences\.jsonl:4 \(p3\)"):
        judge(turned, tmp_path)


def test_earlier_turns_are_served_as_they_are_trained(qwen: Any, tmp_path: Path) -> None:
    history = [{"question": "SM4 的分组多长?", "answer": "128 比特"}]
    made = tokenise(qwen, [instruction(1, history=history, system="简短回答", reasoning="想。")], PROMPT, "require")
    assert qwen.decode(made[0][0].serving).count("assistant\n") == 2
    assert all(result.passed for result in judge(made, tmp_path).results)


def test_chinese_rows_are_tokenised_in_one_call_as_one_by_one_and_measured(
    qwen: Any, cryptography: list[dict[str, Any]], tmp_path: Path
) -> None:
    made = tokenise(qwen, cryptography, PROMPT, "require")
    for row, (side,) in zip(cryptography, made, strict=True):
        chat = prompt_messages(row, PROMPT)
        assert list(side.serving) == render(qwen, chat)
        whole = [*chat, answer_message(answers_of(row, "require")[0])]
        assert list(side.ids) == render(qwen, whole, add_generation_prompt=False)
        assert "thinking>" not in qwen.decode(side.trained) and side.thought == "full"
    results = {result.name: result for result in judge(made, tmp_path).results}
    assert all(result.passed for result in results.values())
    figures = results["rows_fit_max_length"].figures
    assert figures["rows"] == 67 and 100 < figures["tokens_median"] < figures["tokens_max"] < 1024
    assert 0.5 < figures["supervised_share"] < 1
    with pytest.raises(Refused, match=r"FT-TRAIN-002.*thinking_training_data\.json:\d+ \("):
        judge(made, tmp_path, max_length=256)
