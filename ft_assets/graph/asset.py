"""The specification of an artifact asset, stated once: its dependencies, its recipe, its guard and its worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import dagster as dg
import msgspec

from expectations.violations import Refused, Violation
from ft_assets.graph.gates import Evidence, Gate, enforce, violation_table
from resources.artifacts import Artifact, Recipe
from resources.dagster_resources import ArtifactsResource, Launcher

OWNERS = ["team:ft-assets"]


class RefusedRun(dg.Failure, Refused):
    """A refusal as Dagster shows it: code, reason and fix come first, and it is not tried again."""

    def __init__(self, refused: Refused) -> None:
        Refused.__init__(self, refused.subject, refused.violations)
        # what dg.Failure's own __init__ sets; it would call that of Refused
        self.description = "\n".join(map(_in_lines, refused.violations))
        self.metadata = violation_table(refused.violations)
        self.allow_retries = False


def _in_lines(broken: Violation) -> str:
    return f"[{broken.code}] {broken.where}: {msgspec.structs.replace(broken, fix='').text}\nFix: {broken.fix}"


def show_refusals(compute: Callable[..., dg.MaterializeResult[Any]]) -> Callable[..., dg.MaterializeResult[Any]]:
    """Return the function of an asset with its refusals as failures that begin with the reason."""

    @wraps(compute)
    def asset(*arguments: Any, **named: Any) -> dg.MaterializeResult[Any]:
        try:
            return compute(*arguments, **named)
        except Refused as refused:
            raise RefusedRun(refused) from None

    return asset


@dataclass(frozen=True, kw_only=True)
class AssetSpec:
    """One asset that leaves an artifact or moves a release.

    >>> VECTORS = AssetSpec(
    ...     name="passage_vectors", group="retrieval", kinds={"parquet"}, code_version="1", description="Vectors.",
    ...     inputs=("embedding_model", "passages"), worker="ft_assets.retrieval.encode",
    ... )
    >>> VECTORS.deps
    ('embedding_model', 'passages')
    """

    name: str
    group: str
    kinds: set[str]
    code_version: str
    """Raise it when equal inputs give another artifact: then no earlier artifact is reused."""
    description: str
    inputs: tuple[str, ...] = ()
    """Assets whose versions are in the recipe."""
    pinned: tuple[str, ...] = ()
    """Assets whose version may be in the recipe because a setting names it. They are not upstream, which would close a
    cycle: a change of them changes nothing here."""
    reads: tuple[str, ...] = ()
    """Other assets that it reads: settings, whose values are in the recipe, and releases."""
    any_of: tuple[str, ...] = ()
    """Those of its dependencies of which one is enough; `configured` returns those that the graph has."""
    enforces: tuple[str, ...] = ()
    """Assets whose blocking gates must pass before it is made."""
    gates: tuple[Sequence[Gate], ...] = field(default=(), repr=False)
    """The gates among which those of `enforces` are found."""
    worker: str = ""
    """Module whose `main(job)` computes it; empty if it is computed in the run itself."""

    @property
    def deps(self) -> tuple[str, ...]:
        """The assets that Dagster must know as upstream."""
        return tuple(dict.fromkeys((*self.inputs, *self.reads)))

    def configured(self, context: dg.AssetExecutionContext) -> list[str]:
        """Return those of `any_of` that the graph of this run has."""
        return [name for name in self.any_of if self.has(context, name)]

    def has(self, context: dg.AssetExecutionContext, name: str) -> bool:
        """Return whether the graph of this run has this dependency."""
        return dg.AssetKey(name) in context.assets_def.asset_deps[context.asset_key]

    def asset(self, compute: Callable[..., dg.MaterializeResult[Any]]) -> dg.AssetsDefinition:
        """Decorate the function that materializes this asset."""
        return dg.asset(
            show_refusals(compute),
            name=self.name,
            deps=self.deps,
            group_name=self.group,
            kinds=self.kinds,
            owners=OWNERS,
            code_version=self.code_version,
            description=self.description,
        )

    def enforce(self, evidence: Evidence, assets: Sequence[str] | None = None) -> None:
        """Refuse (raises Refused) unless every blocking gate on these assets (default: `enforces`) passes now."""
        enforce(self.name, evidence, *self.gates, assets=self.enforces if assets is None else assets)

    def recipe(
        self, artifacts: ArtifactsResource, settings: Mapping[str, object], inputs: Sequence[str] | None = None
    ) -> Recipe:
        """Return the recipe from the current versions of these inputs (default: all of them).

        Raises Refused if one was never made.
        """
        store = artifacts.store()
        names = self.inputs if inputs is None else inputs
        return self.recipe_from(settings, {name: store.require(name).data_version for name in names})

    def recipe_from(self, settings: Mapping[str, object], versions: Mapping[str, str]) -> Recipe:
        """Return the recipe from the given versions of inputs. Raises ValueError for one that is not declared.

        An asset that continues from its own last version may name itself.
        """
        undeclared = versions.keys() - {*self.inputs, *self.pinned, self.name}
        if undeclared:
            raise ValueError(f"{self.name} does not declare the inputs {sorted(undeclared)}")
        return Recipe(asset=self.name, code_version=self.code_version, settings=dict(settings), inputs=dict(versions))

    def launch(
        self,
        context: dg.AssetExecutionContext,
        launcher: Launcher,
        params: msgspec.Struct,
        *,
        distributed: bool = False,
    ) -> Callable[[Recipe], Artifact]:
        """Return the function that has the worker make the artifact of a recipe."""
        return lambda recipe: launcher.run(context, self.worker, recipe, params, distributed=distributed)
