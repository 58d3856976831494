"""Fine-tunes the encoder: contrast of the right passage with those of the batch and with hard negatives.

With a lexical head the loss is that of BGE-M3 (arXiv 2402.03216) without its multi-vector arm: dense, lexical and fused
scores, with self-distillation. `main` is the worker: load, train, publish the best epoch.
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random
from statistics import fmean

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from expectations.rules.bootstrap import Interval, paired_bootstrap
from expectations.violations import Refused, violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.figures import CHANGE, figures_of_losses
from ft_assets.embedding.jobs import EmbeddingJob, EpochFigures, ModelSummary
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import NO_QUESTIONS, Passages, Questions, read_passages, read_questions
from ft_assets.embedding.pretrain import ask_sentences
from ft_assets.embedding.ranked import LEARNED_WEIGHT, Ranked, RankedCorpus
from ft_assets.embedding.teach import Score, Teacher, distilled_loss
from ft_assets.embedding.train_factors import learn_factors
from resources import accelerator, models, torchrun
from resources.accelerator import Sampler
from resources.artifacts import Artifact
from resources.cross_encoder import load_cross_encoder
from resources.launcher import Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics
from resources.training_run import link_final_model, lock_run, unlink_final_model

_MAX_GRAD_NORM = 1.0
_WEIGHT_DECAY = 0.01
_CPU_TEXTS = 8  # texts of a batch that go through the model together on a CPU


def main(job: Job) -> Artifact:
    """Train on the training questions of `retrieval_splits` and publish the best epoch as `embedding_model`.

    Raises Refused (FT-EMB-026) in one of several processes: wrong passages are not gathered from the others.
    """
    if torchrun.world_size() > 1:
        processes = torchrun.world_size()
        several = violation("FT-EMB-026", where="embedding_model", field="processes", found=processes, expected=1)
        raise Refused("training the encoder", [several])
    with lock_run(job.folder(), "training the encoder"):
        return _train_and_publish(job)


def _train_and_publish(job: Job) -> Artifact:
    # it keeps no checkpoint: what an earlier run has logged is no part of this one
    (job.folder() / METRICS_FILE).unlink(missing_ok=True)
    unlink_final_model(job.folder())
    params = job.params_as(EmbeddingJob)
    settings = params.embedding_settings()
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    base = models.locate(settings.base_model, Path(params.compute.state_dir), settings.revision)
    encoder = HybridEncoder.from_base(base, settings, job.recipe.settings["base_version"], compute)
    passages, splits = read_passages(job.input("passages")), job.input("retrieval_splits")
    questions = read_questions(splits, "train", passages)
    before = copy_parameters(encoder)
    metrics = Metrics(job.folder())
    trained = EncoderTraining()
    validation = read_questions(splits, "validation", passages)
    if settings.epochs:
        score = load_teacher(settings, questions, Path(params.compute.state_dir), compute)
        with Sampler() as sampler:
            trained = train(
                encoder, questions, passages, settings, metrics, validation=validation, score=score, sampler=sampler
            )
    factors = msgspec.UNSET
    if settings.bm25_factors:
        factors = learn_factors(encoder, questions, passages, settings, validation=validation)
    losses, changed = trained.losses, changed_share(encoder, before)
    metrics.log("weights", len(losses), len(losses), **{CHANGE: changed})
    metrics.close()
    with job.artifacts().stage(job.recipe) as staging:
        contract = encoder.save(staging.path)
        if (job.folder() / METRICS_FILE).is_file():
            shutil.copyfile(job.folder() / METRICS_FILE, staging.path / METRICS_FILE)
        best, epochs = trained.best, trained.epochs
        summary = ModelSummary(
            questions=len(questions.ids),
            best_epoch=best,
            best_ndcg_at_10=None if best is None else fmean(epochs[best].fused),
            base_ndcg_at_10=None if best is None else fmean(epochs[0].fused),
            gain=trained.gain,
            epochs=[
                EpochFigures(epoch=n, fused_ndcg_at_10=fmean(epoch.fused), dense_ndcg_at_10=fmean(epoch.dense))
                for n, epoch in enumerate(epochs)
            ],
            factors=factors,
            unresolved=len(questions.unresolved),
            judged_negatives=sum(map(len, questions.negatives.values())),
            steps=len(losses),
            non_finite_losses=sum(not math.isfinite(loss) for loss in losses),
            parameters_changed=changed,
            dimension=contract.dense.dimensions[0],
            device=compute.device,
            dtype=compute.dtype,
            **figures_of_losses(losses),
        )
        published = staging.publish(summary)
    link_final_model(job.folder(), published.path)
    return published


def load_teacher(
    settings: EmbeddingSettings, questions: Questions, state: Path, compute: accelerator.Compute
) -> Score | None:
    """Return the scores of `settings.teacher`, if there is one. Raises Refused (FT-EMB-025) if it can teach nothing."""
    if settings.teacher is None:
        return None
    if settings.hard_negatives == 0 and not questions.negatives:
        field = "training questions with a passage that is judged wrong"
        nothing = violation("FT-EMB-025", where="embedding_model", field=field, found=0, expected="at least 1")
        raise Refused("training the embedding model", [nothing])
    folder = models.locate(settings.teacher.model, state, settings.teacher.revision)
    return load_cross_encoder(folder, settings.teacher.max_tokens, compute).score


@dataclass
class EncoderTraining:
    """The course of a training: the loss of each step, and each epoch's figures on the validation questions."""

    losses: list[float] = field(default_factory=list[float])
    epochs: list[Ranked] = field(default_factory=list[Ranked])
    """The base model first; empty without validation questions."""

    @property
    def best(self) -> int | None:
        """The epoch to keep: the one whose fused ranking is best, then the dense one; 0, the base model, only where it
        is certainly better: a few questions are no reason to throw a training away."""
        gain = self.gain
        if gain is None:
            return None
        return 0 if gain.is_loss(0.0) else self._top

    @property
    def gain(self) -> Interval | None:
        """The best epoch minus the base model, fused and paired by question; None without two to compare."""
        return paired_bootstrap(self.epochs[self._top].fused, self.epochs[0].fused) if len(self.epochs) > 1 else None

    @property
    def _top(self) -> int:
        return max(range(1, len(self.epochs)), key=lambda n: (fmean(self.epochs[n].fused), fmean(self.epochs[n].dense)))


