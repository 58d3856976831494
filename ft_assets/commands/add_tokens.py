"""`ft add-tokens`: a base model whose vocabulary has more tokens."""

from __future__ import annotations

from pathlib import Path

import click

from ft_assets.config.load import state_dir


@click.command("add-tokens")
@click.argument("model")
@click.argument("tokens", nargs=-1, required=True)
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="A folder that does not exist yet."
)
@click.option("--revision", help="Branch, tag or commit of a model on the hub.")
def command(model: str, tokens: tuple[str, ...], target: Path, revision: str | None) -> None:
    """Write a base model with more tokens to a folder. Name this folder as `base_model`, and the tokens as
    `lora.train_tokens`, so that a training learns their rows.

    \b
    MODEL is a hub name, a folder or package:NAME. A new row starts as the mean of the tokens that its text was before.
    Exit code: 0 written, 1 refused (nothing is written), 2 could not run.
    Example:   ft add-tokens Qwen/Qwen3-0.6B "<cite>" "</cite>" --to models/qwen3-cite
    """
    from resources import models
    from resources.new_tokens import add_tokens

    if target.exists():
        raise click.UsageError(f"{target} exists")
    added = add_tokens(models.locate(model, state_dir(), revision), tokens, target)
    click.echo(f"{target}: {len(added.ids)} tokens added, {added.rows_before} -> {added.rows} rows of the embedding")
    for token, number in added.ids.items():
        click.echo(f"  {number}  {token}")
