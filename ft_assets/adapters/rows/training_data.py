"""The rows of a training: tokenised, judged by the gates, and as the datasets of the trainer."""

# datasets, pyarrow, tokenizers and trl are untyped here
# pyright: basic
from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.contracts.adapter import RagPrompt
from expectations.formats.dialect import RowError
from expectations.rules.training import (
    VERDICTS,
    TokenisedRow,
    check_counts,
    check_filled,
    check_left,
    check_lengths,
    check_limits,
    check_pairs,
    check_reasoned,
    check_round_trip,
    check_thinking,
    check_verdicts,
    measure_lengths,
)
from expectations.violations import Violation, violation
from ft_assets.adapters.preflight import Preflight
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.rows.generated import count_origins, limit_fitted, limit_share, read_generated
from ft_assets.adapters.rows.mix import mix
from ft_assets.adapters.rows.shorten import TOO_LONG_FILE, Fitted, Tokenise, TooLong, as_lines, fit
from ft_assets.adapters.rows.tokenise import (
    OPENING,
    Row,
    answers_of,
    opens_thought,
    read_rows,
    tokenise,
    where,
)
from ft_assets.adapters.rows.verdicts import choose_weights, count_verdicts, pair_mismatched, split_pairs
from ft_assets.config.model import DpoSettings, SftSettings, TrainSettings
from resources.artifacts import Artifact
from resources.model_check import ModelLimits

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import Trainer

_PARTS = ("train", "validation")
_WHOLE_ROW = (("input_ids",), ("prompt_ids", "chosen_ids"), ("prompt_ids", "completion_ids"))
"""The columns that make a whole row, in the data of SFT, DPO and KTO."""


class TrainingData:
    """The parts `train` and `validation` of a split, tokenised and judged, and as the datasets of the trainer.

    Generated rows are added to `train`; they are `validation` only where there is no hand-made row to validate on.
    `train` and `validation`: the rows that are trained or validated on; `longest`: the tokens of the longest row;
    `most_supervised`: the most tokens that carry loss in one row. Packed rows are assumed to fill `max_length`.
    For KTO a pair is two rows; `verdicts`: the numbers of desirable and undesirable answers that are trained on.
    `origins`: the trained rows by origin, where some are generated.
    """

    def __init__(
        self,
        splits: Sequence[Artifact],
        tokenizer: Any,
        *,
        prompt: RagPrompt,
        thinking: str,
        settings: TrainSettings,
        stop_ids: list[int],
        limits: ModelLimits,
        preflight: Preflight,
        generated: Sequence[Artifact] = (),
    ) -> None:
        from datasets import disable_progress_bars

        disable_progress_bars()
        asset = name_splits(splits or generated)
        most_generated = settings.generated_share if isinstance(settings, SftSettings) else 1.0
        rows = {part: _read(splits, part, settings) for part in _PARTS}
        made = {part: _split(read_generated(generated, part), settings) for part in _PARTS}
        rows = {
            "train": limit_share([*mix(rows["train"], settings.mix), *made["train"]], most_generated),
            "validation": rows["validation"] or made["validation"],
        }
        judge_rows(preflight, rows, asset, thinking, chat_template=tokenizer.chat_template)

        def tokenise_rows(some: Sequence[Row]) -> list[list[TokenisedRow]]:
            return tokenise(tokenizer, some, prompt, thinking)

        fitted = _fit(rows, tokenise_rows, settings)
        fitted["train"] = limit_fitted(fitted["train"], most_generated)
        tokenised = {part: each.tokenised for part, each in fitted.items()}
        self.too_long = [*fitted["train"].too_long, *fitted["validation"].too_long]
        judge_tokens(
            preflight,
            tokenised,
            settings=settings,
            stop_ids=stop_ids,
            limits=limits,
            opening=tokenizer.encode(OPENING, add_special_tokens=False) if opens_thought(tokenizer) else [],
            too_long=self.too_long,
            left=_check_left(rows, fitted, asset),
        )
        self.verdicts = count_verdicts(_flatten(tokenised["train"])) if settings.is_kto else dict[str, int]()
        self.train, self.validation = fitted["train"].rows, fitted["validation"].rows
        self.origins = count_origins(self.train) if generated else dict[str, int]()
        self._measure(tokenised, settings)
        self.datasets = _build_datasets(tokenised)

    def _measure(self, tokenised: Mapping[str, list[list[TokenisedRow]]], settings: TrainSettings) -> None:
        """Set the figures that memory and the model card need."""
        train = _flatten(tokenised["train"])
        self.supervised_tokens = sum(len(answer.trained) for answer in train)
        if isinstance(settings, SftSettings) and settings.packing:
            self.longest = self.most_supervised = settings.max_length
            return
        answers = [*train, *_flatten(tokenised["validation"])]
        self.longest = max(len(answer.ids) for answer in answers)
        self.most_supervised = max(len(answer.ids) - answer.start for answer in answers)

    def write_too_long(self, folder: Path) -> None:
        """Write the rows that were dropped or cut, one on each line, if there are any."""
        if self.too_long:
            (folder / TOO_LONG_FILE).write_bytes(as_lines(self.too_long))

    def name_row(self, ids: Sequence[int]) -> str | None:
        """Return the place of the training row with these token ids (of a pair: prompt and chosen side); None if there
        is no such row."""
        wanted, rows = list(ids), self.datasets["train"]
        names = next(names for names in _WHOLE_ROW if names[0] in rows.column_names and names[-1] in rows.column_names)
        for row, columns in zip(self.train, rows.select_columns(list(names)), strict=True):
            if list(itertools.chain.from_iterable(columns[name] for name in names)) == wanted:
                return where(row)
        return None

    def check_against(self, trainer: Trainer) -> None:
        """Refuse (FT-TRAIN-007) a trainer with other rows than the gates judged: TRL drops and cuts rows silently."""
        for part, prepared in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset)):
            judged = self.datasets[part]
            expected, found = _digests(judged, judged.column_names), _digests(prepared, judged.column_names)
            if found != expected:
                refuse(
                    violation(
                        "FT-TRAIN-007",
                        where=SUBJECT,
                        field=f"token ids of the {part} rows",
                        found=f"{len(found)} rows",
                        expected=f"{len(expected)} rows",
                    )
                )


