"""The rows a training gets: tokenised, judged by the gates, and as the data sets of the trainer."""

# datasets, pyarrow, tokenizers and trl are untyped here
# pyright: basic
from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from expectations.contracts.adapter import RagPrompt
from expectations.formats.dialect import RowError
from expectations.rules.training import (
    TokenisedRow,
    check_counts,
    check_filled,
    check_left,
    check_lengths,
    check_pairs,
    check_reasoned,
    check_round_trip,
    check_thinking,
    measure_lengths,
)
from expectations.violations import Violation
from ft_assets.adapters.preflight import Preflight
from ft_assets.adapters.refusals import refuse
from ft_assets.adapters.rows.shorten import TOO_LONG_FILE, TooLong, as_lines, fit
from ft_assets.adapters.rows.tokenise import (
    OPENING,
    Row,
    answers_of,
    opens_thought,
    read_rows,
    tokenise,
    where,
)
from ft_assets.config.model import SftSettings, TrainSettings
from resources.artifacts import Artifact

_PARTS = ("train", "validation")


class TrainingData:
    """Both parts of the split, tokenised, judged, and as the data sets that the trainer gets.

    `train` and `validation` are the rows that are left, `longest` the tokens of the longest of them, `most_supervised`
    the most that carry loss in one; rows that are packed are taken to fill `max_length`.
    """

    def __init__(
        self,
        splits: Artifact,
        tokenizer: Any,
        *,
        prompt: RagPrompt,
        thinking: str,
        settings: TrainSettings,
        stop_ids: list[int],
        preflight: Preflight,
    ) -> None:
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        rows: dict[str, list[Row]] = {part: list(read_rows(splits, part)) for part in _PARTS}
        judge_rows(preflight, rows, splits.asset, thinking, chat_template=tokenizer.chat_template)
        fitted = {
            part: fit(
                found, lambda some: tokenise(tokenizer, some, prompt, thinking), part=part,
                max_length=settings.max_length, policy=settings.too_long,
            )
            for part, found in rows.items()
        }  # fmt: skip
        made = {part: found.made for part, found in fitted.items()}
        self.too_long = [row for found in fitted.values() for row in found.too_long]
        judge_tokens(
            preflight, made, settings=settings, stop_ids=stop_ids,
            opening=tokenizer.encode(OPENING, add_special_tokens=False) if opens_thought(tokenizer) else [],
            too_long=self.too_long,
            left=check_left(
                {part: len(found) for part, found in rows.items()},
                {part: len(found.rows) for part, found in fitted.items()},
                splits.asset,
            ),
        )  # fmt: skip
        self.train, self.validation = fitted["train"].rows, fitted["validation"].rows
        sides = [side for part in made.values() for row in part for side in row]
        packs = isinstance(settings, SftSettings) and settings.packing
        self.longest = settings.max_length if packs else max(len(side.ids) for side in sides)
        self.most_supervised = settings.max_length if packs else max(len(side.ids) - side.start for side in sides)
        self.supervised_tokens = sum(len(side.trained) for row in made["train"] for side in row)
        self.datasets: dict[str, Any] = {part: Dataset(_table(found)) for part, found in made.items()}

    def write_too_long(self, folder: Path) -> None:
        """The rows that were dropped or cut, one a line, if there are any."""
        if self.too_long:
            (folder / TOO_LONG_FILE).write_bytes(as_lines(self.too_long))

    def name_row(self, ids: Sequence[int]) -> str | None:
        """Where the training row comes from that the trainer batches as these token ids (the chosen side of a pair)."""
        wanted = list(ids)
        for row, columns in zip(self.train, self.datasets["train"], strict=True):
            found = columns["input_ids"] if "input_ids" in columns else columns["prompt_ids"] + columns["chosen_ids"]
            if found == wanted:
                return where(row)
        return None

    def check_against(self, trainer: Any) -> None:
        """TRL drops and cuts rows silently: what it prepared must be what the gates saw."""
        for part, prepared in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset)):
            judged = self.datasets[part]
            wanted, found = _digests(judged, judged.column_names), _digests(prepared, judged.column_names)
            if found != wanted:
                refuse("FT-TRAIN-007", f"the trainer prepared other {part} rows than the gates judged.",
                        field="token ids", found=f"{len(found)} rows", expected=f"{len(wanted)} rows",
                        fix="report this: TRL's preparation changed")  # fmt: skip


def take_token_ids(trainer_class: type[Any]) -> type[Any]:
    """TRL's DPO trainer for rows that are token ids already: its own would render and tokenise messages once more, put
    the end of a prompt into the answer where a token reaches over it, and drop rows without a word. It leaves the
    reference's log-probabilities to reference.py."""

    class Trainer(trainer_class):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return (
                dataset if "prompt_ids" in dataset.column_names else super()._prepare_dataset(dataset, *args, **kwargs)
            )

        def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    Trainer.__name__ = trainer_class.__name__
    return Trainer


