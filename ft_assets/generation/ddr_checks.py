"""The gates on pairs of a model's own answers."""

from __future__ import annotations

import msgspec

from expectations.rules import contamination
from expectations.rules.conservation import every_row_is_accounted_for
from expectations.rules.preference_pairs import (
    PairRules,
    lengths_are_alike,
    nothing_is_held_out,
    pairs_are_right,
    some_are_paired,
)
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.find_contamination import search_generated
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import CANDIDATES, PAIR_PARTS, PAIRS, QUESTIONS_FILE, PairsSummary
from ft_assets.generation.pairs import (
    facts_of,
    held_out_of,
    lengths_of,
    pair_texts,
    read_pairs,
    read_training_parts,
)
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import count_quarantined
from ft_assets.graph.table_gate import table_fits
from resources.parquet import row_count


def _questions_accounted_for(evidence: Evidence) -> Verdict:
    """Every question that was answered, and every pair of an earlier round, is a pair or a line in the quarantine."""
    preferences = evidence.store.require(PAIRS)
    asked = row_count(evidence.store.require(CANDIDATES).file(QUESTIONS_FILE))
    pairs = {part: row_count(preferences.file(split_file(part))) for part in PAIR_PARTS}
    quarantined = count_quarantined(preferences)
    summary = preferences.summary_as(PairsSummary)
    came = asked + summary.earlier + summary.earlier_quarantined
    violations = every_row_is_accounted_for(PAIRS, came, sum(pairs.values()), quarantined)
    figures = {"questions": asked, **pairs, "earlier": summary.earlier, "quarantined": quarantined}
    return Verdict(violations, {**figures, "codes": summary.codes})


def _pairs_fit(evidence: Evidence) -> Verdict:
    """There are training pairs, and they fit the suite of hand-made pairs."""
    preferences = evidence.store.require(PAIRS)
    summary = preferences.summary_as(PairsSummary)
    if none := some_are_paired(PAIRS, summary.train, summary.codes):
        return Verdict(none)
    return Verdict(*table_fits(evidence.store, preferences, split_file("train"), "preference_records"))


def _pairs_are_right(evidence: Evidence) -> Verdict:
    """Every chosen answer is right enough, has the numbers of the right one, and is better by the margin."""
    preferences = evidence.store.require(PAIRS)
    rules = msgspec.convert(preferences.manifest.recipe.settings["rules"], PairRules)
    rows = [*read_pairs(preferences, "train"), *read_pairs(preferences, "validation")]
    return Verdict(
        pairs_are_right(PAIRS, map(facts_of, rows), rules), {"pairs": len(rows), **msgspec.to_builtins(rules)}
    )


def _nothing_held_out(evidence: Evidence) -> Verdict:
    """No training pair is made of a question or a passage that validation or test hold out now."""
    store = evidence.store
    preferences, rows = store.require(PAIRS), read_pairs(store.require(PAIRS), "train")
    may_show = preferences.manifest.recipe.settings["held_out_passages"] == "keep"
    parts = read_training_parts(store, settings_of(store, "datasets").split, passages=not may_show)
    found: list[tuple[str, str, str]] = []
    for row in rows:
        found += [(row.record_id, field, name) for field, name in held_out_of(row, parts)]
    figures = {"pairs": len(rows), "held_out_passages": len(parts.hidden), "passages_are_judged": not may_show}
    return Verdict(nothing_is_held_out(PAIRS, found), figures)


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
