"""The sensor that sends notices: released, rolled back, trained, a blocking check failed, config.yaml is invalid."""

# the signature of dg.sensor is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import logging
import os
import ssl
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import dagster as dg
import msgspec

from expectations.canonical import digest
from ft_assets.config.load import accepted_settings
from ft_assets.config.model import NotifySettings
from ft_assets.graph.automation import POINTERS, TRAININGS
from ft_assets.graph.gates import Gate, violations_of
from ft_assets.settings.checks import VALID
from resources.dagster_resources import ArtifactsResource

INTERVAL = 30
_SECONDS = 20  # how long a delivery may take
_ENOUGH = 35  # seconds after which a look begins no delivery: Dagster kills it after a minute, and its cursor is lost
_LOSSES = ("train_loss_last", "eval_loss_after", "loss_last")  # of adapters, and of the encoder
_AT_ONCE, _REASONS = 50, 5  # events of one asset in one look, and reasons of one check

Place = Literal["command", "webhook"]
Kind = Literal["released", "rolled back", "training finished", "check failed", "configuration invalid"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `text` is a sentence for a person, as chats show it; the rest is for programs."""

    event: Kind
    asset: str
    text: str
    details: dict[str, str]


class _Due(msgspec.Struct, frozen=True):
    """A notice that one place has not taken yet."""

    notice: Notice
    place: Place


class _Seen(msgspec.Struct):
    """The last materialization and version of each asset, the outcome of each failed check, and what is still due."""

    materialized: dict[str, int] = {}
    versions: dict[str, str] = {}
    failed: dict[str, str] = {}
    due: list[_Due] = []


class DeliveryError(Exception):
    """A notice was not taken: it is sent again at the next look. The text never has the URL, which is a secret."""


class _Delivery(msgspec.Struct, frozen=True):
    """The outcome of one look."""

    sent: list[Notice]
    due: list[_Due]
    errors: list[DeliveryError]


def notify(gates: Sequence[Gate]) -> dg.SensorDefinition:
    """Return the sensor. `gates`: those of the graph."""
    checks = [dg.AssetCheckKey(dg.AssetKey(gate.asset), gate.name) for gate in gates if _is_reported(gate)]

    @dg.sensor(
        name="notify",
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends what happened to people, by the command or the webhook of `notify` in config.yaml.",
    )
    def sensor(context: dg.SensorEvaluationContext, artifacts: ArtifactsResource) -> dg.SensorResult:
        settings = accepted_settings(Path(artifacts.config_path), artifacts.state()).notify
        seen = msgspec.json.decode(context.cursor, type=_Seen) if context.cursor else None
        news = _Seen()
        notices = [*_made(context.instance, seen, news), *_failed(context.instance, checks, seen, news)]
        cursor = msgspec.json.encode(news).decode()
        if seen is None:  # what happened before the first look is no news
            return dg.SensorResult(skip_reason="the first look", cursor=cursor)
        if not settings.is_set:
            return dg.SensorResult(
                skip_reason="config.yaml names no notify.command and no notify.webhook", cursor=cursor
            )
        places = _places(settings)
        due = [one for one in seen.due if one.place in places]
        due += [_Due(notice, place) for notice in notices for place in places]
        delivery = _deliver(due, settings, artifacts.state_dir)
        if delivery.errors and not delivery.sent:
            raise delivery.errors[0]
        news.due = delivery.due
        return dg.SensorResult(skip_reason=_describe_delivery(delivery), cursor=msgspec.json.encode(news).decode())

    return sensor


def _is_reported(gate: Gate) -> bool:
    return gate.blocking or gate.name == VALID


def _made(instance: dg.DagsterInstance, seen: _Seen | None, news: _Seen) -> Iterator[Notice]:
    for name in sorted(POINTERS | TRAININGS):
        last = seen.materialized.get(name, 0) if seen else None
        found = dg.AssetRecordsFilter(dg.AssetKey(name), after_storage_id=last)
        first = last is None  # then the newest one is enough
        records = instance.fetch_materializations(found, limit=1 if first else _AT_ONCE, ascending=not first).records
        news.materialized[name] = max((record.storage_id for record in records), default=last or 0)
        news.versions[name] = seen.versions.get(name, "") if seen else ""
        for record in records:
            if event := record.asset_materialization:
                figures = {key: str(value.value) for key, value in event.metadata.items()}
                yield from _describe(name, figures, news.versions)


def _describe(name: str, figures: Mapping[str, str], versions: dict[str, str]) -> Iterator[Notice]:
    """Yield the notice of a materialization; none if nothing new was made. Its version is put into `versions`."""

    def notice(event: Kind, text: str, *kept: str) -> Notice:
        return Notice(event=event, asset=name, text=text, details={key: figures[key] for key in kept if key in figures})

    version = figures.get("version") or figures.get("recipe", "")
    before, versions[name] = versions.get(name), version
    if name in TRAININGS:
        if figures.get("reused") != "True":
            text = f"{name}: the training has finished"
            yield notice("training finished", text, "recipe", "seconds", *_LOSSES, "choice")
    elif left := figures.get("rolled_back_from"):
        text = f"{name}: rolled back from {left} to {version} by {figures.get('who')} ({figures.get('why')})"
        yield notice("rolled back", text, "version", "rolled_back_from", "who", "why")
    elif version != before:
        yield notice("released", f"{name}: {version} is released", "version")


def _failed(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], seen: _Seen | None, news: _Seen
) -> Iterator[Notice]:
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
    for key, record in sorted(latest.items(), key=lambda item: str(item[0])):
        asset = key.asset_key.to_user_string()
        name = VALID if key.name == VALID else f"{asset}.{key.name}"
        before = seen.failed.get(name) if seen else None
        event = record.event.dagster_event if record.event else None
        if event is None or event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:  # it runs just now
            news.failed |= {name: before} if before else {}
            continue
        evaluation = event.asset_check_evaluation_data
        if evaluation.passed or name in news.failed:  # all sections report the same file
            continue
        reasons = violations_of(evaluation)
        news.failed[name] = digest(reasons)
        if news.failed[name] != before:
            kind: Kind = "configuration invalid" if name == VALID else "check failed"
            what = "config.yaml cannot be used" if name == VALID else f"{name} failed"
            details = {str(number): reason for number, reason in enumerate(reasons[:_REASONS], start=1)}
            yield Notice(event=kind, asset=asset, text=f"{what}: {reasons[0]}", details=details)


def _deliver(due: Sequence[_Due], settings: NotifySettings, state: str) -> _Delivery:
    """Send notices of this state folder. A place that refuses one gets no more in this look, and late ones wait."""
    end, sent, left = time.monotonic() + _ENOUGH, list[Notice](), list[_Due]()
    errors: dict[Place, DeliveryError] = {}
    for one in due:
        if one.place in errors or time.monotonic() > end:
            left.append(one)
            continue
        body = msgspec.json.encode({**msgspec.structs.asdict(one.notice), "state": state})
        try:
            if one.place == "command":
                _run(settings.command, body)
            else:
                _post(settings.webhook or "", body)
        except DeliveryError as error:
            errors[one.place] = error
            left.append(one)
        else:
            sent.append(one.notice)
    return _Delivery(sent, left, list(errors.values()))


def _places(settings: NotifySettings) -> list[Place]:
    set_up: dict[Place, bool] = {"command": bool(settings.command), "webhook": bool(settings.webhook)}
    return [place for place, is_set in set_up.items() if is_set]


def _describe_delivery(delivery: _Delivery) -> str:
    texts = "; ".join(dict.fromkeys(notice.text for notice in delivery.sent))
    wait = f". {len(delivery.due)} wait for the next look" if delivery.due else ""
    return (f"sent: {texts}" if texts else "no news") + wait + "".join(f". {error}" for error in delivery.errors)


def _run(command: Sequence[str], body: bytes) -> None:
    try:
        done = subprocess.run(command, input=body, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeliveryError(f"notify.command {command[0]}: {type(error).__name__}") from None
    if done.returncode:
        raise DeliveryError(f"notify.command {command[0]} ended with {done.returncode}")


def _post(variable: str, body: bytes) -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        raise DeliveryError(f"the environment variable {variable} (notify.webhook) holds no http(s) address")
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # its line for each request has the address
    headers = {"Content-Type": "application/json"}
    try:
        trusted = ssl.create_default_context()  # the system's certificates: those of a company's own server too
        with httpx.stream(
            "POST", url, content=body, headers=headers, timeout=_SECONDS, verify=trusted
        ) as answer:  # its text is not read
            status, taken = answer.status_code, answer.is_success
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # their texts may have the address
        raise DeliveryError(f"the webhook of {variable} cannot be reached: {type(error).__name__}") from None
    if not taken:
        raise DeliveryError(f"the webhook of {variable} answered {status}")
