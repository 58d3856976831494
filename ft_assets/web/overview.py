"""The first page: what serves, the newest trainings, and what to do next."""

from __future__ import annotations

import msgspec

from ft_assets.web.project import ShownProject, asset_names
from ft_assets.web.rankings import ENCODER
from ft_assets.web.releases import Book, show_releases
from ft_assets.web.trainings import ShownTraining, list_trainings

_SHOWN = 5


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do next: a command, or a link of this page."""

    title: str
    why: str
    command: str = ""
    link: str = ""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The page /."""

    state: str
    books: list[Book]
    trainings: list[ShownTraining]
    next: list[Step]


def show_overview(project: ShownProject) -> Overview:
    """Return the first page."""
    books, trainings = show_releases(project).books, list_trainings(project)
    return Overview(
        state=str(project.state),
        books=books,
        trainings=trainings[:_SHOWN],
        next=_next(project, books, trainings),
    )


def _next(project: ShownProject, books: list[Book], trainings: list[ShownTraining]) -> list[Step]:
    steps: list[Step] = []
    if not asset_names(project.store):
        return [Step(title="Make the whole graph", why="Nothing was made in this state yet.", command="ft run --all")]
    for row in trainings:
        if row.state == "running":
            link = f"/trainings/{row.asset}/{row.recipe}"
            steps.append(Step(title=f"Follow {row.name}", why="It is running now.", link=link))
        if row.state == "stopped" and not _was_replaced(row, trainings):
            verb = "Repeat" if row.asset == ENCODER else "Continue"  # the encoder keeps no checkpoint
            command = f"ft run --asset {row.asset}"
            steps.append(Step(title=f"{verb} {row.name}", why="It ended before its last step.", command=command))
    for book in books:
        if book.damage:
            continue
        if book.served is None:
            command = f"ft run --asset released_{book.kind} --upstream"
            steps.append(Step(title=f"Release the first {book.kind}", why=f"No {book.kind} serves.", command=command))
        elif failed := [check for check in book.served.checks if check.state == "failed" and check.blocking]:
            why = f"{failed[0].asset}.{failed[0].name} failed: the next {book.kind} is held back."
            steps.append(Step(title="See which gate failed", why=why, link=f"/releases#{book.kind}", command="ft gate"))
    finished = [row for row in trainings if row.state == "finished" and row.score]
    if len(finished) > 1:
        link = f"/trainings?ids={finished[1].recipe},{finished[0].recipe}"
        title = f"Compare {finished[0].name} with {finished[1].name}"
        steps.append(Step(title=title, why="Both answered the same held-out questions.", link=link))
    if books[-1].served:
        steps.append(Step(title="Try the retriever", why="Search as your users do.", link="/search"))
    return steps


def _was_replaced(run: ShownTraining, trainings: list[ShownTraining]) -> bool:
    """Return whether its asset was trained later, so that nobody waits for this run."""
    later = [row for row in trainings if row.asset == run.asset and row.created_at > run.created_at]
    return bool(later)