def train(
    encoder: HybridEncoder,
    questions: Questions,
    passages: Passages,
    settings: EmbeddingSettings,
    metrics: Metrics,
    *,
    validation: Questions = NO_QUESTIONS,
    score: Score | None = None,
    sampler: Sampler | None = None,
) -> EncoderTraining:
    """Fine-tune `encoder` in place, and leave it with the weights of its best epoch on the validation questions.

    `score`: the teacher of `settings.teacher`. `sampler`: started already; its figures are logged with each step.
    Raises Refused: FT-EMB-010 nothing to train on, FT-EMB-011 the loss is not finite.
    """
    torch.manual_seed(settings.seed)
    random = Random(settings.seed)  # noqa: S311 - order of training examples, not a secret
    planned = _plan_batches(questions, settings, random)
    total = sum(map(len, planned))
    corpus = RankedCorpus(passages, [questions, validation])
    if settings.lora:
        encoder.add_adapter(settings.lora)
    trainer = _Trainer(encoder, questions, corpus, settings, total=total, random=random)
    if score:
        trainer.teacher = Teacher(score, questions, corpus.content_of)
    between = _BetweenEpochs(trainer, validation, metrics)
    if settings.pretrain == "ict":
        between.look(ahead=False)  # the base model; the next look is at the pre-trained one
        _pretrain(encoder, passages, settings, metrics)
    for batches in planned:
        if not between.look(ahead=True):
            break
        for batch in batches:
            figures = _timed_step(trainer, batch, sampler)
            metrics.log("train", len(trainer.losses), total, **figures)
    else:
        between.look(ahead=False)
    between.restore_best()
    if settings.lora:
        encoder.merge_adapter()
    encoder.eval()
    return EncoderTraining(trainer.losses, between.trained.epochs)


