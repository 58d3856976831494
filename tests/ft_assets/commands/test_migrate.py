"""`ft migrate`: addresses that it refuses."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ft_assets.cli import cli


@pytest.mark.parametrize("url", ["http://ann:s3cret@host:6333", "http://s3cret@host", "http://:s3cret@host"])
def test_a_secret_in_the_address_is_refused_and_not_printed(url: str) -> None:
    result = CliRunner().invoke(cli, ["migrate", "--to", "server", "--url", url])
    assert result.exit_code == 2
    assert "--url holds a user name or a password" in result.output and "QDRANT_API_KEY" in result.output
    assert "s3cret" not in result.output
