"""Progress lines, and the console that nothing else can write to."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from ft_assets.commands.terminal import ProgressLines
from resources.telemetry import Progress

_TALKATIVE = """
import subprocess, sys
from pathlib import Path
from ft_assets.commands.terminal import take_terminal
with take_terminal(Path(sys.argv[1])) as console:
    print("printed in this process", flush=True)
    subprocess.run(["sh", "-c", "echo printed by a child; echo child complains >&2"])
    console.print("密码学 progress")
print("after")
"""


def test_output_of_steps_goes_to_the_log_and_not_between_the_progress_lines(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "console.log"
    done = subprocess.run([sys.executable, "-c", _TALKATIVE, str(log)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["密码学 progress", "after"]
    assert done.stderr == ""
    assert set(log.read_text().splitlines()) == {"printed in this process", "printed by a child", "child complains"}


def test_without_a_terminal_steps_are_plain_lines_at_most_every_few_seconds() -> None:
    out = io.StringIO()
    with ProgressLines(Console(file=out, width=140), total=33) as lines:
        lines.show(Progress(asset="passages", kind="reused", text="rows 120"))
        lines.show(Progress(asset="sft_adapter", kind="start"))
        for step in range(1, 41):
            text = "train · loss 1.234 · 2.1 s/step · 42 s left"
            lines.show(Progress(asset="sft_adapter", kind="step", step=step, total=60, text=text))
        lines.show(Progress(asset="sft_adapter", kind="check", step=0, text="[FT-ADP-001] not finite"))
    assert out.getvalue().splitlines() == [
        "[ 1/33] passages  reused · rows 120",
        "[ 2/33] sft_adapter  train 1/60 · loss 1.234 · 2.1 s/step · 42 s left",
        "[ 2/33] sft_adapter  check failed · [FT-ADP-001] not finite",
    ]


def test_on_a_terminal_the_line_is_updated_in_place() -> None:
    out = io.StringIO()
    with ProgressLines(Console(file=out, width=140, force_terminal=True, highlight=False), total=2) as lines:
        lines.show(Progress(asset="a", kind="step", step=1, total=9, text="train · loss 2"))
        lines.show(Progress(asset="a", kind="step", step=2, total=9, text="train · loss 1"))
        lines.show(Progress(asset="a", kind="made", text="steps 9"))
    assert "\x1b[2K" in out.getvalue() and "a  made · steps 9" in out.getvalue()