def _timed_step(trainer: _Trainer, batch: Sequence[int], sampler: Sampler | None) -> dict[str, float]:
    """Make a step; return its figures with its speed, and the memory since the step before."""
    started, before = time.monotonic(), trainer.tokens
    figures = trainer.step(batch)
    speed = (trainer.tokens - before) / max(time.monotonic() - started, 1e-6)
    return {**figures, "tokens_per_second": round(speed, 1), **(sampler.take() if sampler else {})}


def _pretrain(encoder: HybridEncoder, passages: Passages, settings: EmbeddingSettings, metrics: Metrics) -> None:
    """Train `encoder` in place on sentences of the passages, once or for `pretrain_steps`.

    Raises Refused as `train` does.
    """
    random = Random(settings.seed)  # noqa: S311 - order of training examples, not a secret
    asked, rest = ask_sentences(passages, settings.pretrain_steps * settings.batch_size, random)
    once = settings.model_copy(update={"epochs": 1.0, "max_steps": settings.pretrain_steps})
    planned = _plan_batches(asked, once, random)
    total = sum(map(len, planned))
    trainer = _Trainer(encoder, asked, RankedCorpus(rest, [asked]), settings, total=total, random=random)
    encoder.train()
    for batch in chain.from_iterable(planned):
        figures = trainer.step(batch)
        metrics.log("pretrain", len(trainer.losses), total, pretrain_loss=figures["loss"])


class _Trainer:
    """Makes the steps of a training."""

    def __init__(
        self,
        encoder: HybridEncoder,
        questions: Questions,
        corpus: RankedCorpus,
        settings: EmbeddingSettings,
        *,
        total: int,
        random: Random,
    ) -> None:
        self.encoder, self.questions, self.corpus, self.settings = encoder, questions, corpus, settings
        self.total = total
        self.losses: list[float] = []
        self.tokens = 0
        """Tokens of questions and passages that went through the encoder."""
        self.negatives: list[list[int]] = []
        """Rows of hard negatives for each question; empty where none are mined."""
        self.teacher: Teacher | None = None
        self._random = random
        self._answers = corpus.answers(questions)
        self._query_ids = encoder.tokenize(questions.texts, "query")
        self._parameters = _trainable(encoder)
        self._optimizer = _build_optimizer(encoder, settings)
        self._schedule = _build_schedule(self._optimizer, settings, total)
        self._scaler = torch.amp.GradScaler(encoder.compute.device, enabled=encoder.compute.dtype == "float16")

    def step(self, batch: Sequence[int]) -> dict[str, float]:
        """Change the parameters by one batch of questions; return the figures of the step."""
        encoder, at_once = self.encoder, self.settings.micro_batch_size
        drawn, owners = self._draw(batch)
        twins = _mask_twins(batch, drawn, self.questions, self.corpus).to(encoder.compute.device)
        asked = [self._query_ids[row] for row in batch]
        query_tokens, queries, query_weights = forward_in_parts(encoder, asked, at_once)
        rows = encoder.tokenize([self.corpus.content_of(name) for name in drawn], "passage")
        self.tokens += sum(map(len, asked)) + sum(map(len, rows))
        tokens, passages, weights = forward_in_parts(encoder, rows, at_once)
        lexical = batch_lexical_scores(query_tokens, query_weights, tokens, weights) if encoder.head else None
        smaller = encoder.contract.dense.dimensions[1:]
        loss, parts = hybrid_loss(queries, passages, lexical, twins, self.settings, smaller=smaller)
        if self.teacher and self.settings.teacher:
            taught = self.teacher.scores([(batch[owner], name) for owner, name in zip(owners, drawn, strict=True)])
            distilled = distilled_loss(queries @ passages.T, owners, taught, self.settings.temperature)
            loss = loss + self.settings.teacher.weight * distilled
            parts["teacher"] = float(distilled.detach())
        self.losses.append(float(loss.detach()))
        _require_finite(self.losses[-1], len(self.losses))
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, _MAX_GRAD_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        rates = {"learning_rate": float(self._schedule.get_last_lr()[0]), "gradient_norm": float(norm)}
        return {"loss": self.losses[-1], **parts, **rates}

    def _draw(self, batch: Sequence[int]) -> tuple[list[str], list[int]]:
        """Return one right passage for each query of the batch, then wrong ones: judged ones and mined ones.

        With each passage comes the place in the batch of the query that it was drawn for.
        """
        drawn = [self._random.choice(self._answers[row]) for row in batch]
        owners = list(range(len(batch)))
        judged, mined = self.settings.judged_negatives, self.settings.hard_negatives
        for place, row in enumerate(batch if self.questions.negatives else ()):
            found = _draw_judged([row], self.questions, judged, self._random)
            drawn, owners = drawn + found, owners + [place] * len(found)
        for place, row in enumerate(batch if self.negatives else ()):
            found = _draw_negatives([row], self.negatives, mined, self.corpus.passages, self._random)
            drawn, owners = drawn + found, owners + [place] * len(found)
        return drawn, owners