def take_token_ids(trainer_class: type[Any]) -> type[Any]:
    """Return TRL's DPO or KTO trainer for rows that are token ids already.

    TRL's own would render and tokenise messages again, put the end of a prompt into the answer where a token crosses
    it, and drop rows silently. The log-probabilities of the reference are left to dpo_reference.py.
    """

    class Trainer(trainer_class):
        def _prepare_dataset(self, dataset: Dataset, *args: object, **kwargs: object) -> Dataset:
            return (
                dataset if "prompt_ids" in dataset.column_names else super()._prepare_dataset(dataset, *args, **kwargs)
            )

        def _precompute_ref_logps(self, dataset: Dataset, *args: object, **kwargs: object) -> Dataset:
            return dataset

    Trainer.__name__ = trainer_class.__name__
    return Trainer


def name_splits(splits: Sequence[Artifact]) -> str:
    """Return the names of the splits that are trained on, for messages."""
    return " and ".join(each.asset for each in splits)


def _read(splits: Sequence[Artifact], part: str, settings: TrainSettings) -> list[Row]:
    rows: list[Row] = []
    for each in splits:
        rows += read_rows(each, part)
    return _split(rows, settings)


def _split(rows: list[Row], settings: TrainSettings) -> list[Row]:
    return list(split_pairs(rows)) if settings.is_kto else rows


def judge_rows(
    preflight: Preflight, rows: dict[str, list[Row]], asset: str, thinking: str, *, chat_template: str | None
) -> None:
    """Judge the gate `rows_are_trainable`. Raises Refused if it fails, because no later gate could be judged."""
    violations = check_counts(len(rows["train"]), len(rows["validation"]), asset)
    if not chat_template:
        violations.append(
            violation("FT-TRAIN-009", where=asset, field="chat_template", found=None, expected="a template")
        )
    texts: list[tuple[str, str, str]] = []
    reasonings: list[tuple[str, str]] = []
    for row in [*rows["train"], *rows["validation"]]:
        place = where(row)
        try:
            answers = answers_of(row, thinking)
        except RowError as error:
            violations.append(_unpaired_tags(place, error))
            continue
        texts += [(place, "question", row["question"]), *((place, answer.side, answer.text) for answer in answers)]
        reasonings += [(place, answer.reasoning) for answer in answers]
    violations += check_filled(texts)
    if thinking == "require" and asset == "instruction_splits":  # the policy is about instructions, not pairs
        violations += check_reasoned(reasonings)
    with_reasoning = sum(bool(reasoning) for _, reasoning in reasonings)
    figures = {
        "train_rows": len(rows["train"]),
        "origins": count_origins(rows["train"]),
        "files": dict(Counter(row["source"] for row in rows["train"])),
        "validation_rows": len(rows["validation"]),
        "thinking": thinking,
        "with_reasoning": with_reasoning,
        "without_reasoning": len(reasonings) - with_reasoning,
    }
    preflight.judge("rows_are_trainable", violations, figures)
    preflight.refuse_failed()


