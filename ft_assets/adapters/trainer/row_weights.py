"""Means in which every token or pair counts the same, whatever the micro-batch and the number of processes.

TRL and transformers take the mean of the means of batches, in which the rows of a small batch count more. Tokens are
those that carry loss.
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.rules.training import IGNORED
from resources import torchrun

if TYPE_CHECKING:
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
_BY_PAIR = ("rewards/", "logps/")


class Counts(NamedTuple):
    """Rows of a batch (DPO: pairs) and its tokens: all, and those of the chosen answers."""

    rows: int
    tokens: int
    chosen: int

    def of(self, figure: str, *, by_tokens: bool) -> int:
        """Return how much the batch's value of a figure counts; of the loss, its tokens if `by_tokens`."""
        if figure == "loss":
            return self.chosen if by_tokens else self.rows
        if figure.startswith(_BY_PAIR):
            return self.rows
        if figure == "logits/rejected":
            return self.tokens - self.chosen
        return self.tokens if figure == "entropy" else self.chosen


class ScoredBatch(NamedTuple):
    """A batch of an evaluation in one process: its counts and its means by figure, the loss among them."""

    counts: Counts
    means: dict[str, float]


def weigh_rows(trainer_class: type[Any]) -> type[Any]:
    """Return a subclass of a TRL trainer in whose steps and evaluations every token or pair counts the same."""

    class RowWeighingTrainer(trainer_class):
        loss_by_tokens = False
        """True if the loss is a mean over the tokens of a batch, and not over its rows."""
        scored: list[ScoredBatch] = []  # noqa: RUF012  replaced when an evaluation begins
        """The batches of the current evaluation that this process has scored."""
        own_rounds: int | None = None
        """Rounds of an evaluation in which every process has a batch of its own; later ones are the same in all. None:
        all rounds."""
        _step_weight = 0.0
        _batches = 0

        def is_shared(self, number: int) -> bool:
            """Return whether every process has the same batch in this round, from 0, of an evaluation."""
            return not self.model.training and self.own_rounds is not None and number >= self.own_rounds

        def get_batch_samples(self, *args: object, **kwargs: object) -> tuple[list[Batch], Tensor | int | None]:
            batches, items = super().get_batch_samples(*args, **kwargs)
            if items is None:  # SFT's loss is divided by the tokens of the step already
                weights = torchrun.gather(sum(map(self._weigh, batches)))
                self._step_weight, self._batches = sum(weights) / len(weights), len(batches)
            return batches, items

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            if torchrun.world_size() == 1:
                return super().get_eval_dataloader(eval_dataset)
            from accelerate.data_loader import prepare_data_loader
            from torch.utils.data import DataLoader

            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            most = self.args.per_device_eval_batch_size
            batches, self.own_rounds = share_out(len(rows), most, torchrun.rank(), torchrun.world_size())
            loader = DataLoader(
                self._remove_unused_columns(rows, description="evaluation"),
                batch_sampler=batches,  # pyright: ignore[reportArgumentType] -- any iterable of lists of numbers
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            )
            return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

        def evaluation_loop(self, *args: object, **kwargs: object) -> Any:
            self.scored = []
            output = super().evaluation_loop(*args, **kwargs)
            means = average(torchrun.gather(self.scored), by_tokens=self.loss_by_tokens, own_rounds=self.own_rounds)
            output.metrics["eval_loss"] = means.pop("loss")
            for name, mean in means.items():
                self._metrics["eval"][name] = [mean]
            return output

        def prediction_step(self, model: object, inputs: Batch, *args: object, **kwargs: object) -> Any:
            loss, *others = super().prediction_step(model, inputs, *args, **kwargs)
            figures = self._metrics["eval"]
            # one value a batch; KTO's are already one value a row, or the same in every batch
            means = {name: values[-1] for name, values in figures.items() if "label" not in inputs}
            means.pop("num_tokens", None)
            self.scored.append(ScoredBatch(count(inputs), {**means, "loss": float(loss)}))
            return (loss, *others)

        def compute_loss(self, model: object, inputs: Batch, *args: object, **kwargs: object) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            # transformers divides by the number of micro-batches, in which the rows of a small one would weigh more
            if self._step_weight and self.model.training:
                loss = loss * (self._weigh(inputs) * self._batches / self._step_weight)
            return loss

        def _weigh(self, batch: Batch) -> int:
            return count(batch).of("loss", by_tokens=self.loss_by_tokens)

    return RowWeighingTrainer


def count(batch: Batch) -> Counts:
    """Return the counts of a batch of SFT, DPO or KTO. The first token of a row is never predicted."""
    if "labels" in batch:
        tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
        return Counts(len(batch["labels"]), tokens, tokens)
    if "label" in batch:
        tokens = int(batch["completion_mask"][:, 1:].sum())
        return Counts(len(batch["label"]), tokens, tokens)
    chosen, rejected = (int(mask[:, 1:].sum()) for mask in batch["completion_mask"].chunk(2))
    return Counts(len(batch["input_ids"]) // 2, chosen + rejected, chosen)


def average(batches: Sequence[Sequence[ScoredBatch]], *, by_tokens: bool, own_rounds: int | None) -> dict[str, float]:
    """Return the means over all batches of all processes, by figure.

    `batches`: of each process, one a round. After `own_rounds` (None: never) every process scored the same batch, which
    counts once.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    weights: defaultdict[str, float] = defaultdict(float)
    for own in batches:
        for number, scored in enumerate(own):
            copies = 1 if own_rounds is None or number < own_rounds else len(batches)
            for name, mean in scored.means.items():
                if weight := scored.counts.of(name, by_tokens=by_tokens) / copies:
                    sums[name] += weight * mean
                    weights[name] += weight
    return {name: total / weights[name] for name, total in sums.items()}


def share_out(rows: int, most: int, rank: int, processes: int) -> tuple[list[range], int]:
    """Return the batches of one process with up to `most` rows each, and how many of them are its own.

    In every round the processes have batches of one size, because TRL gathers figures of rows. The rows that cannot be
    shared evenly come last, and every process scores all of them: accelerate would fill up with other rows, which then
    count twice.
    """
    even = rows - rows % processes
    own = list(_own_batches(even, most, rank, processes))
    return own + [range(start, min(start + most, rows)) for start in range(even, rows, most)], len(own)


def _own_batches(rows: int, most: int, rank: int, processes: int) -> Iterator[range]:
    start = 0
    while start < rows:
        size = min(most, (rows - start) // processes)
        yield range(start + rank * size, start + (rank + 1) * size)
        start += size * processes