class _BetweenEpochs:
    """Looks at a training between its epochs: ranks the validation questions, keeps the best weights, and mines."""

    def __init__(self, trainer: _Trainer, validation: Questions, metrics: Metrics) -> None:
        self._trainer, self._validation, self._metrics = trainer, validation, metrics
        self.trained = EncoderTraining()
        self._best = _copy(_trainable(trainer.encoder))

    def look(self, *, ahead: bool) -> bool:
        """Measure the epoch that has ended, mine for the next one, and return whether there is to be one.

        `ahead`: another epoch is planned.
        """
        trainer, settings = self._trainer, self._trainer.settings
        if not self._validation.ids and not (ahead and settings.hard_negatives):
            return ahead
        trainer.encoder.eval()
        trainer.corpus.encode(trainer.encoder)
        if self._validation.ids:
            ahead = self._measure() and ahead
        if ahead and settings.hard_negatives:
            trainer.negatives = trainer.corpus.mine(trainer.encoder, trainer.questions)
            self._log("mine", hard_negatives=sum(map(len, trainer.negatives)))
        trainer.encoder.train()
        return ahead

    def restore_best(self) -> None:
        """Give the encoder the weights of its best epoch; without validation questions, leave it as it is."""
        if self.trained.epochs:
            for value, kept in zip(_trainable(self._trainer.encoder), self._best, strict=True):
                value.data.copy_(kept)

    def _measure(self) -> bool:
        """Rank the validation questions; return whether an epoch of the last ones was the best so far."""
        trainer, epoch = self._trainer, len(self.trained.epochs)
        figures = trainer.corpus.measure(trainer.encoder, self._validation)
        self.trained.epochs.append(figures)
        self._log("validate", dense_ndcg_at_10=fmean(figures.dense), fused_ndcg_at_10=fmean(figures.fused))
        best = self.trained.best or 0
        if best == epoch:
            self._best = _copy(_trainable(trainer.encoder))
        pretrained = 0 if trainer.settings.pretrain == "none" else 1  # it ends before the epochs that patience counts
        return epoch - max(best, pretrained) < trainer.settings.patience

    def _log(self, phase: str, **figures: float) -> None:
        self._metrics.log(phase, len(self._trainer.losses), self._trainer.total, **figures)


def _plan_batches(questions: Questions, settings: EmbeddingSettings, random: Random) -> list[list[list[int]]]:
    """Return for each epoch the query rows of its steps. Raises Refused (FT-EMB-010) if there is no step."""
    epochs: list[list[list[int]]] = []
    left = sys.maxsize if settings.max_steps is None else settings.max_steps
    for epoch in range(math.ceil(settings.epochs)):
        share = min(settings.epochs - epoch, 1.0)
        batches = list(_batches_of_epoch(questions, settings.batch_size, random, share))[:left]
        left -= len(batches)
        epochs += [batches] if batches else []
    if not epochs:
        count = len(questions.ids)
        too_few = violation("FT-EMB-010", where="embedding_model", field="questions", found=count, expected=2)
        raise Refused("training the embedding model", [too_few])
    return epochs


def _build_optimizer(encoder: HybridEncoder, settings: EmbeddingSettings) -> torch.optim.Optimizer:
    head = list(encoder.head.parameters()) if encoder.head else []
    backbone = _trainable(encoder)[: -len(head) or None]
    groups = [{"params": backbone, "lr": settings.learning_rate}]
    if head:
        groups.append({"params": head, "lr": settings.head_learning_rate})
    return torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)