def judge_tokens(
    preflight: Preflight,
    tokenised: dict[str, list[list[TokenisedRow]]],
    *,
    settings: TrainSettings,
    stop_ids: list[int],
    limits: ModelLimits,
    opening: list[int],
    too_long: Sequence[TooLong],
    left: list[Violation],
) -> None:
    """Judge the gates on token ids: round trip, lengths, pairs, reasoning. Refuse after the last of them.

    `opening`: the ids of <think>, empty if the chat template does not open it; `left`: violations of parts that lost
    all rows. The figures of lengths are those of the training part.
    """
    rows: list[list[TokenisedRow]] = []
    for part in tokenised.values():
        rows += part
    answers = _flatten(rows)
    preflight.judge(
        "prompt_round_trips",
        check_round_trip(answers, stop_ids=stop_ids, opening=opening),
        {
            "answers": len(answers),
            "tokenised_apart": sum(not answer.joined for answer in answers),
            "opens_thought": bool(opening),
        },
    )
    train = _flatten(tokenised["train"])
    violations = [
        *left,
        *check_lengths(answers, max_length=settings.max_length, too_long=settings.too_long),
        *check_limits(
            [answer for answer in answers if len(answer.ids) <= settings.max_length],
            positions=limits.positions,
            vocabulary=limits.vocabulary,
        ),
    ]
    figures = _measure_too_long(rows, too_long, settings) | limits._asdict()
    figures |= measure_lengths(train) if train else {}
    preflight.judge("rows_fit_max_length", violations, figures)
    if isinstance(settings, DpoSettings) and settings.is_kto:
        parts = {part: _flatten(each) for part, each in tokenised.items()}
        preflight.judge("pairs_differ", check_verdicts(parts, SUBJECT), _measure_verdicts(parts["train"], settings))
    elif answers and answers[0].side != "answer":
        pairs = [(chosen, rejected) for chosen, rejected in rows]
        preflight.judge("pairs_differ", check_pairs(pairs), {"pairs": len(pairs)})
    _judge_thinking(preflight, rows, settings.max_empty_thinking_share, opens=bool(opening))
    preflight.refuse_failed()


def _measure_verdicts(rows: Sequence[TokenisedRow], settings: DpoSettings) -> dict[str, object]:
    """Return the number of answers by verdict, the weights, and how many answers have both verdicts."""
    counts = count_verdicts(rows)
    weights = choose_weights(settings, counts)
    sides: dict[bytes, set[str]] = {}
    for row in rows:
        sides.setdefault(array("i", row.ids).tobytes(), set()).add(row.side)
    return {
        **counts,
        "desirable_weight": round(weights[0], 4),
        "undesirable_weight": round(weights[1], 4),
        "answers_of_both_verdicts": sum(len(found) > 1 for found in sides.values()),
    }


def _measure_too_long(
    rows: Sequence[list[TokenisedRow]], too_long: Sequence[TooLong], settings: TrainSettings
) -> dict[str, object]:
    """Return the counts of rows that were too long, and what they would lose if cut at max_length, as trainers do."""
    over = {answer.where: answer for answer in _flatten(rows) if len(answer.ids) > settings.max_length}
    total = len(rows) + sum(row.action == "dropped" for row in too_long)
    prompt_tokens = [row.prompt_tokens for row in too_long] + [len(answer.serving) for answer in over.values()]
    return {
        "max_length": settings.max_length,
        "too_long": settings.too_long,
        "rows": len(rows),
        "dropped": total - len(rows),
        "cut": sum(row.action == "cut" for row in too_long),
        "would_lose_their_stop": len(prompt_tokens),
        "would_lose_all_targets": sum(tokens >= settings.max_length for tokens in prompt_tokens),
        "too_long_share": round(len(prompt_tokens) / max(total, 1), 4),
    }


