"""Contamination: held-out texts that training saw, found by the runs of 13 tokens that both hold.

A token is one Chinese or Japanese character, or one word or number of any other script; case, width, white space and
punctuation do not count. What is judged is the share of a held-out text's 13-token runs that stand in ONE text of
training, so a topic that both speak of is nothing, and a sentence that was copied is.

Not counted:
- texts of fewer than 13 tokens (a short answer such as "2010 年" says nothing; equal short questions share a cluster);
- boilerplate: runs that more than 20 texts hold (in large data: more than one in a thousand), and runs of the
  templates that the caller names. Two questions with one long introduction are two questions.

A known false positive: two different questions that both quote one passage at length. They do share what they are
about; give both the passage as evidence, or one `group`, and they share a split.
"""
# pyright: basic
# numpy's shapes and dtypes are not spelt out here.

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from expectations.violations import Violation

RUN = 13
"""Tokens of a run."""
PASSAGE_FIELDS = ("context", "passage")
"""Fields whose text belongs to the corpus rather than to the record that has it."""
_BOILERPLATE = 20  # texts that may hold a run; in large data one in a thousand
_BATCH = 2000  # texts of training whose runs are held at once
_SHOWN = 20  # violations of one rule that are spelt out
_QUOTED = 160  # characters of the common text that are shown

_TOKEN = re.compile(
    r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
    r"|[^\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+"
)


class Text(NamedTuple):
    """One text of a record, and where it stands."""

    dataset: str
    record_id: str
    field: str
    where: str
    """`file:line`."""
    text: str

    def __str__(self) -> str:
        return f"the {self.field} of {self.dataset} record {self.record_id} ({self.where})"


class Hit(NamedTuple):
    """A held-out text, the text of training that holds most of it, and how much."""

    held_out: Text
    seen: Text
    share: float
    """Of the held-out text's runs, without boilerplate."""
    common: str
    """The longest stretch that both hold, as normalised."""


class Search(NamedTuple):
    """What was found, and among how much."""

    hits: list[Hit]
    held_out: int
    """Held-out texts that have a run that counts."""
    seen: int
    """Texts of training, each passage once."""
    boilerplate: int
    """Runs of held-out texts that do not count."""


