"""Search: the live collection and the candidate next to each other, with other weights, and the models' answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from expectations.contracts.embedding import Fusion
from expectations.violations import Refused
from ft_assets.adapters.evaluate import chat_of
from ft_assets.adapters.jobs import TRAINED
from ft_assets.adapters.prompt import prompt_of
from ft_assets.adapters.score_answers import ask_all
from ft_assets.config.load import SettingsError, accepted_settings
from ft_assets.config.model import Settings
from ft_assets.retrieval.choose_fusion import fusion_of, served_fusion_of
from ft_assets.retrieval.questions import QueryTerm
from ft_assets.retrieval.search import Hit, LoadedEncoder, Retriever, SearchAnswer, load_encoder
from ft_assets.web.project import ShownProject
from resources.artifacts import Artifact, ArtifactStore
from resources.asker import open_asker
from resources.engines.protocol import VectorClient
from resources.launcher import ComputeParams
from resources.memo import Memo
from resources.qdrant import aliased
from resources.text_source import BASE, GeneratorParams

MOST = 50
_MOST_WEIGHT = 10.0
_NO_WEIGHT = "Both weights are 0: every passage would have the score 0. Give one of them a weight above 0."
_encoders: Memo[LoadedEncoder] = Memo(2)  # by folder and data version of the model artifact


class MarkedPart(msgspec.Struct, frozen=True):
    """A piece of a text; `found` where it is a term of the question."""

    text: str
    found: bool


class ShownHit(msgspec.Struct, frozen=True, kw_only=True):
    """A hit with its matched terms."""

    passage_id: str
    document_id: str
    score: float
    dense: float
    sparse: float
    rerank: float | None
    parts: list[MarkedPart]
    terms: list[QueryTerm]


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one collection."""

    title: str
    collection: str
    passages: str
    """Recipe id of the passages that it was made from; empty if the store has them no more."""
    fusion: Fusion
    hits: list[ShownHit]
    found: bool
    notes: list[str]


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one model from the live passages."""

    model: str
    text: str


class SearchView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /search."""

    query: str
    searched_as: str
    k: int
    served: Fusion | None
    """The fusion that serves; None while nothing serves."""
    dense: float
    sparse: float
    changed: bool
    """True if the sliders differ from what serves."""
    rankings: list[Ranking]
    same: str
    """The reason why there is no second column; empty where there is one."""
    refusals: list[str]
    answers: list[ModelAnswer]
    can_answer: list[str]
    most_weight: float = _MOST_WEIGHT


def search_page(
    project: ShownProject, query: str, *, k: int = 0, weights: tuple[float, float] | None = None, answer: bool = False
) -> SearchView:
    """Return what live and candidate find. `weights`: dense and lexical, in place of those that serve."""
    k = min(k or _settings(project).retrieval.top_k, MOST)
    release = project.releases.current("collection")
    served = msgspec.convert(release.details["fusion"], Fusion) if release else None
    dense, sparse = weights or ((served.dense_weight, served.sparse_weight) if served else (1.0, 1.0))
    view = SearchView(
        query=query,
        searched_as="",
        k=k,
        served=served,
        dense=min(max(dense, 0.0), _MOST_WEIGHT),
        sparse=min(max(sparse, 0.0), _MOST_WEIGHT),
        changed=False,
        rankings=[],
        same="",
        refusals=[],
        answers=[],
        can_answer=[BASE, *_trained(project)],
    )
    if not query or served is None:
        return view
    if not view.dense and not view.sparse:
        return msgspec.structs.replace(view, changed=True, refusals=[_NO_WEIGHT])
    view = msgspec.structs.replace(
        view, changed=(view.dense, view.sparse) != (served.dense_weight, served.sparse_weight)
    )
    try:
        with project.engine.open() as client:
            view = _rank(project, client, view)
        # after the engine is free again: an answer takes seconds
        return msgspec.structs.replace(view, answers=_answer(project, view)) if answer else view
    except (Refused, SettingsError) as error:
        lines = [str(one) for one in error.violations] if isinstance(error, Refused) else [str(error)]
        return msgspec.structs.replace(view, refusals=lines)


def _rank(project: ShownProject, client: VectorClient, view: SearchView) -> SearchView:
    live = Retriever.serving(client, project.store, project.releases, project.engine, load=_encoder)
    candidate, same = _candidate(project, client, live)
    asked = _weighed(live, view) if view.changed else live
    found = asked.answer([view.query], view.k, explain=True)[0]
    rankings = [_ranking(project.store, "Live", asked, found)]
    if candidate:
        weighed = _weighed(candidate, view) if view.changed else candidate
        other = weighed.answer([view.query], view.k, explain=True)[0]
        rankings.append(_ranking(project.store, "Candidate", weighed, other))
    return msgspec.structs.replace(view, searched_as=found.question, rankings=rankings, same=same)


