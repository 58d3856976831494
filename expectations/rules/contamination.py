"""Contamination: held-out texts that training saw, found by the runs of 13 tokens that both hold.

A token is one Chinese or Japanese character, or one word or number of any other script; case, width, white space and
punctuation do not count. The measure is the share of a held-out text's 13-token runs that are in ONE text of training:
a copied sentence counts, a topic that both texts are about does not.

Not counted:
- texts of fewer than 13 tokens (a short answer such as "2010 年" proves nothing; equal questions share a cluster);
- boilerplate: runs that more than 20 texts hold (in large data: more than one in a thousand), and runs of the
  templates that the caller names. Two questions with the same long introduction are two questions.

A known false positive: two different questions that both quote one passage at length. Give both the passage as
evidence, or one `group`, and they share a split.
"""
# pyright: basic
# The shapes and dtypes of numpy arrays are not declared here.

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from expectations.violations import Violation, violation

RUN = 13
"""Tokens in a run."""
PASSAGE_FIELDS = ("context", "passage")
"""Fields whose text belongs to the corpus, not to the record that holds it."""
_BOILERPLATE = 20  # most texts that may hold a run; in large data one in a thousand
_BATCH = 2000  # texts of training whose runs are held at once
_SHOWN = 20  # violations of one rule that are listed
_QUOTED = 160  # characters of the common text that are shown

_TOKEN = re.compile(
    r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
    r"|[^\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+"
)


class Text(NamedTuple):
    """One text of a record, and its place."""

    dataset: str
    record_id: str
    field: str
    where: str
    """`file:line`."""
    text: str

    def __str__(self) -> str:
        return f"the {self.field} of {self.dataset} record {self.record_id} ({self.where})"


class ContaminationHit(NamedTuple):
    """A held-out text, the text of training that holds the largest part of it, and how large that part is."""

    held_out: Text
    seen: Text
    share: float
    """The share of the held-out text's runs, without boilerplate."""
    common: str
    """The longest stretch that both hold, normalised."""


class Search(NamedTuple):
    """The hits, and the number of texts they were searched in."""

    hits: list[ContaminationHit]
    held_out: int
    """Held-out texts with at least one run that counts."""
    seen: int
    """Texts of training; each passage counts once."""
    boilerplate: int
    """Runs of held-out texts that do not count."""


def find_contamination(
    held_out: Iterable[Text], seen: Callable[[], Iterable[Text]], threshold: float, templates: Sequence[str] = ()
) -> Search:
    """Find the held-out texts of which a text of training holds at least `threshold` (0 to 1]; the worst case of each.

    `seen` is called twice and streamed. Memory: the held-out texts (and 20 bytes for each of their tokens), and a
    number for each different passage of training.
    """
    import numpy as np

    texts = list(_each_passage_once(held_out))
    index = _Index.of(texts)
    holders, training_texts = _count_holders(index, seen)
    counted = holders <= max(_BOILERPLATE, (len(texts) + training_texts) // 1000)
    counted &= ~_is_in_templates(index, templates)
    index = index.keep(counted)
    hits = [
        ContaminationHit(texts[n], text, share, _longest_common(texts[n].text, text.text))
        for n, (share, text) in sorted(_find_worst(index, seen, threshold).items())
    ]
    return Search(hits, int(np.count_nonzero(index.sizes)), training_texts, int(np.count_nonzero(~counted)))


def nothing_was_seen(where: str, hits: Iterable[ContaminationHit], threshold: float) -> list[Violation]:
    """FT-SPLIT-012: no text of training holds `threshold` or more of a validation or test text's runs."""
    return [
        violation(
            "FT-SPLIT-012",
            where=where,
            message=f"{hit.held_out} is held out, but training sees {hit.share:.0%} of it in {hit.seen}: "
            f"“{hit.common}”",
            field=hit.held_out.field,
            found=round(hit.share, 3),
            expected=f"below {threshold:g}",
        )
        for hit in hits
    ][:_SHOWN]


def few_were_seen(where: str, dataset: str, seen: int, held_out: int, most: float) -> list[Violation]:
    """FT-SPLIT-014: training has seen at most the share `most` (0 to 1) of a data set's held-out records."""
    if seen <= most * held_out:
        return []
    return [
        violation(
            "FT-SPLIT-014",
            where=where,
            message=f"Training has seen {seen} of {held_out} held-out {dataset} records",
            field="contaminated share",
            found=round(seen / held_out, 4),
            expected=f"at most {most:g}",
        )
    ]


def _count_holders(index: _Index, seen: Callable[[], Iterable[Text]]) -> tuple[Any, int]:
    """Return how many texts hold each run (int64 [R]), held-out ones included, and the number of training texts."""
    import numpy as np

    holders, texts = index.counts.copy(), 0
    for batch in _batches(_each_passage_once(seen())):
        _, entries = index.look_up(*_runs(batch))
        holders += np.bincount(entries, minlength=len(holders))
        texts += len(batch)
    return holders, texts


def _is_in_templates(index: _Index, templates: Sequence[str]) -> Any:
    """Return for each run whether a template holds it (bool [R])."""
    import numpy as np

    _, entries = index.look_up(*_runs([Text("", "", "template", "", template) for template in templates]))
    marks = np.zeros(len(index.counts), bool)
    marks[entries] = True
    return marks


def _find_worst(index: _Index, seen: Callable[[], Iterable[Text]], threshold: float) -> dict[int, tuple[float, Text]]:
    """Return held-out text -> its largest share from the threshold on, and the text of training that holds it."""
    worst: dict[int, tuple[float, Text]] = {}
    for batch in _batches(_each_passage_once(seen())):
        for number, owner, share in index.shares(*_runs(batch), threshold):
            if owner not in worst or share > worst[owner][0]:
                worst[owner] = share, batch[number]
    return worst


class _Index:
    """The runs of the held-out texts, sorted, with the texts that hold each."""

    def __init__(self, grams: Any, owners: Any, texts: int) -> None:
        import numpy as np

        order = np.argsort(grams, kind="stable")
        self.owners = owners[order].astype(np.int32)
        ordered = grams[order]
        starts = np.flatnonzero(np.concatenate((np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1])))
        self.grams = ordered[starts]
        """Each run once (uint64 [R])."""
        self.counts = np.diff(np.append(starts, len(ordered)))
        """The number of texts that hold each run (int64 [R])."""
        self.starts = starts
        self.sizes = np.bincount(self.owners, minlength=texts)
        """The number of runs of each text (int64 [N])."""

    @classmethod
    def of(cls, texts: Sequence[Text]) -> _Index:
        """Return the index of these texts."""
        import numpy as np

        grams, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for start in range(0, len(texts), _BATCH):
            runs, texts_of = _runs(texts[start : start + _BATCH])
            grams.append(runs)
            owners.append(texts_of + start)
        return cls(np.concatenate(grams), np.concatenate(owners), len(texts))

    def keep(self, counted: Any) -> _Index:
        """Return the index of only the runs that are marked in `counted` (bool [R])."""
        import numpy as np

        kept = np.repeat(counted, self.counts)
        return _Index(np.repeat(self.grams, self.counts)[kept], self.owners[kept], len(self.sizes))

    def look_up(self, grams: Any, texts: Any) -> tuple[Any, Any]:
        """Return, of the runs `grams` of `texts`, those in the index: the text and the run's number, for each pair."""
        import numpy as np

        if not len(self.grams):
            return texts[:0], np.zeros(0, np.int64)
        entries = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        known = self.grams[entries] == grams
        return texts[known], entries[known]

    def shares(self, grams: Any, texts: Any, threshold: float) -> Iterator[tuple[int, int, float]]:
        """Yield (text, held-out text, share) for each pair of texts whose share reaches the threshold."""
        import numpy as np

        texts, entries = self.look_up(grams, texts)
        repeats = self.counts[entries]
        ends = np.cumsum(repeats)
        if not len(ends):
            return
        within = np.arange(ends[-1]) - np.repeat(ends - repeats, repeats)
        owners = self.owners[np.repeat(self.starts[entries], repeats) + within]
        pairs, common = np.unique(np.repeat(texts, repeats) * len(self.sizes) + owners, return_counts=True)
        share = common / self.sizes[pairs % len(self.sizes)]
        high = share >= threshold
        for pair, part in zip(pairs[high].tolist(), share[high].tolist(), strict=True):
            yield pair // len(self.sizes), pair % len(self.sizes), part


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _runs(texts: Sequence[Text]) -> tuple[Any, Any]:
    """Return each text's different 13-token runs as hashes (uint64 [M]), and the number of its text (int64 [M])."""
    import numpy as np

    grams, texts_of = _hash_runs(texts)
    order = np.lexsort((grams, texts_of))
    grams, texts_of = grams[order], texts_of[order]
    first = np.ones(len(grams), bool)
    first[1:] = (grams[1:] != grams[:-1]) | (texts_of[1:] != texts_of[:-1])
    return grams[first], texts_of[first]


