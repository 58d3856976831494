"""The guard in front of every page: a foreign page that is open in the same browser must not start or change anything.

Dagster's webserver has no login, takes mutations by GET, and looks at neither Host nor Origin. A browser sends the
requests of any page to 127.0.0.1, so each of these is a door. Here every request names a host that we are (else DNS
rebinding), and one that comes from a page names our own origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_VARIABLE = "FT_REPORT_TOKEN"  # noqa: S105
LOOPBACK = ("localhost", "127.0.0.1", "::1")
GRAPHQL = "/graphql"
_REPORTS = "/report_"  # report_asset_check, report_asset_materialization, report_asset_observation
_READS = {"GET", "HEAD"}
_MAX_QUERY = 1 << 20  # bytes; the longest query of Dagster's own pages has 20 kB
_DEFAULT_PORTS = {"80", "443"}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/@]+)(:(?P<port>[0-9]+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """A request that is not passed on: the status and one line for the person who reads it."""

    status: int
    reason: str


class Guard:
    """An ASGI application in front of another one.

    `hosts`: names that a request may be for, in addition to those of the loopback and to addresses in figures, which no
    foreign page can take. `token`: needed for Dagster's `/report_*`; without one they are refused. `read_only`: nothing
    that changes anything is passed on.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str] = (), token: str | None = None, read_only: bool = False
    ) -> None:
        self._app = app
        self._hosts = {name.lower().removesuffix(".") for name in (*LOOPBACK, *hosts)}
        self._token = token
        self._read_only = read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._app(scope, receive, send)
        elif self._wrong_sender(scope, Headers(scope=scope)):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the browser sees a 403
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is None and self._read_only and scope["method"] not in _READS:
            body = await _read(receive)
            refusal = None if _only_asks(body) else Refusal(403, "These pages are read-only.")
            receive = _replay(body, receive)
        if refusal is None:
            await self._app(scope, receive, _unframed(send))
            return
        headers = {"X-Content-Type-Options": "nosniff", **({"Allow": "POST"} if refusal.status == 405 else {})}
        await PlainTextResponse(f"{refusal.reason}\n", refusal.status, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers, method, path = Headers(scope=scope), str(scope["method"]), str(scope["path"])
        if wrong := self._wrong_sender(scope, headers):
            return wrong
        if path.startswith(_REPORTS) and not self._has_token(headers):
            return Refusal(
                401, f"{path} needs the header `Authorization: Bearer TOKEN`, the token of {TOKEN_VARIABLE} of `ft ui`."
            )
        if path == GRAPHQL and method != "POST":
            return Refusal(405, "GraphQL is answered by POST alone.")
        if path == GRAPHQL and _media_type(headers) != "application/json":
            return Refusal(415, "GraphQL is answered for Content-Type: application/json alone.")
        if self._read_only and method not in _READS and path != GRAPHQL:
            return Refusal(403, "These pages are read-only.")
        return None

    def _wrong_sender(self, scope: Scope, headers: Headers) -> Refusal | None:
        """Return why the request is for another server, or comes from another one's page."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_us(_place(hosts[0])[0]):
            shown = ", ".join(hosts) or "none"
            return Refusal(403, f"Host {shown} is not known here. Start with `ft ui --allow-host NAME` if it is yours.")
        if any(_place_of(origin) != _place(hosts[0]) for origin in origins):
            return Refusal(403, f"Origin {', '.join(origins)} is another page than {hosts[0]}.")
        if headers.get("sec-fetch-site") == "cross-site" and not _is_link(scope, headers):
            return Refusal(403, "The request comes from a page of another site.")
        return None

    def _is_us(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # DNS rebinding needs a name

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return (
            bool(self._token)
            and kind.lower() == "bearer"
            and hmac.compare_digest(given.encode("latin-1"), (self._token or "").encode())
        )


def _place(host: str) -> tuple[str, str]:
    """Return name and port of a Host header, `""` for the port of the scheme; no names of one that is malformed."""
    if found := _HOST.fullmatch(host):
        name, port = found["name"].strip("[]").removesuffix(".").lower(), found["port"] or ""
        return name, "" if port in _DEFAULT_PORTS else port
    return "", ""


def _place_of(origin: str) -> tuple[str, str] | None:
    """Return name and port of an origin; None of one that is none (`null`: a sandboxed page or a file).

    The scheme is left out: in front of us a proxy may end TLS.
    """
    scheme, separator, host = origin.partition("://")
    return _place(host) if separator and scheme in {"http", "https"} else None


def _is_link(scope: Scope, headers: Headers) -> bool:
    """Return whether a person followed a link to a page: what it shows, the page with the link cannot read."""
    return scope.get("method") in _READS and headers.get("sec-fetch-mode") == "navigate"


def _media_type(headers: Headers) -> str:
    """Return the media type alone: a browser sends `text/plain; application/json` without asking us first."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(receive: Receive) -> bytes:
    """Return the body; of one that is too long the beginning, which is no JSON."""
    body = b""
    while len(body) <= _MAX_QUERY:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _only_asks(body: bytes) -> bool:
    """Return whether a GraphQL request has queries alone."""
    try:
        definitions = parse(json.loads(body)["query"]).definitions
    except (ValueError, KeyError, TypeError, RecursionError, GraphQLError):
        return False
    operations = [one for one in definitions if isinstance(one, OperationDefinitionNode)]
    return bool(operations) and all(one.operation == OperationType.QUERY for one in operations)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _unframed(send: Send) -> Send:
    """Return a `send` that lets no foreign page show ours in a frame, where a click could be stolen."""

    async def add_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("X-Frame-Options", "SAMEORIGIN")
        await send(message)

    return add_header