def _candidate(project: ShownProject, client: VectorClient, live: Retriever) -> tuple[Retriever | None, str]:
    """Return the collection that the graph made last, if it is not the live one, or the reason why there is none."""
    artifact = project.store.current("qdrant_collection")
    if artifact is None:
        return None, "There is no candidate: the graph has made no collection in this state."
    name = str(artifact.summary["collection"])
    try:
        fusion_of(project.store)
    except Refused:  # no choice of weights yet: those that serve
        fusion = live.contract.fusion
    else:
        fusion = served_fusion_of(project.store)
    if name == live.name and fusion == live.contract.fusion:
        return None, "The candidate is what serves: there is nothing to compare."
    if name == aliased(client, project.engine.alias):
        return live.weighing(fusion) if fusion else None, ""
    if name not in client.names():
        return None, f"The candidate {name} is no longer in the engine."
    candidate = Retriever.on(client, name, project.store, load=_encoder)
    return candidate.weighing(fusion) if fusion else candidate, ""


def _encoder(model: Artifact) -> LoadedEncoder:
    return _encoders.get((model.path, model.data_version), lambda: load_encoder(model))


def _weighed(retriever: Retriever, view: SearchView) -> Retriever:
    """Return a retriever with the weights of the sliders; the rest of its fusion is its own."""
    fusion = retriever.contract.fusion
    assert fusion is not None  # noqa: S101 - a collection that is served has one
    return retriever.weighing(msgspec.structs.replace(fusion, dense_weight=view.dense, sparse_weight=view.sparse))


def _ranking(store: ArtifactStore, title: str, retriever: Retriever, answer: SearchAnswer) -> Ranking:
    fusion = retriever.contract.fusion
    assert fusion is not None  # noqa: S101 - a collection that is served has one
    return Ranking(
        title=title,
        collection=retriever.name,
        passages=_passages_of(store, retriever.name),
        fusion=fusion,
        hits=[_shown(hit) for hit in answer.hits],
        found=answer.found,
        notes=[*answer.notes, *([retriever.note] if retriever.note else [])],
    )


def _passages_of(store: ArtifactStore, collection: str) -> str:
    """Return the recipe id of the passages that a collection was made from; empty if the store has them no more."""
    made = (one for one in store.versions("qdrant_collection") if one.summary.get("collection") == collection)
    version = next((one.manifest.recipe.inputs.get("passages", "") for one in made), "")
    passages = store.find_version("passages", version) if version else None
    return passages.recipe_id if passages else ""


def _shown(hit: Hit) -> ShownHit:
    return ShownHit(
        passage_id=hit.passage_id,
        document_id=hit.document_id,
        score=hit.score,
        dense=hit.dense,
        sparse=hit.sparse,
        rerank=hit.rerank,
        parts=mark_terms(hit.content, [term.text for term in hit.terms if term.passage_weight]),
        terms=hit.terms,
    )


def mark_terms(text: str, terms: Sequence[str]) -> list[MarkedPart]:
    """Return a text in pieces, those that begin with a term of the question marked up to the end of the word.

    A term is a stem (`authent`), so that `authenticates` is marked; a Chinese term is marked as it is.
    """
    wanted = sorted({re.escape(term) for term in terms if term.strip()}, key=len, reverse=True)
    if not wanted:
        return [MarkedPart(text, False)]
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(wanted)})[A-Za-z]*|{'|'.join(wanted)}", re.IGNORECASE)
    parts: list[MarkedPart] = []
    at = 0
    for match in pattern.finditer(text):
        if not _is_word(match.group(), text, match.start()):
            continue
        parts += [MarkedPart(text[at : match.start()], False), MarkedPart(match.group(), True)]
        at = match.end()
    return [part for part in [*parts, MarkedPart(text[at:], False)] if part.text]


def _is_word(found: str, text: str, start: int) -> bool:
    """Return whether a match is no piece inside a longer Latin word; other scripts have no spaces to tell."""
    before = text[start - 1] if start else " "
    return not (found[0].isascii() and before.isascii() and before.isalnum())


def _settings(project: ShownProject) -> Settings:
    """Return the settings as they are now: `ft ui` runs while a person edits config.yaml."""
    return accepted_settings(project.config, project.state)


def _trained(project: ShownProject) -> dict[str, Artifact]:
    current = {name: project.store.current(asset) for name, asset in TRAINED.items()}
    return {name: artifact for name, artifact in current.items() if artifact}


def _answer(project: ShownProject, view: SearchView) -> list[ModelAnswer]:
    """Return the answers of the base, SFT and DPO from the live passages, as `answer_evaluation` asks for them."""
    settings, trained = _settings(project), _trained(project)
    base = settings.sft or settings.dpo
    if base is None:
        return []
    prompt = prompt_of(settings.answers)
    hits = view.rankings[0].hits[: settings.answers.top_k]
    passages = ["".join(part.text for part in hit.parts) for hit in hits]
    chat = chat_of(prompt, {"question": view.searched_as}, passages)
    params = GeneratorParams(base_model=base.base_model, revision=base.revision, batch_size=settings.answers.batch_size)
    compute = ComputeParams(
        device=settings.accelerator.device, dtype=settings.accelerator.dtype, state_dir=str(Path(project.state))
    )
    with open_asker(params, compute, trained) as asker:
        replies = ask_all(asker, [BASE, *trained], [chat], settings.answers.max_new_tokens)
    return [ModelAnswer(model=name, text=given[0].answer) for name, given in replies.items()]
