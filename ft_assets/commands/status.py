"""`ft status`: each asset's version, if it is in sync or why it is stale, its checks, and if it is released."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, cast

import click
import dagster as dg
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expectations.canonical import digest
from expectations.violations import Refused
from ft_assets.commands.execution import execute
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import take_terminal
from ft_assets.config.model import SETTINGS_ASSETS, sections_json
from ft_assets.graph.gates import check_state
from resources.artifacts import ArtifactStore
from resources.releases import Release, ReleaseKind, Releases
from resources.telemetry import duration

_VERSION_TAG = "dagster/data_version"
_CODE_TAG = "dagster/code_version"
_INPUT_TAG = "dagster/input_data_version/"
_KINDS: tuple[ReleaseKind, ...] = ("adapter", "collection")


class AssetStatus(msgspec.Struct, kw_only=True):
    """The status of one asset."""

    asset: str
    group: str
    version: str = ""
    state: str = "in sync"
    """in sync | stale | never made | source | not configured (config.yaml does not have a section that it needs)"""
    reasons: list[str] = []
    made_at: float = 0.0
    checks: dict[str, str] = {}
    """check -> passed | failed | not judged"""
    released: bool = False


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show each asset: version, in sync or stale and why, checks, released or not. Changes nothing.

    \b
    Example: ft status --json | jq '.[] | select(.state == "stale")'
    """
    project = Project.here()
    sections = {SETTINGS_ASSETS[section]: values for section, values in sections_json(project.settings).items()}
    with take_terminal(project.state / "dagster" / "console.log") as console:
        statuses = read_status(project.definitions, project.instance, project.store, project.releases, sections)
        statuses += _not_configured(project.not_configured)
        if as_json:
            text = json.dumps(msgspec.to_builtins(statuses), ensure_ascii=False, indent=2)
            console.print(text, markup=False, soft_wrap=True)
        else:
            print_status(statuses, project.releases, console)


def _not_configured(lacking: Mapping[str, str]) -> list[AssetStatus]:
    from ft_assets.definitions import SPECS

    return [
        AssetStatus(
            asset=spec.name,
            group=spec.group,
            state="not configured",
            reasons=[f"config.yaml does not have `{lacking[spec.name]}`"],
        )
        for spec in SPECS
        if spec.name in lacking
    ]


def read_status(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    store: ArtifactStore,
    releases: Releases,
    sections: Mapping[str, Mapping[str, Any]],
) -> list[AssetStatus]:
    """Return the status of every asset, sources first. `sections`: settings asset -> its values in config.yaml."""
    graph = defs.resolve_asset_graph()
    sources = observe_now(defs)
    released = _released(releases)
    statuses: dict[dg.AssetKey, AssetStatus] = {}
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        name = key.to_user_string()
        status = statuses[key] = AssetStatus(asset=name, group=node.group_name)
        if key not in graph.materializable_asset_keys:
            status.state, status.version = "source", sources.get(key, "")
            continue
        entry = instance.get_latest_materialization_event(key)
        materialization = entry.asset_materialization if entry else None
        if entry is None or materialization is None:
            status.state, status.reasons = "never made", [f"make it: ft run --asset {name} --upstream"]
            continue
        tags = materialization.tags or {}
        status.version, status.made_at = tags.get(_VERSION_TAG, ""), entry.timestamp
        status.reasons = [
            *_code_reasons(tags, node.code_version),
            *_section_reasons(store, name, sections),
            *_artifact_reasons(store, name, materialization),
            *chain.from_iterable(_parent_reasons(tags, statuses[parent]) for parent in sorted(node.parent_keys)),
        ]
        status.state = "stale" if status.reasons else "in sync"
        status.released = name in released and released[name] == _recipe(materialization)
        status.checks = {
            check.name: check_state(instance.get_latest_asset_check_evaluation_record(check), entry.timestamp)
            for check in sorted(node.check_keys, key=lambda k: k.name)
        }
    return list(statuses.values())


def observe_now(defs: dg.Definitions) -> dict[dg.AssetKey, str]:
    """Return the data version of every observable source as it is now, without recording it."""
    graph = defs.resolve_asset_graph()
    keys = [key for key in graph.toposorted_asset_keys if key in graph.observable_asset_keys]
    if not keys:
        return {}
    with cast("dg.DagsterInstance", cast("Any", dg.DagsterInstance).ephemeral()) as scratch:
        result = execute(defs.resolve_implicit_global_asset_job_def(), scratch, keys=keys)
        observations = [e.asset_observation_data.asset_observation for e in result.all_events if e.is_asset_observation]
    return {observation.asset_key: (observation.tags or {}).get(_VERSION_TAG, "") for observation in observations}


