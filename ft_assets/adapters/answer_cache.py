"""Answers that were generated before: an equal model answers an equal prompt in the same way, so it is asked once.

    <store>/generated_answers/<recipe>/generated.parquet    the prompts of one model that had no answer yet

`generated_answers` is an artifact without an asset: nobody materializes it, and losing it costs only time. A changed
weight of the retrieval leaves most prompts as they were, and a released adapter is often one of the candidates.
"""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from expectations.canonical import digest
from resources.accelerator import Compute
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.generator import Generated
from resources.text_source import ChatMessage

_ASSET = "generated_answers"
_VERSION = "1"
_FILE = "generated.parquet"
_KEPT = 32

Chats = Sequence[Sequence[ChatMessage]]


class AnswerCache:
    """The answers in a store. `base`: the version of the base model; `trained`: name -> the version of an adapter."""

    def __init__(self, store: ArtifactStore, base: str, trained: Mapping[str, str], compute: Compute) -> None:
        self._store, self._base, self._trained, self._compute = store, base, trained, compute

    def ask(
        self, name: str, chats: Chats, max_new_tokens: int, generate: Callable[[Chats], list[Generated]]
    ) -> list[Generated]:
        """Return the model's answer to each chat; `generate` is called for the chats without one, each once."""
        model = {
            "base": self._base,
            "adapter": self._trained.get(name, ""),
            "max_new_tokens": max_new_tokens,
            "dtype": self._compute.dtype,
            "device": self._compute.device,
        }
        prompts = [digest(list(chat)) for chat in chats]
        known = self._read(model)
        missing = {prompt: chat for prompt, chat in zip(prompts, chats, strict=True) if prompt not in known}
        if missing:
            made = dict(zip(missing, generate(list(missing.values())), strict=True))
            self._write(model, made)
            known |= made
        return [known[prompt] for prompt in prompts]

    def _read(self, model: Mapping[str, object]) -> dict[str, Generated]:
        known: dict[str, Generated] = {}
        for artifact in self._store.versions(_ASSET):
            if artifact.manifest.recipe.settings.get("model") != model:
                continue
            if artifact.verify():
                self._store.discard(artifact)
                continue
            known |= _answers_in(artifact)
        return known

    def _write(self, model: Mapping[str, object], made: Mapping[str, Generated]) -> None:
        settings = {"model": dict(model), "prompts": digest(sorted(made))}
        with self._store.stage(Recipe(asset=_ASSET, code_version=_VERSION, settings=settings)) as staging:
            _write_answers(staging.path / _FILE, made)
            staging.publish({"answers": len(made)})
        self._store.prune(_ASSET, _KEPT)


def _answers_in(artifact: Artifact) -> dict[str, Generated]:
    import pyarrow.parquet as pq

    rows = pq.read_table(artifact.file(_FILE)).to_pylist()
    return {row.pop("prompt"): Generated(**row) for row in rows}


def _write_answers(path: Path, made: Mapping[str, Generated]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"prompt": p, **answer._asdict()} for p, answer in made.items()]), path)