def _hash_runs(texts: Sequence[Text]) -> tuple[Any, Any]:
    """Return the hash of every run within one text, in order, and the number of its text."""
    import numpy as np

    tokens = [_TOKEN.findall(_fold(text.text)) for text in texts]
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    hashes = np.fromiter(map(hash, chain.from_iterable(tokens)), np.int64, int(lengths.sum())).view(np.uint64)
    texts_of = np.repeat(np.arange(len(tokens)), lengths)
    windows = max(len(hashes) - RUN + 1, 0)
    grams = np.zeros(windows, np.uint64)
    for step in range(RUN):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + hashes[step : step + windows]
    inside = texts_of[:windows] == texts_of[RUN - 1 :][:windows]
    return grams[inside], texts_of[:windows][inside]


def _each_passage_once(texts: Iterable[Text]) -> Iterator[Text]:
    """Yield every text, but a passage only once: a hundred rows may be given the same one.

    An answer that a hundred rows repeat is boilerplate, and is counted.
    """
    passages: set[int] = set()
    for text in texts:
        if text.field in PASSAGE_FIELDS:
            if (mark := hash(text.text)) in passages:
                continue
            passages.add(mark)
        yield text


def _batches(texts: Iterator[Text]) -> Iterator[list[Text]]:
    while batch := list(islice(texts, _BATCH)):
        yield batch


def _longest_common(held_out: str, seen: str) -> str:
    """Return the longest stretch of tokens that both hold, as it is in the folded held-out text."""
    folded = _fold(held_out)
    tokens = list(_TOKEN.finditer(folded))
    start, end = _longest_shared([token.group() for token in tokens], _TOKEN.findall(_fold(seen)))
    text = folded[tokens[start].start() : tokens[end - 1].end()] if end else ""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


def _longest_shared(tokens: Sequence[str], others: Sequence[str]) -> tuple[int, int]:
    """Return [start, end) of the longest stretch of `tokens` whose runs are all in `others`; (0, 0) without one."""
    known = {tuple(others[n : n + RUN]) for n in range(len(others) - RUN + 1)}
    best = start = end = 0
    for n in range(len(tokens) - RUN + 1):
        if tuple(tokens[n : n + RUN]) not in known:
            start = n + 1
        elif n + RUN - start > end - best:
            best, end = start, n + RUN
    return best, end
