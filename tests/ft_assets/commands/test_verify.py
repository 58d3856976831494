"""`ft verify` in another repository: exit codes, every output, the documented steps, and nothing heavy loaded."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from ft_assets.cli import cli

SFT = {"instruction": "What is SM3?", "input": "SM3 is a hash.", "output": "<think>recall</think>a hash"}
PAIR = {"question": "q?", "context": [], "chosen": "yes", "rejected": "no"}


@pytest.fixture
def exports(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another repository: no config.yaml, an export of a DDR producer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    shutil.copy(project / "examples/en/preferences.jsonl", "exports/pairs.jsonl")
    (tmp_path / "handbook.md").write_text("# Hashing\n\nSM3 is a hash function.\n")
    Path("sft.jsonl").write_text(json.dumps(SFT) + "\n")
    Path("slot.jsonl").write_text(json.dumps(SFT | {"output": "{question}"}) + "\n")
    Path("bad.jsonl").write_text(json.dumps(SFT) + '\n{"instruction": "x", "output": ""}\n')
    return tmp_path


def ft(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def training_of(*arguments: str) -> dict[str, Any]:
    result = ft("verify", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)[0]["training"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["sft.jsonl"], 0),
        (["sft.jsonl", "bad.jsonl"], 1),
        (["bad.jsonl", "gone.jsonl"], 2),
        (["bad.jsonl", "--max-quarantined", "0.5"], 0),
        (["exports/pairs.jsonl", "--against", "ddr"], 0),
        (["sft.jsonl", "--against", "ddr"], 1),
        (["sft.jsonl", "--against", "nobody"], 2),
        (["sft.jsonl", "--format", "nothing"], 2),
        (["sft.jsonl", "--thinking", "require"], 0),
        (["exports/pairs.jsonl", "--min-margin", "5"], 1),
        (["sft.jsonl", "--json", "--github"], 2),
        (["sft.jsonl", "--tokenizer", "./gone"], 2),
        (["sft.jsonl", "--columns", "question=instruction,answer=output"], 0),
        (["sft.jsonl", "--columns", "qestion=instruction,answer=output"], 2),
        (["sft.jsonl", "--columns", "question=instruktion,answer=output"], 2),
        (["sft.jsonl", "--columns", "question"], 2),
        (["sft.jsonl", "--columns", "question=instruction", "--columns", "question=input"], 2),
        (["sft.jsonl", "--roles", "bot=robot"], 2),
        (["sft.jsonl", "--turns", "all"], 0),
        (["slot.jsonl"], 1),
        (["slot.jsonl", "--allow", "FT-TEXT-002"], 0),
        (["slot.jsonl", "--allow", "FT-TEXT-003, FT-TEXT-002"], 0),
        (["slot.jsonl", "--allow", "FT-INST-003"], 2),
    ],
)
def test_the_exit_code_says_whether_a_ci_may_go_on(exports: Path, arguments: list[str], code: int) -> None:
    assert ft("verify", *arguments).exit_code == code


def test_what_training_sees_is_what_the_projects_prompt_builder_makes(exports: Path) -> None:
    made = training_of("sft.jsonl")
    assert made["prompt_from"] == "the defaults"
    assert made["messages"] == [
        {"role": "user", "content": "Background:\nSM3 is a hash.\n\nQuestion: What is SM3?\nAnswer:"}
    ]
    assert made["targets"] == {"answer": "<think>\nrecall\n</think>\n\na hash"}
    Path("pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    pair = training_of("pairs.jsonl")
    assert (pair["messages"], pair["targets"]) == (
        [{"role": "user", "content": "q?"}],
        {"chosen": "yes", "rejected": "no"},
    )
    assert "--tokenizer" in ft("verify", "sft.jsonl").output


def test_the_prompt_is_that_of_the_project_and_a_foreign_config_is_passed_over(exports: Path) -> None:
    Path("config.yaml").write_text("tool: another\n")
    assert training_of("sft.jsonl")["prompt_from"].startswith("the defaults; ")
    Path("config.yaml").write_text(
        "schema_version: 1\ncorpus: {files: [kb/*.md]}\nsft: {base_model: ./m}\ndpo: {base_model: ./m}\n"
        'embedding: {base_model: ./m}\nanswers: {prompt: "{passages} ? {question}"}\n'
    )
    assert training_of("sft.jsonl")["messages"][0]["content"] == "SM3 is a hash. ? What is SM3?"


def test_a_tokenizer_renders_the_template_and_counts_the_tokens(exports: Path) -> None:
    words = ["<unk>", "<u>", "<a>", "q", "?", "yes", "no"]
    core = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", additional_special_tokens=words[1:3])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    tokenizer.save_pretrained("tokenizer")
    Path("pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    made = training_of("pairs.jsonl", "--tokenizer", "./tokenizer")
    assert made["tokens"] == {"prompt": 4, "chosen": 1, "rejected": 1}
    assert made["rendered"]["prompt"].replace(" ", "") == "<u>q?<a>"
    assert made["rendered"]["rejected"].strip() == "no"
    assert "prompt, 4 tokens:" in ft("verify", "pairs.jsonl", "--tokenizer", "./tokenizer").output


def test_junit_is_printed_or_written_next_to_another_output(exports: Path) -> None:
    assert ElementTree.fromstring(ft("verify", "sft.jsonl", "--junit").output).tag == "testsuites"  # noqa: S314
    result = ft("verify", "bad.jsonl", "--github", "--junit", "build/verify.xml")
    assert result.output.startswith("::error file=bad.jsonl,line=2,title=FT-INST-003::")
    assert ElementTree.parse("build/verify.xml").getroot()[0].get("failures") == "1"  # noqa: S314


@pytest.mark.parametrize("arguments", [["verify", "sft.jsonl"], ["convert", "sft.jsonl", "--to", "instruction"]])
def test_jsonl_needs_nothing_heavy_and_starts_quickly(exports: Path, arguments: list[str]) -> None:
    heavy = ("torch", "transformers", "dagster", "numpy", "pandas", "pyarrow", "qdrant_client")
    code = (
        "import sys\nfrom ft_assets.cli import cli\n"
        "try: cli(sys.argv[1:])\nexcept SystemExit as end: assert not end.code\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - start < 5  # 0.3 s on an idle machine; the bound leaves room for a busy one


def documented(project: Path) -> list[str]:
    text = (project / "docs/gate-another-repo.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if re.match(r"ft (verify|convert) ", line)]


def in_shell(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", command],
        env=os.environ | {"PATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_documented_command_runs(exports: Path, project: Path) -> None:
    commands = documented(project)
    assert len(commands) >= 7
    done = in_shell("\n".join(commands))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documented_contract_is_one(exports: Path, project: Path) -> None:
    text = (project / "docs/gate-another-repo.md").read_text("utf-8")
    (contract,) = re.findall(r"^```yaml\n# contract.yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    Path("contract.yaml").write_text(contract)
    assert ft("verify", "exports/pairs.jsonl", "--against", "contract.yaml").exit_code == 0


INPUT = re.compile(r"inputs\.([\w-]+)")


def test_the_action_verifies_annotates_and_sums_up(exports: Path, project: Path) -> None:
    action = YAML(typ="safe").load(project / "action.yml")
    step = action["runs"]["steps"][-1]
    inputs = {name: str(given.get("default", "")) for name, given in action["inputs"].items()}
    assert set(INPUT.findall(json.dumps(action["runs"]))) == set(inputs)

    def act(**given: str) -> subprocess.CompletedProcess[str]:
        values = inputs | given
        variables = {key: values[names[0]] for key, value in step["env"].items() if (names := INPUT.findall(value))} | {
            "VENV": sys.prefix
        }
        return in_shell(f"set -eo pipefail; {step['run']}", GITHUB_STEP_SUMMARY="summary.md", **variables)

    Path("two words.jsonl").write_bytes(Path("sft.jsonl").read_bytes())
    passed = act(files="exports/**/*.jsonl\n\ntwo words.jsonl\nexports\n", junit="verify.xml")
    assert passed.returncode == 0, passed.stderr
    assert "2 of 2 files pass" in passed.stdout
    assert Path("verify.xml").is_file()
    failed = act(files="*.jsonl", against="$(touch broken)")
    assert failed.returncode == 2 and not Path("broken").exists()
    assert act(files="bad.jsonl").returncode == 1
    assert "FT-INST-003" in Path("summary.md").read_text("utf-8")


def test_the_pre_commit_hook_runs_on_the_files_it_names(exports: Path, project: Path) -> None:
    (hook,) = YAML(typ="safe").load(project / ".pre-commit-hooks.yaml")
    taken = ["exports/pairs.jsonl", "sft.jsonl.gz", "data/qrels.tsv", "a.csv", "a.json", "a.parquet"]
    assert [name for name in taken if re.search(hook["files"], name) and not re.search(hook["exclude"], name)] == taken
    for name in ("package.json", "web/tsconfig.json", ".vscode/settings.json", "README.md"):
        assert not re.search(hook["files"], name) or re.search(hook["exclude"], name), name

    def commit(*files: str) -> subprocess.CompletedProcess[str]:
        return in_shell(shlex.join([*shlex.split(hook["entry"]), *files]))

    passed = commit("sft.jsonl", "exports/pairs.jsonl")
    assert (passed.returncode, passed.stdout) == (0, "")
    failed = commit("sft.jsonl", "bad.jsonl")
    assert failed.returncode == 1
    assert "bad.jsonl" in failed.stdout and "sft.jsonl" not in failed.stdout


def test_folders_and_globs_give_their_files_once(exports: Path) -> None:
    Path("exports/more").mkdir()
    shutil.copy("sft.jsonl", "exports/more/two words.jsonl")
    Path("exports/.cache").mkdir()
    shutil.copy("bad.jsonl", "exports/.cache/bad.jsonl")
    Path("exports/notes.log").write_text("no data")
    result = ft("verify", "exports", "exports/**/*.jsonl", "exports/more", "--json")
    assert result.exit_code == 0, result.output
    assert [report["file"] for report in json.loads(result.output)] == [
        "exports/more/two words.jsonl",
        "exports/pairs.jsonl",
    ]


@pytest.mark.parametrize("argument", ["empty", "gone/**/*.jsonl"])
def test_a_folder_or_a_glob_without_a_file_is_refused(exports: Path, argument: str) -> None:
    Path("empty").mkdir()
    result = ft("verify", "sft.jsonl", argument)
    assert result.exit_code == 2 and argument in result.output


def test_a_summary_is_appended_in_the_same_run(exports: Path) -> None:
    Path("summary.md").write_text("before\n")
    assert ft("verify", "bad.jsonl", "--github", "--summary", "summary.md").output.startswith("::error")
    assert Path("summary.md").read_text().startswith("before\n| file |")
