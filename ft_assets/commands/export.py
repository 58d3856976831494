"""`ft export`: write a trained adapter or model for others (as it is, merged into its base, as GGUF), or generated
rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ft_assets.adapters.export.gguf import TYPES, find_converter
from ft_assets.commands.project import Project

if TYPE_CHECKING:
    from ft_assets.adapters.export.merge import MergedDtype
    from ft_assets.generation.export_rows import RowsDialect


@click.command("export")
@click.argument("which", type=click.Choice(["sft", "dpo", "released", "kbalign", "ddr"]), default="released")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder (kbalign, ddr: a JSONL file) that does not exist yet.",
)
@click.option(
    "--merged", is_flag=True, help="Also write the base with the adapter merged into it (a whole model: in --dtype)."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Dtype of the merged weights (default: the base's).",
)
@click.option("--gguf", is_flag=True, help="Also write GGUF, and a Modelfile for Ollama.")
@click.option(
    "--gguf-tool",
    type=click.Path(path_type=Path),
    help="Another convert_hf_to_gguf.py (default: that of the extra `gguf`, else the one on PATH).",
)
@click.option(
    "--gguf-type",
    type=click.Choice(TYPES),
    help="GGUF weight type (default: auto).",
)
@click.option("--gptq", is_flag=True, help="Also write 4-bit weights in GPTQ's layout.")
@click.option(
    "--dialect",
    type=click.Choice(["canonical", "ultrarag"]),
    default="canonical",
    help="ddr: the form of the pairs; ultrarag has query, retrieval_result, chosen.text (default: canonical).",
)
@click.option("--force", is_flag=True, help="Replace an earlier export in that place.")
def command(  # noqa: PLR0917 - one for each option
    which: str,
    target: Path,
    merged: bool,
    dtype: str | None,
    gguf: bool,
    gguf_tool: Path | None,
    gguf_type: str | None,
    gptq: bool,
    dialect: str,
    force: bool,
) -> None:
    """Export a trained adapter or model (default: the released one) to a folder, with its contract and its card.
    `kbalign` and `ddr` write the generated training rows, which `ft verify` reads.

    \b
    FOLDER/adapter      PEFT's layout, contract.json, README.md
    FOLDER/model        instead of adapter, if every weight was trained: a whole model
    FOLDER/merged       --merged: weights, tokenizer, chat template; its logits are compared with what was trained
    FOLDER/model.gguf   --gguf: for llama.cpp; FOLDER/Modelfile has the chat template for Ollama
    FOLDER/gptq         --gptq: 4-bit weights for vLLM and transformers; their logits are compared with the merged ones
    FOLDER/export.json  what was exported, the comparison, a sha256 of every file

    \b
    Exit code: 0 written, 1 refused (nothing is written), 2 could not run.
    Example:   ft export released --to build/released --merged
               ft export ddr --to build/pairs.jsonl --dialect ultrarag
    """
    from ft_assets.adapters.export.export import GGUF_FILE, export, find_adapter, is_export
    from ft_assets.adapters.export.gptq import require_quantiser
    from ft_assets.adapters.export.ollama import MODELFILE
    from ft_assets.generation.export_rows import EXPORTED

    if which in EXPORTED:
        if merged or dtype or gguf or gguf_tool or gguf_type or gptq:
            raise click.UsageError(f"{which} are rows: --merged, --dtype, --gguf and --gptq are for models")
        _export_rows(which, target, cast("RowsDialect", dialect), force=force)
        return
    if dialect != "canonical":
        raise click.UsageError("--dialect is for ddr")
    if target.exists() and not (force and is_export(target)):
        reason = "; --force replaces only what `ft export` wrote" if force else "; --force replaces an earlier export"
        raise click.UsageError(f"{target} exists{reason}")
    if dtype and not (merged or gguf or gguf_tool or gptq):
        raise click.UsageError("--dtype is for merged weights: add --merged, --gguf or --gptq")
    if gguf_type and not (gguf or gguf_tool):
        raise click.UsageError("--gguf-type is for a GGUF file: add --gguf")
    converter = find_converter(gguf_tool) if gguf or gguf_tool else None
    if gptq:
        require_quantiser()
    project = Project.here()
    adapter = find_adapter(project.store, project.releases, which)
    report = export(
        adapter,
        target,
        project.store,
        merged=merged,
        dtype=cast("MergedDtype | None", dtype),
        converter=converter,
        gguf_type=gguf_type or "auto",
        gptq=gptq,
        on_step=lambda step: click.echo(f"{step} …", err=True),
    )
    click.echo(f"{target}: {adapter.asset} {adapter.recipe_id}, {len(report['files'])} files")
    if GGUF_FILE in report["files"] and MODELFILE not in report["files"]:
        click.echo("no Modelfile: this chat template cannot be written in Ollama's template language")
    proof = report.get("merged")
    if proof:
        click.echo(
            f"merged in float32, saved in {proof['dtype']}: logits differ by at most "
            f"{proof['max_abs_difference_saved']:.2g} of {proof['largest_logit']:.3g}, "
            f"first choice the same at {proof['same_first_choice']:.1%} of {proof['positions']} positions"
        )
    if quantised := report.get("gptq"):
        click.echo(
            f"4 bits in groups of {quantised['group_size']}: the logits moved by {quantised['noise']:.1%}, "
            f"first choice the same at {quantised['same_first_choice']:.1%} of {quantised['positions']} positions"
        )


def _export_rows(which: str, target: Path, dialect: RowsDialect, *, force: bool) -> None:
    from ft_assets.generation.export_rows import EXPORTED, export_rows

    asset, format = EXPORTED[which]
    if dialect != "canonical" and which != "ddr":
        raise click.UsageError("--dialect is for ddr")
    if target.exists() and not (force and target.is_file()):
        raise click.UsageError(f"{target} exists; --force replaces a file")
    artifact = Project.here().store.require(asset)
    rows = export_rows(artifact, format, target, dialect)
    click.echo(f"{target}: {rows} rows of {asset} {artifact.recipe_id}")
