"""`ft ui`: names that it takes for this machine's."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ft_assets.cli import cli
from ft_assets.commands.ui import command


@pytest.mark.parametrize(
    "given",
    [
        "ft.example:3000",
        "ft.example.:3000",
        "http://ft.example",
        "https://ft.example:443/page",
        "ft.example/page",
        "//ft.example",
        "FT.example:3000",
    ],
)
def test_a_name_with_a_port_a_scheme_or_a_path_is_refused_with_the_right_form(given: str) -> None:
    result = CliRunner().invoke(cli, ["ui", "--allow-host", given])
    assert result.exit_code == 2
    text = " ".join(result.output.replace("│", " ").split())
    assert "--allow-host" in text and repr(given) in text
    assert "`--allow-host ft.example`" in text


@pytest.mark.parametrize("given", ["", ".", "a b", "bücher.example", "http://[", "*.example"])
def test_what_is_no_name_is_refused(given: str) -> None:
    assert CliRunner().invoke(cli, ["ui", "--allow-host", given]).exit_code == 2


def test_names_and_addresses_are_taken_and_a_dot_at_the_end_is_stripped() -> None:
    given = ["ft.example.", "ft", "ft_1.example", "10.0.0.7", "[::1]", "fe80::1"]
    context = command.make_context("ui", [part for name in given for part in ("--allow-host", name)])
    assert context.params["hosts"] == ("ft.example", "ft", "ft_1.example", "10.0.0.7", "[::1]", "fe80::1")
