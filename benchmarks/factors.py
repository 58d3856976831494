"""The gain of learned factors of BM25's weights (`retrieval.lexical: bm25_learned`) for several penalties.

    python benchmarks/factors.py WORK... [--base NAME] [--penalties 0.1 1 10]

WORK: folders in BEIR layout, as examples/en/retrieval; `benchmarks/retrieval.py prepare` writes two more. Half of the
questions of a set, by their numbers, learn the factors, a quarter are the validation questions on which the product
takes or refuses them, the rest tests. The encoder is not trained. Each gain is paired by question, with its interval.
"""

# pyright: basic
from __future__ import annotations

import argparse
from pathlib import Path

from fusion import BASE, read_beir

from expectations.canonical import text_digest
from expectations.markdown import markdown_table
from expectations.rules.bootstrap import paired_bootstrap
from expectations.rules.ranking_metrics import measure as measure_ranking
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.exact_search import named, rank_lexical
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.ranked import RankedCorpus
from ft_assets.embedding.sparse import SparseRows
from ft_assets.embedding.train_factors import fit_factors
from resources.models import locate

_ARMS = ("lexical", "fused")


def main() -> None:
    """Print a row for each set and penalty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="+")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--questions", type=int, default=1500)
    chosen = parser.parse_args()
    rows = [row for folder in chosen.work for row in measure(folder, chosen.base, chosen.penalties, chosen.questions)]
    titles = ["set", "learned on", "penalty", "spread", *(f"{arm}, {part}" for part in _PARTS for arm in _ARMS)]
    print(markdown_table(titles, rows))


_PARTS = ("validation", "test")


def questions_of(folder: Path, most: int) -> tuple[Passages, list[Questions]]:
    """Return the passages of a set, and its questions: half to learn from, a quarter each to choose and to test."""
    contents, texts, qrels = read_beir(folder)
    names, hashes = list(contents), [text_digest(text) for text in contents.values()]

    def take(first: int, step: int) -> Questions:
        rows = range(first, min(len(texts), most), step)
        return Questions([str(n) for n in rows], [texts[n] for n in rows], [qrels[n] for n in rows], [])

    return Passages(names, names, [*contents.values()], hashes), [take(0, 2), take(1, 4), take(3, 4)]


def measure(folder: Path, base: str, penalties: list[float], most: int) -> list[list[str]]:
    """Return a row for each penalty."""
    passages, (asked, *parts) = questions_of(folder, most)
    corpus = RankedCorpus(passages, [asked, *parts])
    rows: list[list[str]] = []
    settings = EmbeddingSettings(base_model=base)
    encoder = HybridEncoder.from_base(locate(base, folder / "state"), settings, "")
    for penalty in penalties:
        spread = fit_factors(encoder, corpus, asked, settings.model_copy(update={"factor_penalty": penalty}))
        corpus.encode(encoder)
        cells: list[str] = []
        for part in parts:
            lexical = (_by_lexical(corpus, part, vectors) for vectors in (corpus.sparse, SparseRows.of(corpus.weighed)))
            fused = (corpus.measure(encoder, part, factors=factors).fused for factors in (False, True))
            cells += [_gain(*lexical), _gain(*fused)]
        rows.append([folder.name, str(len(asked.ids)), f"{penalty:g}", f"{spread:.3f}", *cells])
        print(rows[-1], flush=True)
    return rows


def _by_lexical(corpus: RankedCorpus, questions: Questions, vectors: SparseRows) -> list[float]:
    ranked = named(rank_lexical(corpus.weigh(questions), vectors, 10), corpus.passages.ids)
    return measure_ranking(questions.qrels, ranked)["ndcg_at_10"]


def _gain(before: list[float], after: list[float]) -> str:
    gain = paired_bootstrap(after, before)
    mean = sum(before) / len(before)
    return f"{100 * mean:.1f} {100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


if __name__ == "__main__":
    main()