def judge_rows(
    preflight: Preflight, rows: dict[str, list[Row]], asset: str, thinking: str, *, chat_template: str | None
) -> None:
    """The gate `rows_are_trainable`. Raises Refused if it does not hold: nothing after it could be judged."""
    broken = check_counts(len(rows["train"]), len(rows["validation"]), asset)
    if not chat_template:
        broken.append(
            Violation(
                code="FT-TRAIN-009", where=asset, message="the tokenizer has no chat template.", field="chat_template",
                found=None, expected="a template", fix="choose an instruction-tuned base model",
            )
        )  # fmt: skip
    fields: list[tuple[str, str, str]] = []
    reasons: list[tuple[str, str]] = []
    for row in (row for part in rows.values() for row in part):
        at = where(row)
        try:
            answers = answers_of(row, thinking)
        except RowError as error:
            broken.append(
                Violation(
                    code="FT-TRAIN-024", where=at, message=error.reason, field=error.path, found="unpaired tags",
                    expected="one <think>…</think> at the start, or none", fix="fix the tags, or delete the row",
                )
            )  # fmt: skip
            continue
        fields += [(at, "question", row["question"]), *((at, answer.side, answer.text) for answer in answers)]
        reasons += [(at, answer.reasoning) for answer in answers]
    broken += check_filled(fields)
    if thinking == "require" and asset == "instruction_splits":  # the policy is that of the instructions
        broken += check_reasoned(reasons)
    with_reasoning = sum(bool(reasoning) for _, reasoning in reasons)
    figures = {
        "train_rows": len(rows["train"]), "validation_rows": len(rows["validation"]), "thinking": thinking,
        "with_reasoning": with_reasoning, "without_reasoning": len(reasons) - with_reasoning,
    }  # fmt: skip
    preflight.judge("rows_are_trainable", broken, figures)
    preflight.refuse_broken()


def judge_tokens(
    preflight: Preflight,
    made: dict[str, list[list[TokenisedRow]]],
    *,
    settings: TrainSettings,
    stop_ids: list[int],
    opening: list[int],
    too_long: Sequence[TooLong],
    left: list[Violation],
) -> None:
    """The gates on token ids, all of them before it refuses: round trip, lengths, pairs, thinking. `opening` is empty
    where the chat template opens no thought; figures of lengths are those of the training part."""
    rows = [row for part in made.values() for row in part]
    sides = [side for row in rows for side in row]
    preflight.judge(
        "prompt_round_trips",
        check_round_trip(sides, stop_ids=stop_ids, opening=opening),
        {
            "answers": len(sides),
            "tokenised_apart": sum(not side.joined for side in sides),
            "opens_thought": bool(opening),
        },
    )
    over = {side.where: side for side in sides if len(side.ids) > settings.max_length}
    train = [side for row in made["train"] for side in row]
    total = len(rows) + sum(row.action == "dropped" for row in too_long)
    # (tokens of the prompt) of every row that was too long; what cutting at max_length, as trainers do, would have cost
    prompts = [row.prompt_tokens for row in too_long] + [len(side.serving) for side in over.values()]
    figures: dict[str, Any] = {
        "max_length": settings.max_length,
        "too_long": settings.too_long,
        "rows": len(rows),
        "dropped": total - len(rows),
        "cut": sum(row.action == "cut" for row in too_long),
        "would_lose_their_stop": len(prompts),
        "would_lose_all_targets": sum(prompt >= settings.max_length for prompt in prompts),
        "too_long_share": round(len(prompts) / max(total, 1), 4),
    }
    broken = [*left, *check_lengths(sides, max_length=settings.max_length, too_long=settings.too_long)]
    preflight.judge("rows_fit_max_length", broken, figures | (measure_lengths(train) if train else {}))
    if sides and sides[0].side != "answer":
        pairs = [(chosen, rejected) for chosen, rejected in rows]
        preflight.judge("pairs_differ", check_pairs(pairs), {"pairs": len(pairs)})
    _judge_thinking(preflight, rows, settings.max_empty_thinking_share, thinks=bool(opening))
    preflight.refuse_broken()


def _judge_thinking(preflight: Preflight, rows: Sequence[list[TokenisedRow]], allowed: float, *, thinks: bool) -> None:
    """An instruction teaches to skip thinking if its empty thought carries loss; a pair only if its better side has an
    empty thought and the other has a full one, since what both sides share cancels out."""
    teach = [row[0].where for row in rows if row[0].thought == "empty" and (len(row) == 1 or row[1].thought == "full")]
    share = round(len(teach) / max(len(rows), 1), 4)
    thoughts = Counter(side.thought for row in rows for side in row)
    preflight.judge(
        "thinking_is_kept",
        check_thinking(teach, share=share, allowed=allowed) if thinks else [],
        {"thinking_model": thinks, "teach_to_skip": len(teach), "share": share, "allowed": allowed, **thoughts},
    )


def _table(rows: Sequence[Sequence[TokenisedRow]]) -> Any:
    """Rows as the trainer's columns."""
    import pyarrow as pa

    def column(lists: Iterable[Sequence[int]]) -> Any:
        values, ends = array("i"), array("i", [0])
        for ids in lists:
            values.extend(ids)
            ends.append(len(values))
        flat = (pa.Array.from_buffers(pa.int32(), len(some), [None, pa.py_buffer(some)]) for some in (ends, values))
        return pa.ListArray.from_arrays(*flat)

    if len(rows[0]) == 1:
        answers = [row[0] for row in rows]
        return pa.table({"input_ids": column(a.ids for a in answers), "labels": column(a.labels for a in answers)})
    return pa.table(
        {
            "prompt_ids": column(chosen.serving for chosen, _ in rows),
            "chosen_ids": column(chosen.trained for chosen, _ in rows),
            "rejected_ids": column(rejected.trained for _, rejected in rows),
        }
    )


def _digests(dataset: Any, names: Sequence[str]) -> list[bytes]:
    """What each row's columns hold, in no order; packed sequences taken apart again."""
    packed = "seq_lengths" in dataset.column_names
    found: list[bytes] = []
    for row in dataset:
        start = 0
        for length in row["seq_lengths"] if packed else [None]:
            parts = [row[name][start : start + length if length else None] for name in names]
            found.append(blake2b(repr(parts).encode(), digest_size=16).digest())
            start += length or 0
    return sorted(found)