def find_contamination(
    held_out: Iterable[Text], seen: Callable[[], Iterable[Text]], threshold: float, templates: Sequence[str] = ()
) -> Search:
    """Held-out texts of which at least `threshold` (0 to 1] stands in one text of training; the worst case of each.

    `seen` is called twice, and streamed: memory is that of the held-out texts (and 20 bytes for each of their tokens),
    and a number for each different passage of training.
    """
    import numpy as np

    texts = list(_each_passage_once(held_out))
    index = _Index.of(texts)
    counts, total = index.counts.copy(), len(texts)
    for batch in _batches(_each_passage_once(seen())):
        _, entries = index.look_up(*_runs(batch))
        counts += np.bincount(entries, minlength=len(counts))
        total += len(batch)
    written = [Text("", "", "template", "", template) for template in templates]
    counts[index.look_up(*_runs(written))[1]] = np.iinfo(np.int64).max
    counted = counts <= max(_BOILERPLATE, total // 1000)
    index = index.keep(counted)
    worst: dict[int, tuple[float, Text]] = {}
    for batch in _batches(_each_passage_once(seen())):
        for number, owner, share in index.shares(*_runs(batch), threshold):
            if owner not in worst or share > worst[owner][0]:
                worst[owner] = share, batch[number]
    hits = [Hit(texts[n], text, share, _common(texts[n].text, text.text)) for n, (share, text) in sorted(worst.items())]
    return Search(hits, int(np.count_nonzero(index.sizes)), total - len(texts), int(np.count_nonzero(~counted)))


def nothing_was_seen(where: str, hits: Iterable[Hit], threshold: float) -> list[Violation]:
    """FT-SPLIT-012: no validation or test text stands, for `threshold` of its runs or more, in a text of training."""
    return [
        Violation(
            code="FT-SPLIT-012", where=where, field=hit.held_out.field, found=round(hit.share, 3),
            expected=f"below {threshold:g}",
            message=f"{hit.held_out} is held out, and {hit.share:.0%} of it stands in {hit.seen}, which training sees: "
            f"“{hit.common}”.",
            fix="leave one of the two out, or give both one `group` and new ids (they then share a split); if what "
            "they share is a template, add it to datasets.split.templates in config.yaml",
        )
        for hit in hits
    ][:_SHOWN]  # fmt: skip


class _Index:
    """The runs of the held-out texts, sorted, and the texts that hold each."""

    def __init__(self, grams: Any, owners: Any, texts: int) -> None:
        import numpy as np

        order = np.argsort(grams, kind="stable")
        self.owners = owners[order].astype(np.int32)
        ordered = grams[order]
        starts = np.flatnonzero(np.concatenate((np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1])))
        self.grams = ordered[starts]
        """Each run once (uint64 [R])."""
        self.counts = np.diff(np.append(starts, len(ordered)))
        """How many texts hold it (int64 [R])."""
        self.starts = starts
        self.sizes = np.bincount(self.owners, minlength=texts)
        """How many runs each text has (int64 [N])."""

    @classmethod
    def of(cls, texts: Sequence[Text]) -> _Index:
        import numpy as np

        grams, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for start in range(0, len(texts), _BATCH):
            runs, texts_of = _runs(texts[start : start + _BATCH])
            grams.append(runs)
            owners.append(texts_of + start)
        return cls(np.concatenate(grams), np.concatenate(owners), len(texts))

    def keep(self, counted: Any) -> _Index:
        """The same without the runs that do not count."""
        import numpy as np

        kept = np.repeat(counted, self.counts)
        return _Index(np.repeat(self.grams, self.counts)[kept], self.owners[kept], len(self.sizes))

    def look_up(self, grams: Any, texts: Any) -> tuple[Any, Any]:
        """The texts among `texts` whose run is known, and the number of that run: one entry for each pair."""
        import numpy as np

        if not len(self.grams):
            return texts[:0], np.zeros(0, np.int64)
        entries = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        found = self.grams[entries] == grams
        return texts[found], entries[found]

    def shares(self, grams: Any, texts: Any, threshold: float) -> Iterator[tuple[int, int, float]]:
        """(text, held-out text, share) wherever the share reaches the threshold."""
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
    """The different 13-token runs of each text as hashes (uint64 [M]), and the number of its text (int64 [M])."""
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
    grams, texts_of = grams[inside], texts_of[:windows][inside]
    order = np.lexsort((grams, texts_of))
    grams, texts_of = grams[order], texts_of[order]
    first = np.ones(len(grams), bool)
    first[1:] = (grams[1:] != grams[:-1]) | (texts_of[1:] != texts_of[:-1])
    return grams[first], texts_of[first]


def _each_passage_once(texts: Iterable[Text]) -> Iterator[Text]:
    """A passage that a hundred rows were given is one text; an answer that a hundred rows repeat is boilerplate."""
    met: set[int] = set()
    for text in texts:
        if text.field in PASSAGE_FIELDS:
            if (mark := hash(text.text)) in met:
                continue
            met.add(mark)
        yield text


def _batches(texts: Iterator[Text]) -> Iterator[list[Text]]:
    while batch := list(islice(texts, _BATCH)):
        yield batch


def _common(held_out: str, seen: str) -> str:
    """The longest run of tokens that both hold, as it stands in the folded held-out text."""
    folded = _fold(held_out)
    found = list(_TOKEN.finditer(folded))
    words = [token.group() for token in found]
    others = _TOKEN.findall(_fold(seen))
    known = {tuple(others[n : n + RUN]) for n in range(len(others) - RUN + 1)}
    best = start = end = 0
    for n in range(len(words) - RUN + 1):
        if tuple(words[n : n + RUN]) not in known:
            start = n + 1
        elif n + RUN - start > end - best:
            best, end = start, n + RUN
    text = folded[found[best].start() : found[end - 1].end()] if end else ""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
