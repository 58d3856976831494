"""Fine-tunes both heads at once: contrast within the batch of dense, lexical and fused scores, with self-distillation.

The loss is that of BGE-M3 (arXiv 2402.03216) without its multi-vector arm. `main` is the worker: load, train, publish.
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from expectations.violations import Refused, violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.jobs import EmbeddingJob, ModelSummary
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.negatives import mine_negatives
from ft_assets.embedding.pairs import Passages, Questions, read_passages, read_questions
from resources import accelerator, models
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics

# Weight of the lexical score next to the dense one (1.0): BGE-M3's, and the default of retrieval.sparse_weight.
FUSED_SPARSE_WEIGHT = 0.3
_MAX_GRAD_NORM = 1.0
_WEIGHT_DECAY = 0.01
_CPU_TEXTS = 8  # texts of a batch that go through the model together on a CPU


def main(job: Job) -> Artifact:
    """Train on the training questions of `retrieval_splits` and publish `embedding_model`."""
    params = job.params_as(EmbeddingJob)
    settings = params.embedding_settings()
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    base = models.locate(settings.base_model, Path(params.compute.state_dir), settings.revision)
    encoder = HybridEncoder.from_base(base, settings, job.recipe.settings["base_version"], compute)
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), "train", passages)
    before = copy_parameters(encoder)
    metrics = Metrics(job.folder())
    losses = train(encoder, questions, passages, settings, metrics) if settings.epochs else []
    metrics.close()
    tenth = max(len(losses) // 10, 1)
    with job.artifacts().stage(job.recipe) as staging:
        contract = encoder.save(staging.path)
        if (job.folder() / METRICS_FILE).is_file():
            shutil.copyfile(job.folder() / METRICS_FILE, staging.path / METRICS_FILE)
        summary = ModelSummary(
            questions=len(questions.ids),
            unresolved=len(questions.unresolved),
            judged_negatives=sum(map(len, questions.negatives.values())),
            steps=len(losses),
            loss_first=_mean(losses[:tenth]),
            loss_last=_mean(losses[-tenth:]),
            non_finite_losses=sum(not math.isfinite(loss) for loss in losses),
            parameters_changed=changed_share(encoder, before),
            dimension=contract.dense.dimensions[0],
            device=compute.device,
            dtype=compute.dtype,
        )
        return staging.publish(summary)


def train(
    encoder: HybridEncoder, questions: Questions, passages: Passages, settings: EmbeddingSettings, metrics: Metrics
) -> list[float]:
    """Fine-tune `encoder` in place and return the loss of each step.

    Raises Refused: FT-EMB-010 nothing to train on, FT-EMB-011 the loss is not finite.
    """
    random = Random(settings.seed)  # noqa: S311 - order of training examples, not a secret
    torch.manual_seed(settings.seed)
    batches = _plan_batches(questions, settings, random)
    query_ids = encoder.tokenize(questions.texts, "query")
    passage_ids = encoder.tokenize(passages.contents, "passage")
    row_of = {passage: row for row, passage in enumerate(passages.ids)}
    parameters = [*encoder.backbone.parameters(), *encoder.head.parameters()]
    optimizer = _build_optimizer(encoder, settings)
    schedule = _build_schedule(optimizer, settings, len(batches))
    scaler = torch.amp.GradScaler(encoder.compute.device, enabled=encoder.compute.dtype == "float16")
    losses: list[float] = []
    negatives: list[list[int]] = []
    mined_in = 0  # none in the first epoch: the rankings of an untrained model give no useful negatives
    encoder.train()
    for step, (epoch, batch) in enumerate(batches, 1):
        if settings.hard_negatives and epoch > mined_in:
            negatives, mined_in = _mine(encoder, questions, passages), epoch
            metrics.log("mine", step, len(batches), hard_negatives=sum(map(len, negatives)))
        drawn = [random.choice(list(questions.qrels[row])) for row in batch]
        if questions.negatives:
            drawn += _draw_judged(batch, questions, settings.judged_negatives, random)
        if negatives:
            drawn += _draw_negatives(batch, negatives, settings.hard_negatives, passages, random)
        twins = _mask_twins(batch, drawn, questions, passages, row_of).to(encoder.compute.device)
        query_tokens, query_vectors, query_weights = forward_in_parts(encoder, [query_ids[row] for row in batch])
        tokens, passage_vectors, weights = forward_in_parts(encoder, [passage_ids[row_of[name]] for name in drawn])
        lexical = batch_lexical_scores(query_tokens, query_weights, tokens, weights)
        smaller = encoder.contract.dense.dimensions[1:]
        loss, parts = hybrid_loss(query_vectors, passage_vectors, lexical, twins, settings, smaller=smaller)
        losses.append(float(loss.detach()))
        _require_finite(losses[-1], step)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, _MAX_GRAD_NORM)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        rates = {"learning_rate": float(schedule.get_last_lr()[0]), "gradient_norm": float(norm)}
        metrics.log("train", step, len(batches), loss=losses[-1], **parts, **rates)
    encoder.eval()
    return losses


def _plan_batches(questions: Questions, settings: EmbeddingSettings, random: Random) -> list[tuple[int, list[int]]]:
    """Return (epoch, query rows) of each step. Raises Refused (FT-EMB-010) if there is no step."""
    batches: list[tuple[int, list[int]]] = []
    for epoch in range(math.ceil(settings.epochs)):
        share = min(settings.epochs - epoch, 1.0)
        batches += [(epoch, rows) for rows in _batches_of_epoch(questions, settings.batch_size, random, share)]
    batches = batches[: settings.max_steps]
    if not batches:
        count = len(questions.ids)
        too_few = violation("FT-EMB-010", where="embedding_model", field="questions", found=count, expected=2)
        raise Refused("training the embedding model", [too_few])
    return batches


def _build_optimizer(encoder: HybridEncoder, settings: EmbeddingSettings) -> torch.optim.Optimizer:
    groups = [
        {"params": list(encoder.backbone.parameters()), "lr": settings.learning_rate},
        {"params": list(encoder.head.parameters()), "lr": settings.head_learning_rate},
    ]
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


def _mine(encoder: HybridEncoder, questions: Questions, passages: Passages) -> list[list[int]]:
    """Return hard negatives of each question, as the model in training ranks the passages."""
    encoder.eval()
    queries, corpus = encoder.encode(questions.texts, "query"), encoder.encode(passages.contents, "passage")
    encoder.train()
    return mine_negatives(queries, corpus, questions, passages, FUSED_SPARSE_WEIGHT)


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


def forward_in_parts(encoder: HybridEncoder, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids [B, T], dense vectors [B, D] and token weights [B, T] of tokenised texts, in their order.

    On a CPU, texts of similar length go through the model together, because there padding costs as much as text.
    """
    size = _CPU_TEXTS if encoder.compute.device == "cpu" else len(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    width = len(rows[order[-1]])
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with encoder.autocast():
        for start in range(0, len(order), size):
            tokens, mask = encoder.pad([rows[row] for row in order[start : start + size]])
            vectors, weights = encoder.forward(tokens, mask)
            tail = (0, width - tokens.shape[1])
            parts.append((nn.functional.pad(tokens, tail), vectors, nn.functional.pad(weights, tail)))
    in_order = torch.tensor(order, device=encoder.compute.device).argsort()
    tokens, vectors, weights = (torch.cat(columns)[in_order] for columns in zip(*parts, strict=True))
    return tokens, vectors, weights


def hybrid_loss(
    queries: Tensor,
    passages: Tensor,
    lexical: Tensor,
    twins: Tensor,
    settings: EmbeddingSettings,
    *,
    smaller: Sequence[int] = (),
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its parts: contrast of dense, lexical and fused scores, own passage against all others.

    `queries` [B, D] and `passages` [P, D] are L2-normalised. Passage i is the own passage of query i; passages from B
    on are hard negatives. `lexical` [B, P] holds inner products. `twins` [B, P] marks other passages that answer the
    query too, and so are no negatives. `smaller` are Matryoshka dimensions: the dense loss is the mean over them and
    the full dimension.
    """
    labels = torch.arange(len(queries), device=queries.device)

    def logits(scores: Tensor, temperature: float) -> Tensor:
        return (scores / temperature).masked_fill(twins, float("-inf"))

    dense = queries @ passages.T
    dense_logits = logits(dense, settings.temperature)
    sparse_logits = logits(lexical, settings.sparse_temperature)
    fused_logits = logits(dense + FUSED_SPARSE_WEIGHT * lexical, settings.temperature)
    truncated = [
        nn.functional.normalize(queries[:, :width], dim=-1) @ nn.functional.normalize(passages[:, :width], dim=-1).T
        for width in smaller
    ]
    dense_arms = [dense_logits, *(logits(scores, settings.temperature) for scores in truncated)]
    dense_loss = torch.stack([nn.functional.cross_entropy(arm, labels) for arm in dense_arms]).mean()
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


def copy_parameters(encoder: HybridEncoder) -> dict[str, Tensor]:
    """Return a copy of every parameter tensor."""
    return {name: value.detach().cpu().clone() for name, value in _parameters(encoder)}


def changed_share(encoder: HybridEncoder, before: dict[str, Tensor]) -> float:
    """Return the share of parameter tensors that differ from those in `before`."""
    same = [torch.equal(value.detach().cpu(), before[name]) for name, value in _parameters(encoder)]
    return 1 - sum(same) / len(same)


def _parameters(encoder: HybridEncoder) -> Iterator[tuple[str, nn.Parameter]]:
    yield from encoder.backbone.named_parameters(prefix="backbone")
    yield from encoder.head.named_parameters(prefix="head")


def _batches_of_epoch(questions: Questions, size: int, random: Random, share: float) -> Iterator[list[int]]:
    """Yield batches of query rows in random order. No two queries of a batch share a passage or a text.

    A query that does not fit into a batch waits for the next one. Batches of one query have no negatives and are left
    out. `share` below 1 gives a part of an epoch.
    """
    waiting = random.sample(range(len(questions.ids)), round(len(questions.ids) * share))
    while waiting:
        batch: list[int] = []
        taken: set[str] = set()
        later: list[int] = []
        for row in waiting:
            keys = {*questions.qrels[row], f"query {questions.texts[row]}"}
            if len(batch) < size and taken.isdisjoint(keys):
                batch.append(row)
                taken |= keys
            else:
                later.append(row)
        waiting = later
        if len(batch) > 1:
            yield batch


def _mask_twins(
    batch: Sequence[int], drawn: Sequence[str], questions: Questions, passages: Passages, row_of: dict[str, int]
) -> Tensor:
    """Return [B, P] bool: passage j answers query i too (by its qrels or by equal content), i ≠ j."""
    hashes = [passages.hashes[row_of[passage]] for passage in drawn]
    answers = [{passages.hashes[row_of[passage]] for passage in questions.qrels[row]} for row in batch]
    mask = torch.tensor([[sha in right for sha in hashes] for right in answers])
    return mask & ~torch.eye(len(batch), len(drawn), dtype=torch.bool)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher ‖ student), the mean over queries. Twins have probability 0 in both and count 0."""
    log_student = student.log_softmax(-1).masked_fill(teacher == 0, 0.0)
    return (torch.xlogy(teacher, teacher) - teacher * log_student).sum(-1).mean()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


if __name__ == "__main__":
    run_worker(main)
