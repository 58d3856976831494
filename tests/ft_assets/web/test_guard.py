"""Requests of a foreign page are refused by the guard, and those of our own pages get through."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from ft_assets.web.guard import Guard

US = "http://127.0.0.1:3000"
QUERY = {"query": "{version}"}
MUTATION = {"query": "query Harmless {version} mutation {wipeAssets(assetPartitionRanges: []) {__typename}}"}


async def reached(request: Request) -> PlainTextResponse:
    return PlainTextResponse((await request.body()).decode() or "reached")


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("reached")
    await websocket.close()


def guarded(base_url: str = US, **options: object) -> TestClient:
    routes = [
        WebSocketRoute("/graphql", talk),
        Route("/{path:path}", reached, methods=["GET", "POST", "PUT", "DELETE"]),
    ]
    return TestClient(Guard(Starlette(routes=routes), **options), base_url=base_url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:3000",
        "localhost:3000",
        "LOCALHOST",
        "[::1]:3000",
        "[::1]",
        "10.1.2.3:3000",
        "ft.example:3000",
        "ft.example.:3000",
    ],
)
def test_our_own_names_and_addresses_are_answered(host: str) -> None:
    client = guarded(hosts=["ft.example"])
    assert client.get("/assets", headers={"Host": host}).text == "reached"
    assert client.post("/graphql", json=QUERY, headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200
    # in front of us a proxy may end TLS
    assert client.post("/graphql", json=QUERY, headers={"Host": host, "Origin": f"https://{host}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:3000", "localhost.evil.example", "", "localhost:3000:1", "[::1"]
)
def test_a_name_that_is_not_ours_is_refused(host: str) -> None:
    answer = guarded().get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "--allow-host" in answer.text


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:8888",
        "http://127.0.0.1",
        "http://localhost:3000",
        "file://",
        "",
    ],
)
def test_a_request_of_another_page_is_refused(origin: str) -> None:
    client = guarded()
    for method, path in [("POST", "/graphql"), ("POST", "/rollback"), ("GET", "/logs/x"), ("DELETE", "/x")]:
        answer = client.request(method, path, json=QUERY, headers={"Origin": origin})
        assert (answer.status_code, method) == (403, method), answer.text


def test_a_page_of_another_site_may_link_to_us_and_no_more() -> None:
    client, cross = guarded(), {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/runs", headers={**cross, "Sec-Fetch-Mode": "navigate"}).text == "reached"
    assert client.get("/logs/x.out", headers={**cross, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert client.post("/graphql", json=QUERY, headers={**cross, "Sec-Fetch-Mode": "navigate"}).status_code == 403


def test_no_other_site_shows_us_in_a_frame() -> None:
    assert guarded().get("/").headers["X-Frame-Options"] == "SAMEORIGIN"


def test_graphql_takes_json_by_post_alone() -> None:
    client = guarded()
    assert client.get("/graphql", params=QUERY).status_code == 405
    # without a preflight a browser sends these types alone
    for kind in ("text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", ""):
        assert client.post("/graphql", content='{"query":"{x}"}', headers={"Content-Type": kind}).status_code == 415
    assert client.post("/graphql", json=QUERY).json() == QUERY


@pytest.mark.parametrize("kind", ["check", "materialization", "observation"])
def test_reports_need_the_token(kind: str) -> None:
    path = f"/report_asset_{kind}/sft_adapter"
    foreign = {b"Authorization": "Bearer é".encode()}
    for header in (
        {},
        foreign,
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s"},
    ):
        assert guarded(token="s").post(path, headers=header).status_code == 401
        assert guarded(token=None).post(path, headers=header).status_code == 401
        assert guarded(token="").post(path, headers=header).status_code == 401
    assert guarded(token="s").post(path, headers={"Authorization": "Bearer s"}).text == "reached"


def test_a_viewer_can_ask_and_change_nothing() -> None:
    client = guarded(read_only=True, token="s")
    assert client.post("/graphql", json=QUERY).json() == QUERY
    assert client.get("/runs").text == "reached"
    refused = [MUTATION, {"query": "mutation{x}"}, {"query": "subscription{x}"}, {"query": "{"}, {}, [], {"query": 1}]
    for body in refused:
        assert client.post("/graphql", json=body).status_code == 403, body
    deep = {"Content-Type": "application/json"}
    for content in ("[" * 100_000, '{"query": "' + "{a" * 5_000 + '"}'):
        assert client.post("/graphql", content=content, headers=deep).status_code == 403
    header = {"Authorization": "Bearer s"}
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/rollback", headers=header).status_code == 403
        assert client.request(method, "/report_asset_check/x", headers=header).status_code == 403


def test_a_websocket_is_opened_by_our_own_pages_alone() -> None:
    with guarded().websocket_connect("/graphql", headers={"Origin": US, "Host": "127.0.0.1:3000"}) as websocket:
        assert websocket.receive_text() == "reached"
    for header in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), guarded().websocket_connect("/graphql", headers=header):
            pass