def _judge_thinking(preflight: Preflight, rows: Sequence[list[TokenisedRow]], allowed: float, *, opens: bool) -> None:
    """Judge the share of rows that teach a model to skip its reasoning.

    An instruction does so if its empty reasoning carries loss, and so does a desirable answer. A pair does so only if
    the chosen side has empty reasoning and the rejected side has some, because what both sides share cancels out.
    """
    empty = [row for row in rows if row[0].thought == "empty" and row[0].side != "undesirable"]
    teach = [row[0].where for row in empty if len(row) == 1 or row[1].thought == "full"]
    share = round(len(teach) / max(len(rows), 1), 4)
    thoughts = Counter(answer.thought for answer in _flatten(rows))
    preflight.judge(
        "thinking_is_kept",
        check_thinking(teach, share=share, allowed=allowed) if opens else [],
        {"thinking_model": opens, "teach_to_skip": len(teach), "share": share, "allowed": allowed, **thoughts},
    )


def _unpaired_tags(place: str, error: RowError) -> Violation:
    return violation(
        "FT-TRAIN-024",
        where=place,
        message=error.reason,
        field=error.path,
        found="unpaired tags",
        expected="one <think>…</think> at the start, or none",
    )


def _fit(rows: Mapping[str, list[Row]], tokenise_rows: Tokenise, settings: TrainSettings) -> dict[str, Fitted]:
    """Apply the policy `too_long` to each part."""
    return {
        part: fit(each, tokenise_rows, part=part, max_length=settings.max_length, policy=settings.too_long)
        for part, each in rows.items()
    }


def _check_left(rows: Mapping[str, list[Row]], fitted: Mapping[str, Fitted], asset: str) -> list[Violation]:
    before = {part: len(each) for part, each in rows.items()}
    after = {part: len(each.rows) for part, each in fitted.items()}
    return check_left(before, after, asset)


def _flatten(rows: Iterable[Sequence[TokenisedRow]]) -> list[TokenisedRow]:
    return list(itertools.chain.from_iterable(rows))


def _build_datasets(tokenised: Mapping[str, list[list[TokenisedRow]]]) -> dict[str, Any]:
    from datasets import Dataset

    return {part: Dataset(_table(rows)) for part, rows in tokenised.items()}


def _table(rows: Sequence[Sequence[TokenisedRow]]) -> pa.Table:
    """Return the rows in the columns that the trainer reads."""
    import pyarrow as pa

    if len(rows[0]) == 1:
        answers = [row[0] for row in rows]
        if answers[0].side in VERDICTS:
            return _verdict_table(answers)
        return pa.table({"input_ids": _column(a.ids for a in answers), "labels": _column(a.labels for a in answers)})
    return pa.table(
        {
            "prompt_ids": _column(chosen.serving for chosen, _ in rows),
            "chosen_ids": _column(chosen.trained for chosen, _ in rows),
            "rejected_ids": _column(rejected.trained for _, rejected in rows),
        }
    )


def _verdict_table(answers: Sequence[TokenisedRow]) -> pa.Table:
    """Return the rows of KTO, each with the mismatched answer of its KL term."""
    import pyarrow as pa

    partners = pair_mismatched(answers)
    return pa.table(
        {
            "prompt_ids": _column(a.ids[: a.start] for a in answers),
            "completion_ids": _column(a.trained for a in answers),
            "KL_completion_ids": _column(answers[partner].trained for partner in partners),
            "label": [a.side == VERDICTS[0] for a in answers],
        }
    )


def _column(lists: Iterable[Sequence[int]]) -> pa.ListArray:
    """Return lists of token ids as an Arrow column, without a Python object for each id."""
    import pyarrow as pa

    values, ends = array("i"), array("i", [0])
    for ids in lists:
        values.extend(ids)
        ends.append(len(values))
    flat = (pa.Array.from_buffers(pa.int32(), len(some), [None, pa.py_buffer(some)]) for some in (ends, values))
    return pa.ListArray.from_arrays(*flat)


def _digests(dataset: Any, names: Sequence[str]) -> list[bytes]:
    """Return a digest of each row's columns, sorted; packed sequences are split into their rows again."""
    packed = "seq_lengths" in dataset.column_names
    digests: list[bytes] = []
    for row in dataset:
        start = 0
        for length in row["seq_lengths"] if packed else [None]:
            parts = [row[name][start : start + length] if length else row[name] for name in names]
            digests.append(blake2b(repr(parts).encode(), digest_size=16).digest())
            start += length or 0
    return sorted(digests)
