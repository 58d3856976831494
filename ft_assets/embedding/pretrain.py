"""The inverse cloze task (arXiv 1906.00300): a sentence of a passage is the question, the rest of it the answer.

It needs no judgements: an encoder learns the corpus from the corpus. No question of any split is read.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from expectations.text.cleaning import sentences, text_size
from ft_assets.embedding.pairs import Passages, Questions

_KEPT = 0.1  # share of passages that keep the sentence, so that equal words are learned too: as in the paper
_LEAST = 12  # size of a sentence that may ask; shorter ones are names and numbers


def ask_sentences(passages: Passages, most: int, random: Random) -> tuple[Questions, Passages]:
    """Return a sentence of each passage that has two as its question, and these passages, mostly without the sentence.

    Of a larger corpus a sample of `most` passages is taken.
    """
    rows: list[int] = []
    contents: list[str] = []
    asked = Questions([], [], [], [])
    for row in random.sample(range(len(passages.ids)), len(passages.ids)):
        if len(rows) == most:
            break
        name, content = passages.ids[row], passages.contents[row]
        spans = [span for span in sentences(content) if text_size(content[slice(*span)]) >= _LEAST]
        if len(spans) < 2:
            continue
        start, end = random.choice(spans)
        without = f"{content[:start].rstrip()} {content[end:].lstrip()}".strip()
        contents.append(content if random.random() < _KEPT else without)
        rows.append(row)
        asked.ids.append(name)
        asked.texts.append(content[start:end])
        asked.qrels.append({name: 1})
    return asked, replace(passages.take(rows), contents=contents)