def print_status(statuses: list[AssetStatus], releases: Releases, console: Console) -> None:
    """Print a table of all assets, then the releases."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("group", "asset", "version", "made", "state", "checks", "why"):
        table.add_column(title, no_wrap=title != "why", overflow="fold")
    colours = {"in sync": "green", "stale": "yellow", "never made": "red"}
    groups = list(dict.fromkeys(status.group for status in statuses))
    for status in sorted(statuses, key=lambda status: groups.index(status.group)):
        colour = colours.get(status.state, "default")
        age = f"{duration(time.time() - status.made_at)} ago" if status.made_at else ""
        name = f"{status.asset} [bold]●[/]" if status.released else status.asset
        why = escape("; ".join(status.reasons))
        table.add_row(
            status.group, name, status.version[:12], age, f"[{colour}]{status.state}[/]", checks_line(status), why
        )
    console.print(table)
    for kind in _KINDS:
        try:
            release = releases.current(kind)
        except Refused as damaged:
            console.print(f"released {kind}: [red]{escape(str(damaged.violations[0]))}[/]", soft_wrap=True)
            continue
        console.print(f"released {kind}: {_describe_release(release, statuses)}")
        try:
            releases.announced(kind)
        except Refused as damaged:
            console.print(f"released {kind}: [red]{escape(str(damaged.violations[0]))}[/]", soft_wrap=True)
    if all(status.state in {"never made", "not configured", "source"} for status in statuses):
        console.print("nothing was made yet: ft run --all")


def _describe_release(release: Release | None, statuses: Sequence[AssetStatus]) -> str:
    """Return the version, with the mark that its assets have in the table, or that they are newer there."""
    if release is None:
        return "none"
    parts = [status for status in statuses if status.asset in release.artifacts]
    marked = any(status.released for status in parts)
    newer = [status.asset for status in parts if not status.released]
    if marked and not newer:
        return f"{release.version} (●)"
    return f"{release.version} (made from another version of {', '.join(newer)} than the one above)"


def checks_line(status: AssetStatus) -> str:
    """Return the number of checks by state: `5 passed`, `1 FAILED 4 passed`, `2 not judged`."""
    states = list(status.checks.values())
    words = (("failed", "[red]{} FAILED[/]"), ("not judged", "[yellow]{} not judged[/]"), ("passed", "{} passed"))
    return " ".join(text.format(states.count(state)) for state, text in words if state in states)


def _code_reasons(tags: Mapping[str, str], code_version: str | None) -> list[str]:
    recorded = tags.get(_CODE_TAG)
    if code_version is None or recorded == code_version:
        return []
    return [f"its code version is {code_version}, it was made by version {recorded}"]


def _section_reasons(store: ArtifactStore, name: str, sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if name not in sections:
        return []
    try:
        current = store.current(name)
    except Refused:  # _artifact_reasons shows it
        return []
    if current is None:
        return []
    before, now = current.manifest.recipe.settings, sections[name]
    if digest(before) == digest(now):
        return []
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return [f"config.yaml changed: {', '.join(changed)}"]


def _artifact_reasons(store: ArtifactStore, name: str, materialization: dg.AssetMaterialization) -> list[str]:
    recipe = _recipe(materialization)
    if not recipe:
        return []
    try:
        store.require(name)
    except Refused as damaged:  # others read the current artifact, whatever was made last
        return [str(damaged.violations[0])]
    return ["its artifact is gone"] if store.find(name, recipe) is None else []


def _parent_reasons(tags: Mapping[str, str], parent: AssetStatus) -> list[str]:
    used = tags.get(_INPUT_TAG + parent.asset)
    if used is not None and parent.version and used != parent.version:
        return [f"{parent.asset} is now {parent.version[:12]}, it was made from {used[:12]}"]
    return [f"{parent.asset} is {parent.state}"] if parent.state in {"stale", "never made"} else []


def _recipe(materialization: dg.AssetMaterialization) -> str:
    value = materialization.metadata.get("recipe")
    return str(value.value) if value is not None else ""


def _released(releases: Releases) -> dict[str, str]:
    """Return asset -> recipe id of the current releases. A damaged record names none; `print_status` shows it."""
    recipes: dict[str, str] = {}
    for kind in _KINDS:
        with suppress(Refused):
            if release := releases.current(kind):
                recipes |= release.artifacts
    return recipes
