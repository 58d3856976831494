# transformers is untyped here
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.formats.dialect import RowError
from ft_assets.adapters.rows.shorten import as_lines, fit
from ft_assets.adapters.rows.tokenise import (
    answer_message,
    answers_of,
    opens_thought,
    prompt_messages,
    tokenise,
)
from resources.generator import render
from tests.ft_assets.adapters.tiny_llm import PROMPT, instruction, preference

# opens <think> before every answer, and puts empty reasoning before an answer without any, as Qwen3-Thinking does
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}:{% if m['role'] == 'assistant' and '</think>' not in "
    "m['content'] %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:<think>\n{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def thinking(tokenizer: Any) -> Any:
    tokenizer.chat_template = THINKING
    return tokenizer


def test_many_rows_in_one_call_are_tokenised_as_one_by_one(tokenizer: Any) -> None:
    rows = [instruction(n, history=[{"question": "它?", "answer": "是"}] * (n % 2)) for n in range(6)] + [
        preference(n, system="简短") for n in range(6)
    ]
    for row, sides in zip(rows, tokenise(tokenizer, rows, PROMPT, "allow_empty"), strict=True):
        chat = prompt_messages(row, PROMPT)
        assert [side.side for side in sides] == (["chosen", "rejected"] if "chosen" in row else ["answer"])
        for side, answer in zip(sides, answers_of(row, "allow_empty"), strict=True):
            assert list(side.serving) == render(tokenizer, chat)
            assert list(side.ids) == render(tokenizer, [*chat, answer_message(answer)], add_generation_prompt=False)
            assert side.joined and side.thought == "none"
            assert tokenizer.decode(side.trained) == f"{answer.text}<|im_end|>\n"


def test_a_template_that_opens_the_reasoning_is_recognised(tokenizer: Any) -> None:
    assert not opens_thought(tokenizer)
    tokenizer.chat_template = THINKING
    assert opens_thought(tokenizer)


@pytest.mark.parametrize(
    ("policy", "reasoning", "trained", "thought"),
    [
        ("require", "想。", "想。\n</think>\n\n1 比特<|im_end|>\n", "full"),
        ("strip", "想。", "\n</think>\n\n1 比特<|im_end|>\n", "empty"),
        ("allow_empty", "", "\n</think>\n\n1 比特<|im_end|>\n", "empty"),
        ("mask_empty", "", "\n\n1 比特<|im_end|>\n", "masked"),
        ("mask_empty", "想。", "想。\n</think>\n\n1 比特<|im_end|>\n", "full"),
    ],
)
def test_the_policy_decides_which_part_of_the_reasoning_is_trained(
    thinking: Any, policy: str, reasoning: str, trained: str, thought: str
) -> None:
    ((row,),) = tokenise(thinking, [instruction(1, reasoning=reasoning)], PROMPT, policy)
    assert thinking.decode(row.trained) == trained and row.thought == thought
    assert row.ids[: len(row.serving)] == row.serving
    assert thinking.decode(row.serving).endswith("assistant:<think>\n")


def test_the_answers_of_a_pair_keep_their_own_reasoning_and_tags_must_be_paired() -> None:
    pair = preference(1, chosen="<thinking>\n先算。\n</thinking>\n\n128", rejected="64")
    assert [tuple(answer) for answer in answers_of(pair, "mask_empty")] == [
        ("chosen", "先算。", "128"), ("rejected", "", "64"),
    ]  # fmt: skip
    assert [answer.reasoning for answer in answers_of(pair, "strip")] == ["", ""]
    with pytest.raises(RowError, match="FT-INST-004"):
        answers_of(preference(1, chosen="128<think>"), "allow_empty")


class TestTooLong:
    @staticmethod
    def fitted(tokenizer: Any, rows: list[dict[str, Any]], policy: Any, max_length: int) -> Any:
        def call(some: Any) -> Any:
            return tokenise(tokenizer, some, PROMPT, "allow_empty")

        return fit(rows, call, part="train", max_length=max_length, policy=policy)

    def test_dropped_rows_are_listed_and_the_rest_stays(self, tokenizer: Any) -> None:
        rows = [instruction(1), instruction(2, context=["很长。" * 60]), instruction(3)]
        fitted = self.fitted(tokenizer, rows, "drop", 200)
        assert [row["record_id"] for row in fitted.rows] == ["q1", "q3"]
        (lost,) = fitted.too_long
        assert (lost.record_id, lost.where, lost.action) == ("q2", "questions.jsonl:3 (q2)", "dropped")
        assert lost.tokens > 200 and lost.tokens_kept == 0
        assert msgspec.json.decode(as_lines(fitted.too_long))["part"] == "train"

    def test_cut_rows_lose_the_end_of_their_passages_and_nothing_else(self, tokenizer: Any) -> None:
        context = ["第一段,最要紧。", "第二段。" * 20, "第三段。" * 20]
        row = instruction(1, context=context, system="简短", history=[{"question": "前?", "answer": "后"}])
        whole = tokenise(tokenizer, [row], PROMPT, "allow_empty")[0][0]
        fitted = self.fitted(tokenizer, [row], "truncate_prompt", len(whole.ids) - 150)
        cut, ((made,),) = fitted.rows[0], fitted.tokenised
        assert len(made.ids) <= len(whole.ids) - 150 < len(whole.ids)
        assert made.trained == whole.trained and {**row, "context": 0} == {**cut, "context": 0}
        assert "".join(context).startswith("".join(cut["context"])) and cut["context"][0] == context[0]
        assert made.ids[: len(made.serving)] == made.serving
        longer = {**row, "context": [*cut["context"][:-1], cut["context"][-1] + "段段"]}
        assert len(tokenise(tokenizer, [longer], PROMPT, "allow_empty")[0][0].ids) > len(whole.ids) - 150, (
            "no more fits"
        )
        (cut_row,) = fitted.too_long
        assert (cut_row.action, cut_row.passages, cut_row.tokens_kept) == ("cut", 3, len(made.ids))

    def test_both_sides_of_a_pair_are_cut_to_one_prompt(self, tokenizer: Any) -> None:
        pair = preference(1, context=["很长的段落。" * 20], chosen="长" * 30, rejected="短")
        ((chosen, rejected),) = self.fitted(tokenizer, [pair], "truncate_prompt", 200).tokenised
        assert len(chosen.ids) <= 200 and chosen.serving == rejected.serving
        assert tokenizer.decode(chosen.trained) == f"{'长' * 30}<|im_end|>\n"

    def test_a_row_whose_answer_alone_is_too_long_is_left_for_the_gate(self, tokenizer: Any) -> None:
        row = instruction(1, answer="长" * 300)
        fitted = self.fitted(tokenizer, [row], "truncate_prompt", 200)
        assert fitted.rows == [row] and len(fitted.tokenised[0][0].ids) > 200 and not fitted.too_long
        assert self.fitted(tokenizer, [row], "raise", 200).rows == [row]


@pytest.mark.slow
def test_pairs_are_the_token_ids_that_trl_makes_of_their_messages(
    tokenizer: Any, tiny_base: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = [preference(n, system="简短" * (n % 2), context=["段落。"] * (n % 3)) for n in range(6)]
    messages = [
        {"prompt": prompt_messages(row, PROMPT), **{a.side: [answer_message(a)] for a in answers_of(row, "")}}
        for row in rows
    ]
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_base),
        args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False, max_length=None),
        train_dataset=Dataset.from_list(messages),
        processing_class=tokenizer,
    )
    for theirs, (chosen, rejected) in zip(trainer.train_dataset, tokenise(tokenizer, rows, PROMPT, ""), strict=True):
        assert theirs["prompt_ids"] == list(chosen.serving)
        assert [theirs["chosen_ids"], theirs["rejected_ids"]] == [chosen.trained, rejected.trained]
