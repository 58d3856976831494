"""Fine-tunes both heads at once: in-batch contrast of dense, lexical and fused scores, with self-distillation.

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
from typing import Any

import torch
from torch import Tensor, nn

from expectations.violations import Refused, Violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.negatives import mine
from ft_assets.embedding.pairs import Passages, Questions, read_passages, read_questions
from resources import accelerator, models
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics

# What the lexical score counts beside the dense one: BGE-M3's weight, and the default of retrieval.sparse_weight.
FUSED_SPARSE_WEIGHT = 0.3
MAX_GRAD_NORM = 1.0
WEIGHT_DECAY = 0.01
_PART = 8  # texts of a batch that go through the model together on a CPU


def main(job: Job) -> Artifact:
    """Train `job.params["settings"]` (EmbeddingSettings) on `retrieval_splits` and publish `embedding_model`."""
    settings = EmbeddingSettings.model_validate(job.params["settings"])
    store, state = job.artifacts(), Path(job.params["state_dir"])
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    base = models.locate(settings.base_model, state, settings.revision)
    encoder = HybridEncoder.from_base(base, settings, job.recipe.settings["base_version"], compute)
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), "train", passages)
    before = snapshot(encoder)
    metrics = Metrics(job.folder())
    losses = train(encoder, questions, passages, settings, metrics) if settings.epochs else []
    metrics.close()
    with store.stage(job.recipe) as staging:
        encoder.save(staging.path)
        if (job.folder() / METRICS_FILE).is_file():
            shutil.copyfile(job.folder() / METRICS_FILE, staging.path / METRICS_FILE)
        first, last = losses[: max(len(losses) // 10, 1)], losses[-max(len(losses) // 10, 1) :]
        return staging.publish(
            {
                "questions": len(questions.ids),
                "unresolved": len(questions.unresolved),
                "steps": len(losses),
                "loss_first": sum(first) / len(first) if first else None,
                "loss_last": sum(last) / len(last) if last else None,
                "non_finite_losses": sum(not math.isfinite(loss) for loss in losses),
                "parameters_changed": changed(encoder, before),
                "dimension": encoder.contract.dense.dimensions[0],
                "device": compute.device,
                "dtype": compute.dtype,
            }
        )


def train(
    encoder: HybridEncoder, questions: Questions, passages: Passages, settings: EmbeddingSettings, metrics: Metrics
) -> list[float]:
    """Fine-tune `encoder` in place; returns the loss of each step. Raises Refused: FT-EMB-010 nothing to train on,
    FT-EMB-011 the loss is not finite."""
    random = Random(settings.seed)  # noqa: S311 - order of training examples, not a secret
    torch.manual_seed(settings.seed)
    batches = [
        (epoch, batch)
        for epoch in range(math.ceil(settings.epochs))
        for batch in _epoch(questions, settings.batch_size, random, min(settings.epochs - epoch, 1.0))
    ][: settings.max_steps]
    if not batches:
        raise _refused("FT-EMB-010", "there is no batch of two or more questions to train on.", len(questions.ids), 2)
    query_ids = encoder.tokenize(questions.texts, "query")
    passage_ids = encoder.tokenize(passages.contents, "passage")
    row_of = {passage: row for row, passage in enumerate(passages.ids)}
    parameters = [*encoder.backbone.parameters(), *encoder.head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(encoder.backbone.parameters()), "lr": settings.learning_rate},
            {"params": list(encoder.head.parameters()), "lr": settings.head_learning_rate},
        ],
        weight_decay=WEIGHT_DECAY,
    )
    total = len(batches)
    warmup = settings.warmup_steps * total if settings.warmup_steps < 1 else settings.warmup_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(warmup, 1), (total - step) / max(total - warmup, 1))
    )
    scaler = torch.amp.GradScaler(encoder.compute.device, enabled=encoder.compute.dtype == "float16")
    losses: list[float] = []
    mined: list[list[int]] = []
    mined_in = 0  # the first epoch goes without: what an untrained model ranks high misleads nobody
    encoder.train()
    for step, (epoch, batch) in enumerate(batches, 1):
        if settings.hard_negatives and epoch > mined_in:
            mined, mined_in = _mine(encoder, questions, passages), epoch
            metrics.log("mine", step, total, hard_negatives=sum(map(len, mined)))
        chosen = [random.choice(list(questions.qrels[row])) for row in batch]
        chosen += _hard(batch, mined, settings.hard_negatives, passages, random) if mined else []
        twins = _twins(batch, chosen, questions, passages, row_of).to(encoder.compute.device)
        query_tokens, query_vectors, query_weights = in_parts(encoder, [query_ids[row] for row in batch])
        tokens, passage_vectors, weights = in_parts(encoder, [passage_ids[row_of[passage]] for passage in chosen])
        lexical = lexical_scores(query_tokens, query_weights, tokens, weights)
        loss, parts = hybrid_loss(
            query_vectors, passage_vectors, lexical, twins, settings, smaller=encoder.contract.dense.dimensions[1:]
        )
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise _refused("FT-EMB-011", f"the loss of step {step} is not finite.", losses[-1], "a number")
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        metrics.log(
            "train", step, total, loss=losses[-1], **parts,
            learning_rate=float(schedule.get_last_lr()[0]), gradient_norm=float(norm),
        )  # fmt: skip
    encoder.eval()
    return losses


def _mine(encoder: HybridEncoder, questions: Questions, passages: Passages) -> list[list[int]]:
    """Hard negatives of each question as the model stands."""
    encoder.eval()
    queries, corpus = encoder.encode(questions.texts, "query"), encoder.encode(passages.contents, "passage")
    encoder.train()
    return mine(queries, corpus, questions, passages, FUSED_SPARSE_WEIGHT)


def _hard(
    batch: Sequence[int], mined: Sequence[Sequence[int]], count: int, passages: Passages, random: Random
) -> list[str]:
    """`count` of its hard negatives for each query of the batch (fewer where fewer were found)."""
    drawn = (random.sample(mined[row], min(count, len(mined[row]))) for row in batch)
    return [passages.ids[wrong] for rows in drawn for wrong in rows]


def in_parts(encoder: HybridEncoder, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [B, T], dense vectors [B, D] and token weights [B, T] of tokenised texts, in their order.

    On a CPU texts of like length go through the model together, because there padding costs as much as text.
    """
    size = _PART if encoder.compute.device == "cpu" else len(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    width = len(rows[order[-1]])
    made: list[tuple[Tensor, Tensor, Tensor]] = []
    with encoder.autocast():
        for start in range(0, len(order), size):
            tokens, mask = encoder.pad([rows[row] for row in order[start : start + size]])
            vectors, weights = encoder.forward(tokens, mask)
            tail = (0, width - tokens.shape[1])
            made.append((nn.functional.pad(tokens, tail), vectors, nn.functional.pad(weights, tail)))
    back = torch.tensor(order, device=encoder.compute.device).argsort()
    tokens, vectors, weights = (torch.cat(parts)[back] for parts in zip(*made, strict=True))
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
    """Contrast of dense, lexical and fused scores over the batch, each query's own passage against the others.

    `queries` [B, D] and `passages` [P, D] are L2-normalised: passage i is query i's own, those from B on are hard
    negatives. `lexical` [B, P] are inner products, `twins` [B, P] marks pairs that are right too and so no negatives.
    `smaller` are Matryoshka dimensions: the dense loss is their mean with the
    full's.
    """
    labels = torch.arange(len(queries), device=queries.device)

    def logits(scores: Tensor, temperature: float) -> Tensor:
        return (scores / temperature).masked_fill(twins, float("-inf"))

    dense = queries @ passages.T
    dense_logits = logits(dense, settings.temperature)
    sparse_logits = logits(lexical, settings.sparse_temperature)
    fused_logits = logits(dense + FUSED_SPARSE_WEIGHT * lexical, settings.temperature)
    cut = [
        nn.functional.normalize(queries[:, :d], dim=-1) @ nn.functional.normalize(passages[:, :d], dim=-1).T
        for d in smaller
    ]
    dense_arms = [dense_logits, *(logits(scores, settings.temperature) for scores in cut)]
    dense_loss = torch.stack([nn.functional.cross_entropy(arm, labels) for arm in dense_arms]).mean()
    sparse_loss = nn.functional.cross_entropy(sparse_logits, labels)
    fused_loss = nn.functional.cross_entropy(fused_logits, labels)
    loss = dense_loss + settings.sparse_loss_weight * sparse_loss + fused_loss
    arms = {"dense": dense_loss, "sparse": sparse_loss, "fused": fused_loss}
    parts = {name: float(value.detach()) for name, value in arms.items()}
    if settings.self_distill:
        teacher = fused_logits.detach().softmax(-1)
        distilled = torch.stack([_distance(teacher, arm) for arm in dense_arms]).mean()
        distilled = distilled + settings.sparse_loss_weight * _distance(teacher, sparse_logits)
        parts["distill"] = float(distilled.detach())
        loss = (loss + distilled) / 2
    return loss, parts


def lexical_scores(query_ids: Tensor, query_weights: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Inner products [B, P] of lexical vectors, over the tokens of this batch alone and not the whole vocabulary."""
    tokens, places = torch.unique(torch.cat([query_ids.flatten(), ids.flatten()]), return_inverse=True)
    left, right = places.split([query_ids.numel(), ids.numel()])

    def spread(place: Tensor, weight: Tensor) -> Tensor:
        empty = weight.new_zeros(len(weight), len(tokens))
        return empty.scatter_reduce(1, place.view_as(weight), weight, reduce="amax")

    return spread(left, query_weights) @ spread(right, weights).T


def snapshot(encoder: HybridEncoder) -> dict[str, Tensor]:
    """A copy of every parameter, to tell afterwards what training changed."""
    return {name: value.detach().cpu().clone() for name, value in _parameters(encoder)}


def changed(encoder: HybridEncoder, before: dict[str, Tensor]) -> float:
    """Share of parameter tensors that are no longer what they were."""
    same = [torch.equal(value.detach().cpu(), before[name]) for name, value in _parameters(encoder)]
    return 1 - sum(same) / len(same)


def _parameters(encoder: HybridEncoder) -> Iterator[tuple[str, Any]]:
    yield from encoder.backbone.named_parameters(prefix="backbone")
    yield from encoder.head.named_parameters(prefix="head")


def _epoch(questions: Questions, size: int, random: Random, share: float) -> Iterator[list[int]]:
    """Batches of query rows in random order, no two of a batch with a passage or a text in common.

    What does not fit a batch waits for the next; batches of one teach nothing and are left out. `share` below 1 is a
    part of an epoch.
    """
    waiting = random.sample(range(len(questions.ids)), round(len(questions.ids) * share))
    while waiting:
        batch: list[int] = []
        taken: set[str] = set()
        later: list[int] = []
        for row in waiting:
            mine = {*questions.qrels[row], f"query {questions.texts[row]}"}
            if len(batch) < size and taken.isdisjoint(mine):
                batch.append(row)
                taken |= mine
            else:
                later.append(row)
        waiting = later
        if len(batch) > 1:
            yield batch


def _twins(
    batch: Sequence[int], chosen: Sequence[str], questions: Questions, passages: Passages, row_of: dict[str, int]
) -> Tensor:
    """[B, P] bool: passage j answers query i as well (by its qrels or by equal content), i ≠ j."""
    hashes = [passages.hashes[row_of[passage]] for passage in chosen]
    answers = [{passages.hashes[row_of[passage]] for passage in questions.qrels[row]} for row in batch]
    mask = torch.tensor([[text in right for text in hashes] for right in answers])
    return mask & ~torch.eye(len(batch), len(chosen), dtype=torch.bool)


def _distance(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student), the mean over queries. Twins have probability 0 in both and count 0."""
    log_student = student.log_softmax(-1).masked_fill(teacher == 0, 0.0)
    return (torch.xlogy(teacher, teacher) - teacher * log_student).sum(-1).mean()


def _refused(code: str, message: str, found: Any, expected: Any) -> Refused:
    fix = "check retrieval_splits and batch_size" if code == "FT-EMB-010" else "lower embedding.learning_rate"
    return Refused(
        "training the embedding model",
        [Violation(code=code, where="embedding_model", message=message, field="train", found=found, expected=expected,
                   fix=fix)],
    )  # fmt: skip


if __name__ == "__main__":
    run_worker(main)
