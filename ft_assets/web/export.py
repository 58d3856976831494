"""Views as one self-contained HTML file, for people without this state: no link, no script, no network."""

from __future__ import annotations

from ft_assets.web.project import KINDS, NotFound, ShownProject
from ft_assets.web.releases import ReleaseComparison, ReleaseReport, compare_releases, show_evidence, show_releases
from ft_assets.web.render import render
from ft_assets.web.trainings import compare_trainings, list_trainings
from resources.releases import ReleaseKind


def export_report(project: ShownProject, version: str | None = None) -> str:
    """Return the report of a release, next to the one before it. Without a version: of what serves.

    `version` may be the beginning of one. Raises NotFound where there is no such release.
    """
    if version == "":
        raise NotFound("The version is empty. Name a release, or leave it out: the report is then about what serves.")
    books = {kind: project.releases.book(kind) for kind in KINDS}
    chosen: dict[ReleaseKind, str] = {}
    comparisons: list[ReleaseComparison] = []
    for kind in KINDS:
        book = books[kind]
        versions = [release.version for release in book.history] if book else []
        shown = book and book.current if version is None else _complete(versions, version)
        if shown is None:
            continue
        chosen[kind] = shown
        if place := versions.index(shown):
            comparisons.append(compare_releases(project, kind, versions[place - 1], shown))
    if not chosen:
        known = [release.version for book in books.values() if book for release in book.history]
        wanted = "nothing released yet" if version is None else f"no release {version}"
        raise NotFound(f"There is {wanted}. Releases: {', '.join(known) or 'none: ft run --all'}.")
    version = next(iter(chosen.values())) if version else ""
    of_version = show_evidence(project, version) if version else []
    books = show_releases(project, list(chosen)).books
    view = ReleaseReport(books=books, version=version, evidence=of_version, comparisons=comparisons)
    return render("report.html", view, export=True)


def export_comparison(project: ShownProject, before: str, after: str) -> str:
    """Return two trainings, or two releases of one kind, next to each other. Each is named by the beginning of its id.

    Raises NotFound where there are no such two.
    """
    if not before or not after:
        raise NotFound(f'An id is empty: "{before}" and "{after}". Name two trainings, or two releases of one kind.')
    recipes = [row.recipe for row in list_trainings(project)]
    names = [_complete(recipes, name) for name in (before, after)]
    if all(names):
        _require_two(names[0], names[1])
        return render("comparison.html", compare_trainings(project, [name for name in names if name]), export=True)
    for kind in KINDS:
        book = project.releases.book(kind)
        versions = [release.version for release in book.history] if book else []
        left, right = _complete(versions, before), _complete(versions, after)
        if left and right:
            _require_two(left, right)
            return render("release_comparison.html", compare_releases(project, kind, left, right), export=True)
    raise NotFound(
        f"{before} and {after} are neither two trainings nor two releases of one kind. "
        f"Trainings: {', '.join(recipes) or 'none'}. `ft rollback KIND --list` shows the releases."
    )


def _require_two(before: str | None, after: str | None) -> None:
    """Raise NotFound if both ids are the same."""
    if before == after:
        raise NotFound(f"Both ids are {before}. Name another one to compare it with.")


def _complete(known: list[str], beginning: str) -> str | None:
    """Return the one id with this beginning. Raises NotFound if there are several."""
    found = [name for name in known if name.startswith(beginning)]
    if len(found) > 1:
        raise NotFound(f"{beginning} is the beginning of {', '.join(found)}. Write more of it.")
    return found[0] if found else None
