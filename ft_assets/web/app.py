"""The companion page as a Starlette app without state of its own. The JSON twin of a view is at its link + `.json`."""

from __future__ import annotations

import hmac
import importlib
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from expectations.violations import Refused
from ft_assets.config.load import SettingsError
from ft_assets.web import all_answers, data, releases, reports, trainings
from ft_assets.web.overview import show_overview
from ft_assets.web.project import KINDS, NotFound, ShownProject
from ft_assets.web.render import STATIC, render
from ft_assets.web.stop import request_stop

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # `no-referrer` would make the origin of our own forms `null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# a report of a table gate is one page with its style in it
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
_JSON = ".json"
_LARGEST = 1e9
_LONGEST_FORM = 1 << 14  # bytes
View = Callable[[ShownProject, Request], tuple[str, object]]
"""Returns the template and the view that it shows."""


def create_app(project: ShownProject, *, read_only: bool = False, dagster_port: int | None = None) -> Starlette:
    """Return the page of a project. `read_only`: without stop and rollback. `dagster_port`: of its UI, for a link.

    Whoever serves it puts the guard in front: the app itself checks no host.
    """

    app = Starlette(
        routes=[
            Route("/", _page(_overview)),
            Route("/index", _page(_overview)),
            Route("/trainings", _page(_trainings)),
            Route("/trainings/{asset}/{recipe}", _page(_training)),
            Route("/trainings/{asset}/{recipe}/stop", _action(_stop), methods=["POST"]),
            Route("/releases", _page(_releases)),
            Route("/releases/{kind}/compare", _page(_release_comparison)),
            Route("/releases/{kind}/rollback", _page(_confirm_rollback), methods=["GET"]),
            Route("/releases/{kind}/rollback", _action(_rollback), methods=["POST"]),
            Route("/search", _page(_search), methods=["GET"]),
            Route("/search", _action(_ask_models), methods=["POST"]),
            Route("/data", _page(_data)),
            Route("/data/{asset}", _page(_table)),
            Route("/data/{asset}/download", _download),
            Route("/reports", _page(_reports)),
            Route("/reports/tables/{asset}/{name}", _table_report),
            Route("/reports/card/{asset}/{recipe}", _page(_card)),
            Route("/answers/{asset}", _page(_answers)),
            Route("/lineage/{asset}/{recipe}", _page(_lineage)),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={
            NotFound: _not_found,
            HTTPException: _http_error,
            Refused: _refused,
            SettingsError: _refused,
            Exception: _failed,
        },
    )
    app.state.project, app.state.read_only, app.state.dagster_port = project, read_only, dagster_port
    app.state.token = secrets.token_urlsafe(32)
    app.add_middleware(_Twins)
    return app


def import_ahead() -> None:
    """Import what pages need: gates and the encoder's libraries take seconds, which no visitor should wait for."""
    for name in ("ft_assets.definitions", "ft_assets.web.search", "sentence_transformers"):
        importlib.import_module(name)


class _Twins:
    """Takes `.json` off a path and remembers it; adds the headers that every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path.endswith(_JSON) and scope["method"] == "GET":
            scope = {**scope, "path": path.removesuffix(_JSON), "ft_json": True}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                present = {name.lower() for name, _ in headers}
                for name, value in _HEADERS.items():
                    if name.lower().encode() not in present:
                        headers.append((name.lower().encode(), value.encode()))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _page(view: View) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a view: HTML, or its JSON twin."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answer, view, request)

    return endpoint


def _answer(view: View, request: Request) -> Response:
    template, shown = view(request.app.state.project, request)
    if request.scope.get("ft_json"):
        return Response(msgspec.json.encode(shown, enc_hook=str), media_type="application/json")
    return _html(request, template, shown)


def _html(request: Request, template: str, view: object, status: int = 200) -> HTMLResponse:
    state, url = request.app.state, request.url
    twin = f"{'/index' if url.path == '/' else url.path}.json" + (f"?{url.query}" if url.query else "")
    page = render(
        template,
        view,
        path=url.path,
        query=request.query_params,
        twin=twin if request.method == "GET" and status == 200 else "",
        token="" if state.read_only else state.token,
        read_only=state.read_only,
        dagster_url=_dagster_url(request),
    )
    return HTMLResponse(page, status)


def _dagster_url(request: Request) -> str:
    """Return the address of Dagster's pages as this browser reaches them; empty where they are not served."""
    host, port = request.url.hostname or "localhost", request.app.state.dagster_port
    return f"{request.url.scheme}://{f'[{host}]' if ':' in host else host}:{port}" if port else ""


Action = Callable[[ShownProject, Request, Mapping[str, str]], Response]


def _action(act: Action) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a change: refused from another site, without the form's token, and in read-only mode."""

    async def endpoint(request: Request) -> Response:
        form = await _read_form(request)
        _require_own_form(request, form)
        return await run_in_threadpool(act, request.app.state.project, request, form)

    return endpoint


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; those of one that is too long are not read."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            raise HTTPException(413, "The form is too long.")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _require_own_form(request: Request, form: Mapping[str, str]) -> None:
    if request.app.state.read_only:
        raise HTTPException(403, "This page is read-only: it was started with --read-only.")
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.url.netloc
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise HTTPException(403, "This request comes from another site.")
    if not hmac.compare_digest(form.get("token", "").encode(), request.app.state.token.encode()):
        raise HTTPException(403, "This form is of an earlier start of the page. Open it again.")


# -- views ----------------------------------------------------------------------------------------------------------
def _overview(project: ShownProject, request: Request) -> tuple[str, object]:
    del request
    return "overview.html", show_overview(project)


def _trainings(project: ShownProject, request: Request) -> tuple[str, object]:
    query = request.query_params
    given = query.getlist("ids")
    chosen = [name for name in ",".join(given).split(",") if name]
    if len(chosen) == 1:
        return "training.html", trainings.show_training(project, chosen[0])
    if chosen:
        # the boxes of the form are in the order of the table, newest first; `ids=A,B` was written by somebody
        return "comparison.html", trainings.compare_trainings(project, chosen, oldest_first=len(given) > 1)
    rows = trainings.list_trainings(project)
    by = query.get("sort", "created_at")
    return "trainings.html", trainings.sort_trainings(rows, by, query.get("order", "down") == "down")


def _training(project: ShownProject, request: Request) -> tuple[str, object]:
    names = request.path_params
    return "training.html", trainings.show_training(project, names["recipe"], names["asset"])


def _releases(project: ShownProject, request: Request) -> tuple[str, object]:
    del request
    return "releases.html", releases.show_releases(project)


def _release_comparison(project: ShownProject, request: Request) -> tuple[str, object]:
    query = request.query_params
    shown = releases.compare_releases(project, _kind(request), query.get("before", ""), query.get("after", ""))
    return "release_comparison.html", shown


def _confirm_rollback(project: ShownProject, request: Request) -> tuple[str, object]:
    kind, to = _kind(request), request.query_params.get("to", "")
    current = project.releases.current(kind)
    return "rollback.html", releases.compare_releases(project, kind, current.version if current else "", to)


def _kind(request: Request) -> releases.ReleaseKind:
    for kind in KINDS:
        if kind == request.path_params["kind"]:
            return kind
    raise NotFound(f"There are releases of {' and '.join(KINDS)}.")


def _search(project: ShownProject, request: Request, answer: bool = False) -> tuple[str, object]:
    from ft_assets.web.search import search_page

    query = request.query_params
    given = [_number(query.get(name)) for name in ("dense", "sparse")]
    dense, sparse = given
    weights = (dense, sparse) if dense is not None and sparse is not None else None
    k = int(_number(query.get("k")) or 0)
    return "search.html", search_page(project, query.get("q", ""), k=max(k, 0), weights=weights, answer=answer)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and abs(number) < _LARGEST else None


def _data(project: ShownProject, request: Request) -> tuple[str, object]:
    del request
    return "data.html", data.list_data(project)


def _table(project: ShownProject, request: Request) -> tuple[str, object]:
    query = request.query_params
    look = data.Filter(query=query.get("q", ""), column=query.get("column", ""), exact=query.get("exact") == "1")
    shown = data.show_table(
        project,
        request.path_params["asset"],
        recipe=query.get("recipe", ""),
        file=query.get("file", ""),
        look=look,
        page=int(_number(query.get("page")) or 1),
    )
    return "table.html", shown


def _download(request: Request) -> Response:
    query = request.query_params
    store = request.app.state.project.store
    artifact = data.find_artifact(store, request.path_params["asset"], query.get("recipe", ""))
    path = data.file_of(artifact, query.get("file", ""))
    name = f"{artifact.asset}-{artifact.recipe_id[:8]}-{path.name}"
    return FileResponse(path, media_type="application/octet-stream", filename=name)


def _reports(project: ShownProject, request: Request) -> tuple[str, object]:
    del request
    return "reports.html", reports.list_reports(project)


def _table_report(request: Request) -> Response:
    names = request.path_params
    path = reports.find_table_report(request.app.state.project, names["asset"], names["name"])
    return HTMLResponse(path.read_text("utf-8"), headers={"Content-Security-Policy": _REPORT_POLICY})


def _card(project: ShownProject, request: Request) -> tuple[str, object]:
    names = request.path_params
    return "card.html", reports.show_card(project, names["asset"], names["recipe"])


def _answers(project: ShownProject, request: Request) -> tuple[str, object]:
    query = request.query_params
    mark: all_answers.Mark = (
        "right" if query.get("mark") == "right" else "wrong" if query.get("mark") == "wrong" else ""
    )
    wanted = all_answers.AnswerFilter(model=query.get("model", ""), mark=mark, text=query.get("q", ""))
    page, name = int(_number(query.get("page")) or 1), request.path_params["asset"]
    shown = all_answers.show_answers(project, name, recipe=query.get("recipe", ""), wanted=wanted, page=page)
    return "answers.html", shown


def _lineage(project: ShownProject, request: Request) -> tuple[str, object]:
    names, record = request.path_params, request.query_params.get("record", "")
    return "lineage.html", reports.show_lineage(project, names["asset"], names["recipe"], record)


# -- changes --------------------------------------------------------------------------------------------------------
def _stop(project: ShownProject, request: Request, form: Mapping[str, str]) -> Response:
    del form
    names = request.path_params
    view = trainings.show_training(project, names["recipe"], names["asset"])
    request_stop(trainings.folder_of(project, view.training), view.training)
    return RedirectResponse(f"/trainings/{view.training.asset}/{view.training.recipe}", 303)


def _ask_models(project: ShownProject, request: Request, form: Mapping[str, str]) -> Response:
    del form  # the question and the weights are in the link, as for the search without answers
    template, shown = _search(project, request, answer=True)
    return _html(request, template, shown)


def _rollback(project: ShownProject, request: Request, form: Mapping[str, str]) -> Response:
    kind = _kind(request)
    current = project.releases.current(kind)
    if current is None or current.version != form.get("from"):
        serves = current.version if current else "none"
        raise HTTPException(409, f"Release {serves} serves now, not the one that the form was about. Look again.")
    if form.get("to") == current.version:
        raise HTTPException(409, f"Release {current.version} serves already: there is nothing to roll back.")
    if note := releases.roll_back_to(project, kind, form.get("to", ""), form.get("why", "")):
        return _html(request, "error.html", {"title": "Rolled back", "lines": [note]})
    return RedirectResponse(f"/releases#{kind}", 303)


# -- errors ---------------------------------------------------------------------------------------------------------
def _not_found(request: Request, error: Exception) -> Response:
    return _error(request, 404, "Not here", [str(error)])


def _http_error(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    return _error(request, status, "Not here" if status == 404 else "Not possible", [detail])


def _refused(request: Request, error: Exception) -> Response:
    lines = [str(one) for one in error.violations] if isinstance(error, Refused) else [str(error)]
    return _error(request, 409, "Refused", lines)


def _failed(request: Request, error: Exception) -> Response:
    answer = _error(request, 500, "The page could not be made", [f"{type(error).__name__}: {error}"])
    answer.headers.update(_HEADERS)  # Starlette answers this one outside of our middleware
    return answer


def _error(request: Request, status: int, title: str, lines: list[str]) -> Response:
    if request.scope.get("ft_json"):
        body = msgspec.json.encode({"error": title, "reasons": lines})
        return Response(body, status, media_type="application/json")
    return _html(request, "error.html", {"title": title, "lines": lines}, status)