def _build_schedule(
    optimizer: torch.optim.Optimizer, settings: EmbeddingSettings, total: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a linear warm-up followed by a linear decay to zero. `warmup_steps` below 1 is a share of all steps."""
    warmup = settings.warmup_steps * total if settings.warmup_steps < 1 else settings.warmup_steps
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(warmup, 1), (total - step) / max(total - warmup, 1))
    )


def _require_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        diverged = violation(
            "FT-EMB-011",
            where="embedding_model",
            message=f"the loss of step {step} is not finite.",
            field="loss",
            found=loss,
            expected="a number",
            fix="lower embedding.learning_rate",
        )
        raise Refused("training the embedding model", [diverged])


def _draw_negatives(
    batch: Sequence[int], negatives: Sequence[Sequence[int]], count: int, passages: Passages, random: Random
) -> list[str]:
    """Return ids of `count` hard negatives for each query of the batch (fewer if it has fewer)."""
    ids: list[str] = []
    for query in batch:
        rows = random.sample(negatives[query], min(count, len(negatives[query])))
        ids += [passages.ids[row] for row in rows]
    return ids


def _draw_judged(batch: Sequence[int], questions: Questions, count: int, random: Random) -> list[str]:
    """Return ids of up to `count` passages for each query of the batch that were judged not to answer it."""
    ids: list[str] = []
    for query in batch:
        judged = questions.negatives.get(questions.ids[query], [])
        ids += random.sample(judged, min(count, len(judged)))
    return ids


def forward_in_parts(
    encoder: HybridEncoder, rows: Sequence[Sequence[int]], at_once: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids [B, T], dense vectors [B, D] and token weights [B, T] of tokenised texts, in their order.

    `at_once`: texts whose activations are in memory together; the backward pass computes them again, as GradCache does
    (arXiv 2101.06983). On a CPU, texts of similar length go through the model together in any case, because there
    padding costs as much as text.
    """
    size = at_once or (_CPU_TEXTS if encoder.compute.device == "cpu" else len(rows))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    width = len(rows[order[-1]])
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with encoder.autocast():
        for start in range(0, len(order), size):
            tokens, mask = encoder.pad([rows[row] for row in order[start : start + size]])
            if at_once:
                vectors, weights = checkpoint(encoder.forward, tokens, mask, use_reentrant=False)
            else:
                vectors, weights = encoder.forward(tokens, mask)
            tail = (0, width - tokens.shape[1])
            parts.append((nn.functional.pad(tokens, tail), vectors, nn.functional.pad(weights, tail)))
    in_order = torch.tensor(order, device=encoder.compute.device).argsort()
    tokens, vectors, weights = (torch.cat(columns)[in_order] for columns in zip(*parts, strict=True))
    return tokens, vectors, weights


def hybrid_loss(
    queries: Tensor,
    passages: Tensor,
    lexical: Tensor | None,
    twins: Tensor,
    settings: EmbeddingSettings,
    *,
    smaller: Sequence[int] = (),
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its parts: contrast of dense, lexical and fused scores, own passage against all others.

    `queries` [B, D] and `passages` [P, D] are L2-normalised. Passage i is the own passage of query i; passages from B
    on are hard negatives. `lexical` [B, P] holds inner products; without a lexical head the dense loss is all.
    `twins` [B, P] marks other passages that answer the query too, and so are no negatives. `smaller` are Matryoshka
    dimensions: the dense loss is the mean over them and the full dimension.
    """
    labels = torch.arange(len(queries), device=queries.device)

    def logits(scores: Tensor, temperature: float) -> Tensor:
        return (scores / temperature).masked_fill(twins, float("-inf"))

    dense = queries @ passages.T
    truncated = [
        nn.functional.normalize(queries[:, :width], dim=-1) @ nn.functional.normalize(passages[:, :width], dim=-1).T
        for width in smaller
    ]
    dense_arms = [logits(scores, settings.temperature) for scores in (dense, *truncated)]
    dense_loss = torch.stack([nn.functional.cross_entropy(arm, labels) for arm in dense_arms]).mean()
    if lexical is None:
        return dense_loss, {"dense": float(dense_loss.detach())}
    sparse_logits = logits(lexical, settings.sparse_temperature)
    fused_logits = logits(dense + LEARNED_WEIGHT * lexical, settings.temperature)
    sparse_loss = nn.functional.cross_entropy(sparse_logits, labels)
    fused_loss = nn.functional.cross_entropy(fused_logits, labels)
    loss = dense_loss + settings.sparse_loss_weight * sparse_loss + fused_loss
    arms = {"dense": dense_loss, "sparse": sparse_loss, "fused": fused_loss}
    parts = {name: float(value.detach()) for name, value in arms.items()}
    if settings.self_distill:
        teacher = fused_logits.detach().softmax(-1)
        distilled = torch.stack([_divergence(teacher, arm) for arm in dense_arms]).mean()
        distilled = distilled + settings.sparse_loss_weight * _divergence(teacher, sparse_logits)
        parts["distill"] = float(distilled.detach())
        loss = (loss + distilled) / 2
    return loss, parts


def batch_lexical_scores(query_ids: Tensor, query_weights: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return inner products [B, P] of lexical vectors, over the tokens of this batch, not the whole vocabulary."""
    tokens, positions = torch.unique(torch.cat([query_ids.flatten(), ids.flatten()]), return_inverse=True)
    query_positions, passage_positions = positions.split([query_ids.numel(), ids.numel()])

    def widen(columns: Tensor, values: Tensor) -> Tensor:
        empty = values.new_zeros(len(values), len(tokens))
        return empty.scatter_reduce(1, columns.view_as(values), values, reduce="amax")

    return widen(query_positions, query_weights) @ widen(passage_positions, weights).T


def _trainable(encoder: HybridEncoder) -> list[nn.Parameter]:
    """Return the parameters that are trained, those of the lexical head last."""
    return [value for _, value in encoder.named_parameters() if value.requires_grad]


def _copy(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [value.detach().cpu().clone() for value in parameters]


def copy_parameters(encoder: HybridEncoder) -> dict[str, Tensor]:
    """Return a copy of every parameter tensor."""
    return {name: value.detach().cpu().clone() for name, value in encoder.named_parameters()}


def changed_share(encoder: HybridEncoder, before: dict[str, Tensor]) -> float:
    """Return the share of parameter tensors that differ from those in `before`."""
    same = [torch.equal(value.detach().cpu(), before[name]) for name, value in encoder.named_parameters()]
    return 1 - sum(same) / len(same)


def _batches_of_epoch(questions: Questions, size: int, random: Random, share: float) -> Iterator[list[int]]:
    """Yield batches of query rows in random order. No two queries of a batch share a passage or a text.

    A query that does not fit into a batch waits for the next one. Batches of one query have no negatives and are left
    out. `share` below 1 gives a part of an epoch.
    """
    waiting = deque(random.sample(range(len(questions.ids)), round(len(questions.ids) * share)))
    while waiting:
        batch: list[int] = []
        taken: set[str] = set()
        later: list[int] = []
        while waiting and len(batch) < size:
            row = waiting.popleft()
            keys = {*questions.qrels[row], f"query {questions.texts[row]}"}
            if taken.isdisjoint(keys):
                batch.append(row)
                taken |= keys
            else:
                later.append(row)
        waiting.extendleft(reversed(later))
        if len(batch) > 1:
            yield batch


def _mask_twins(batch: Sequence[int], drawn: Sequence[str], questions: Questions, corpus: RankedCorpus) -> Tensor:
    """Return [B, P] bool: passage j answers query i too (by its qrels or by equal content), i ≠ j."""
    passages, row_of = corpus.passages, corpus.row_of
    hashes = [passages.hashes[row_of[passage]] for passage in drawn]
    answers = [{passages.hashes[row_of[passage]] for passage in questions.qrels[row]} for row in batch]
    mask = torch.tensor([[sha in right for sha in hashes] for right in answers])
    return mask & ~torch.eye(len(batch), len(drawn), dtype=torch.bool)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher ‖ student), the mean over queries. Twins have probability 0 in both and count 0."""
    log_student = student.log_softmax(-1).masked_fill(teacher == 0, 0.0)
    return (torch.xlogy(teacher, teacher) - teacher * log_student).sum(-1).mean()


if __name__ == "__main__":
    run_worker(main)
