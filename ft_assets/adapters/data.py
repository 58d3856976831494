"""The rows a training gets: tokenised, judged by the gates, and as the data sets of the trainer."""

# datasets, tokenizers and trl are untyped here
# pyright: basic
from __future__ import annotations

from typing import Any

from expectations.contracts.adapter import RagPrompt
from expectations.training import check_counts, check_pairs, check_rows
from ft_assets.adapters.refusals import refuse, refuse_if
from ft_assets.adapters.tokenise import pair_messages, read_rows, tokenise_pairs, tokenise_rows
from resources.artifacts import Artifact


class TrainingData:
    """Both parts of the split, tokenised, gated, and as the data sets that the trainer gets."""

    def __init__(
        self,
        splits: Artifact,
        tokenizer: Any,
        *,
        prompt: RagPrompt,
        thinking: str,
        max_length: int,
        stop_ids: list[int],
    ) -> None:
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        rows = {part: read_rows(splits, part) for part in ("train", "validation")}
        refuse_if(
            f"training on {splits.asset}", check_counts(len(rows["train"]), len(rows["validation"]), splits.asset)
        )
        if not tokenizer.chat_template:
            refuse("FT-TRAIN-009", "the tokenizer has no chat template.", field="chat_template", found=None,
                    expected="a template", mend="choose an instruction-tuned base model")  # fmt: skip
        if splits.asset == "instruction_splits":
            made = {part: tokenise_rows(tokenizer, found, prompt, thinking) for part, found in rows.items()}
            broken = [v for part in made.values() for v in check_rows(part, max_length=max_length, stop_ids=stop_ids)]
            self.datasets = {
                part: Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in found])
                for part, found in made.items()
            }
            self._expected = [row.ids for row in made["train"]]
            self.supervised_tokens = sum(label >= 0 for row in made["train"] for label in row.labels)
        else:
            pairs = {part: tokenise_pairs(tokenizer, found, prompt) for part, found in rows.items()}
            broken = [v for part in pairs.values() for v in check_pairs(part, max_length=max_length, stop_ids=stop_ids)]
            self.datasets = {
                part: Dataset.from_list([pair_messages(row, prompt) for row in found]) for part, found in rows.items()
            }
            self._expected = [pair.ids_chosen for pair in pairs["train"]]
            self.supervised_tokens = sum(
                len(ids) - len(pair.serving) for pair in pairs["train"] for ids in (pair.ids_chosen, pair.ids_rejected)
            )
        refuse_if(f"training on {splits.asset}", broken)
        self.train, self.validation = rows["train"], rows["validation"]

    def check_against(self, trainer: Any) -> None:
        """TRL drops and cuts rows silently: what it prepared must be what the gates saw."""
        prepared = trainer.train_dataset
        if "input_ids" in prepared.column_names:
            found = [list(ids) for ids in prepared["input_ids"]]
        else:
            found = [[*p, *c] for p, c in zip(prepared["prompt_ids"], prepared["chosen_ids"], strict=True)]
        if found != self._expected:
            refuse("FT-TRAIN-007", "the trainer prepared other rows than the gates judged.", field="token ids",
                    found=f"{len(found)} rows", expected=f"{len(self._expected)} rows",
                    mend="report this: TRL's preparation changed")  # fmt: skip
