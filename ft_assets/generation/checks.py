"""The gates on generated rows, which a training enforces before it reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from expectations.rules import contamination
from expectations.rules.conservation import every_row_is_accounted_for
from expectations.rules.preference_pairs import (
    PairFacts,
    PairRules,
    lengths_are_alike,
    nothing_is_held_out,
    pairs_are_right,
)
from expectations.rules.splits import SPLITS
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.dataset import INSTRUCTION_DATA
from ft_assets.datasets.find_contamination import search_generated
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.ledger import ASSET as LEDGER
from ft_assets.datasets.ledger import read_ledger
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import CANDIDATES, PAIR_PARTS, PAIRS, QUESTIONS_FILE, GeneratedPair, PairsSummary
from ft_assets.generation.pairs import lengths_of, pair_texts, read_pairs
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.graph.table_gate import table_fits
from resources.parquet import row_count


def _questions_accounted_for(evidence: Evidence) -> Verdict:
    """Every question that was answered has one pair, or one line in the quarantine."""
    preferences = evidence.store.require(PAIRS)
    asked = row_count(evidence.store.require(CANDIDATES).file(QUESTIONS_FILE))
    pairs = {part: row_count(preferences.file(split_file(part))) for part in PAIR_PARTS}
    quarantined = sum(1 for _ in read_quarantine(preferences.file(QUARANTINE)))
    codes = preferences.summary_as(PairsSummary).codes
    violations = every_row_is_accounted_for(PAIRS, asked, sum(pairs.values()), quarantined)
    return Verdict(violations, {"questions": asked, **pairs, "quarantined": quarantined, "codes": codes})


def _pairs_fit(evidence: Evidence) -> Verdict:
    """The training pairs fit the suite of hand-made pairs."""
    return Verdict(
        *table_fits(evidence.store, evidence.store.require(PAIRS), split_file("train"), "preference_records")
    )


def _pairs_are_right(evidence: Evidence) -> Verdict:
    """Every chosen answer is right enough, has the numbers of the right one, and is better by the margin."""
    preferences = evidence.store.require(PAIRS)
    rules = msgspec.convert(preferences.manifest.recipe.settings["rules"], PairRules)
    rows = [*read_pairs(preferences, "train"), *read_pairs(preferences, "validation")]
    return Verdict(pairs_are_right(PAIRS, map(_facts, rows), rules), {"pairs": len(rows), **msgspec.to_builtins(rules)})


def _facts(row: GeneratedPair) -> PairFacts:
    return PairFacts(
        where=f"{row.source}:{row.line_no} ({row.record_id})",
        gold=row.gold,
        chosen_answer=row.chosen_answer,
        chosen=row.chosen,
        rejected=row.rejected,
        chosen_score=row.chosen_score or 0.0,
        rejected_score=row.rejected_score or 0.0,
    )


def _nothing_held_out(evidence: Evidence) -> Verdict:
    """No training pair is made of a question or a passage that validation or test hold out now."""
    store = evidence.store
    preferences, rows = store.require(PAIRS), read_pairs(store.require(PAIRS), "train")
    may_show = preferences.manifest.recipe.settings["held_out_passages"] == "keep"
    hidden = frozenset[str]() if may_show else held_out_passages(store.require, settings_of(store, "datasets").split)
    ledger = read_ledger(store.require(LEDGER))
    training = {
        name for (dataset, name), one in ledger.items() if dataset == INSTRUCTION_DATA.name and one.split == SPLITS[0]
    }
    found = [*_held_out_questions(rows, training), *_held_out_shown(rows, hidden)]
    figures = {"pairs": len(rows), "held_out_passages": len(hidden), "passages_are_judged": not may_show}
    return Verdict(nothing_is_held_out(PAIRS, found), figures)


def _held_out_questions(rows: Sequence[GeneratedPair], training: set[str]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        if row.question_id not in training:
            yield row.record_id, "question", row.question_id


def _held_out_shown(rows: Sequence[GeneratedPair], hidden: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        for name in row.passages:
            if name in hidden:
                yield row.record_id, "passages", name


def _no_contamination(evidence: Evidence) -> Verdict:
    """No training pair holds a text of validation or test; the rule is that of the hand-made rows."""
    rows, settings = read_pairs(evidence.store.require(PAIRS), "train"), settings_of(evidence.store, "datasets").split
    hits = list(search_generated(evidence.store, settings, pair_texts(rows)).values()) if rows else []
    violations = contamination.nothing_was_seen(PAIRS, hits, settings.contamination)
    return Verdict(violations, {"pairs": len(rows), "hits": len(hits)})


def _lengths_are_alike(evidence: Evidence) -> Verdict:
    """The median length of the chosen answers is 0.5 to 2 times that of the right answers."""
    chosen, gold = lengths_of(read_pairs(evidence.store.require(PAIRS), "train"))
    ratio = evidence.store.require(PAIRS).summary_as(PairsSummary).length
    return Verdict(lengths_are_alike(PAIRS, chosen, gold), {"pairs": len(chosen), "median_length": ratio})


GATES: list[Gate] = [
    whole_gate(PAIRS),
    Gate(PAIRS, "every_question_is_accounted_for", _questions_accounted_for),
    Gate(PAIRS, "table_fits_its_suite", _pairs_fit),
    Gate(PAIRS, "pairs_are_right", _pairs_are_right),
    Gate(PAIRS, "nothing_is_held_out", _nothing_held_out, needs=("dataset_settings",)),
    Gate(PAIRS, "no_contamination", _no_contamination, needs=("dataset_settings",)),
    Gate(PAIRS, "lengths_are_alike", _lengths_are_alike),
]
