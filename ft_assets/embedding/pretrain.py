"""The inverse cloze task (arXiv 1906.00300): a sentence of a passage is the question, the rest of it the answer.

It needs no judgements: an encoder learns the corpus from the corpus. No question of any split is read.
"""

from __future__ import annotations

from random import Random

from expectations.text.cleaning import sentences, text_size
from ft_assets.embedding.pairs import Passages, Questions

_KEPT = 0.1  # share of passages that keep the sentence, so that equal words are learned too: as in the paper
_LEAST = 12  # size of a sentence that may ask; shorter ones are names and numbers


def ask_sentences(passages: Passages, random: Random) -> tuple[Questions, Passages]:
    """Return a sentence of each passage that has two as its question, and the passages, mostly without the sentence."""
    contents = list(passages.contents)
    asked = Questions([], [], [], [])
    for row, (name, content) in enumerate(zip(passages.ids, passages.contents, strict=True)):
        spans = [span for span in sentences(content) if text_size(content[slice(*span)]) >= _LEAST]
        if len(spans) < 2:
            continue
        start, end = random.choice(spans)
        if random.random() >= _KEPT:
            contents[row] = f"{content[:start].rstrip()} {content[end:].lstrip()}".strip()
        asked.ids.append(name)
        asked.texts.append(content[start:end])
        asked.qrels.append({name: 1})
    return asked, Passages(passages.ids, passages.documents, contents, passages.hashes)
