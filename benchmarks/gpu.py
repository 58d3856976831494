"""Memory and speed of the training workers on one GPU, compared with the estimator and with TRL.

    python benchmarks/gpu.py [--minutes 9] [--only TEXT …] [--out FILE]   # on the GPU machine
    python benchmarks/gpu.py --device cpu --tiny                          # the same code on tiny shapes

Nothing comes from a hub: the models are written from their sizes with random weights (Qwen3-4B, Qwen2.5-7B), and rows
are random words, one token each, of which the second half is the answer. Every case has a process of its own:

- `ft-assets`: the worker as the launcher starts it, with the settings of the case;
- `TRL defaults`: SFTTrainer or DPOTrainer as they come, with the same adapter, batches and steps;
- `TRL tuned`: a script by an expert: bf16 weights and Liger's kernels, if liger-kernel is installed.

`memory_gib` is the most that the process may take, so that a large card behaves like a small one and running out of
memory is real. A step is timed from end to end; the first two warm up and do not count. Memory is the most that the
allocator reserved, evaluations and trial steps included; the CUDA context comes on top, here as in the estimate.
Results are written after every case, the most useful ones first, and cases without time are marked.
"""

# torch, transformers, trl and peft are untyped here
# pyright: basic
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
GIB = 2**30
WORDS = 900
"""Words that rows are made of; each is one token."""
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-4B": {
        "model_type": "qwen3",
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 9728,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Qwen2.5-7B": {
        "model_type": "qwen3",  # transformers would read the tokenizer of a qwen2 as another one
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
        "max_position_embeddings": 32768,
    },
}
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 1000,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
RATE = {"sft": 2e-4, "dpo": 5e-6}
WARM_UP = 2
"""Steps that are not timed."""

Engine = Literal["ft-assets", "TRL defaults", "TRL tuned"]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One training to measure."""

    engine: Engine
    shape: str
    objective: Literal["sft", "dpo"]
    tokens: int
    """Tokens of every row; with `mixed`, of the longest."""
    method: Literal["qlora", "lora"]
    micro_batch: int | Literal["auto"] = 1
    """Rows at once. `auto` is the platform's default; TRL's is 8."""
    batch: int = 4
    steps: int = 5
    mixed: bool = False
    """Rows of 1/8 to all of the tokens, as questions with passages have."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further settings of the platform's worker."""
    memory_gib: float | None = None
    """The most that the process may take of the card's memory, without the CUDA context."""

    @property
    def label(self) -> str:
        more = " ".join(f"{name}={value}" for name, value in self.settings.items() if name != "oom")
        card = f" in {self.memory_gib:g} GiB" if self.memory_gib else ""
        rows = f"{self.micro_batch} of {self.batch} {'mixed' if self.mixed else 'rows'}"
        return f"{self.engine} {self.shape} {self.method} {self.objective} {rows} {self.tokens}{card} {more}".strip()


def list_cases() -> list[Case]:
    """Return the cases, the most useful ones first in case time runs out."""
    small, large = "Qwen3-4B", "Qwen2.5-7B"
    short: dict[str, Any] = {"tokens": 512, "method": "lora", "micro_batch": "auto", "batch": 32, "mixed": True}
    ladder = {"oom": {"allow_8bit": True}}
    return [
        # one row at a time, as on a small card
        Case("ft-assets", small, "sft", 1024, "qlora"),
        Case("TRL defaults", small, "sft", 1024, "qlora"),
        Case("ft-assets", small, "sft", 2048, "lora"),
        Case("TRL defaults", small, "sft", 2048, "lora"),
        Case("TRL tuned", small, "sft", 2048, "lora"),
        # as each of them comes
        Case("ft-assets", small, "sft", 1024, "qlora", micro_batch="auto", batch=8),
        Case("TRL defaults", small, "sft", 1024, "qlora", micro_batch=8, batch=8),
        Case("ft-assets", small, "sft", **short),
        Case("ft-assets", small, "sft", **short, settings={"packing": True}),
        Case("ft-assets", small, "dpo", 1024, "qlora", micro_batch="auto", batch=8),
        Case("TRL defaults", small, "dpo", 1024, "qlora", micro_batch=8, batch=8),
        # a card of 10 GiB, and one that is too small for the settings
        Case("ft-assets", large, "sft", 2048, "qlora", steps=3, memory_gib=9.2),
        Case("ft-assets", large, "dpo", 2048, "qlora", steps=3, memory_gib=9.2),
        Case("ft-assets", small, "sft", 2048, "qlora", micro_batch=2, steps=3, settings=ladder, memory_gib=3.45),
        Case("ft-assets", small, "sft", 1024, "qlora", settings={"optimizer": "paged_adamw_8bit"}),
        Case("ft-assets", small, "sft", 4096, "qlora", steps=4),
    ]


# --- models and rows ---


def write_model(sizes: Mapping[str, Any], folder: Path, device: str) -> Path:
    """Write a model with random bf16 weights and a tokenizer that has one token a word. Return its folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    if (folder / "config.json").is_file():
        return folder
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    words = [*special, "system", "user", "assistant", *(f"w{n}" for n in range(WORDS))]
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )
    config = AutoConfig.for_model(**sizes, eos_token_id=2, pad_token_id=0, dtype="bfloat16")
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    return folder


def make_rows(count: int, tokens: int, *, mixed: bool) -> list[Figures]:
    """Return rows in the form of the platform's data sets: half of each is the answer."""
    dice = random.Random(tokens)  # noqa: S311  test data
    rows: list[Figures] = []
    for n in range(count):
        length = dice.randint(tokens // 8, tokens) if mixed and n else tokens
        words = [f"w{dice.randrange(WORDS)}" for _ in range(2 * length)]
        half = length // 2 - 8  # the roles and marks of the chat are tokens too
        rows.append(
            {
                "record_id": f"g{n}",
                "question": " ".join(words[:half]),
                "context": [],
                "system": "",
                "evidence": [],
                "group": f"g{n}",
                "language": "en",
                "source": "benchmark",
                "line_no": n + 1,
                "answer": " ".join(words[half : 2 * half]),
                "rejected": " ".join(words[2 * half : 3 * half]),
            }
        )
    return rows


def as_record(row: Figures, objective: str) -> Figures:
    record = {name: value for name, value in row.items() if name not in ("answer", "rejected")}
    if objective == "dpo":
        return {**record, "chosen": row["answer"], "rejected": row["rejected"]}
    return {**record, "answer": row["answer"], "reasoning": "", "difficulty": "easy"}


# --- the engines, each in a process of its own ---


def run_platform(case: Case, model: Path, work: Path) -> Figures:
    """Train by the worker. Return the figures that only it has."""
    from ft_assets.adapters import train
    from ft_assets.adapters.preflight import read_result
    from resources.models import silence_progress_bars

    silence_progress_bars()
    job = platform_job(case, model, work)
    artifact = train.main(job)
    job.artifacts().point(artifact)
    memory = read_result(artifact, "memory_and_disk_suffice").figures
    summary = artifact.summary
    return {
        "rows_at_once": memory["micro_batch_size"],
        "estimate_gib": memory["memory_needed"] / GIB,
        "estimate_parts_gib": {name: round(size / GIB, 2) for name, size in memory["memory_parts"].items()},
        "losses": [summary["train_loss_first"], summary["train_loss_last"]],
        "events": summary["events"],
        "seconds": summary["seconds"],
    }


def platform_job(case: Case, model: Path, work: Path) -> Any:
    """Publish the rows of the case and return the job of its training."""
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    from expectations.contracts.adapter import RagPrompt
    from ft_assets.adapters.jobs import TrainParams
    from ft_assets.config.model import DpoSettings, SftSettings
    from resources.artifacts import ArtifactStore, Recipe
    from resources.launcher import ComputeParams, Job

    is_dpo = case.objective == "dpo"
    store = ArtifactStore(work / "artifacts")
    asset = "preference_splits" if is_dpo else "instruction_splits"
    rows = make_rows(case.batch * case.steps + 4, case.tokens, mixed=case.mixed)
    with store.stage(Recipe(asset=asset, code_version="benchmark", settings={"case": case.label})) as staging:
        for part, some in (("train", rows[:-4]), ("validation", rows[-4:-2]), ("test", rows[-2:])):
            table = pa.Table.from_pylist([as_record(row, case.objective) for row in some])
            pq.write_table(table, staging.path / f"{part}.parquet")
        splits = staging.publish({"configured": True})
    settings = (DpoSettings if is_dpo else SftSettings).model_validate(
        {
            "base_model": str(model),
            "method": case.method,
            "learning_rate": RATE[case.objective],
            "max_steps": case.steps,
            "global_batch_size": case.batch,
            "micro_batch_size": case.micro_batch,
            "max_length": case.tokens + 64,
            "eval_steps": 1000,
            "save_steps": 1000,
            "logging_steps": 1,
            **({} if is_dpo else {"lora": {"dropout": 0}}),
            **case.settings,
        }
    )
    inputs = {asset: splits.data_version}
    if is_dpo:
        inputs["sft_adapter"] = store.require("sft_adapter").data_version
    params = TrainParams(
        method=case.objective,
        settings=settings.model_dump(mode="json"),
        prompt=RagPrompt(system="", template="{passages} {question}", separator=" "),
        thinking="allow_empty",
        compute=ComputeParams(state_dir=str(work), device="auto", dtype="auto"),
    )
    recipe = Recipe(asset=f"{case.objective}_adapter", code_version="benchmark", settings={"case": case.label})
    recipe = msgspec.structs.replace(recipe, inputs=inputs)
    return Job(
        recipe=recipe,
        store=str(store.root),
        run_dir=str(work / "runs" / recipe.id),
        params=msgspec.to_builtins(params),
    )


def run_trl(case: Case, model: Path, work: Path) -> Figures:
    """Train with TRL's trainers: as they come, or tuned. Batches, steps and the adapter are those of the case."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tuned, on_cpu = case.engine == "TRL tuned", not torch.cuda.is_available()
    rows_at_once = 8 if case.micro_batch == "auto" else case.micro_batch
    given: dict[str, Any] = {
        "output_dir": str(work / "trl"),
        "max_steps": case.steps,
        "learning_rate": RATE[case.objective],
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": case.batch // rows_at_once,
        "max_length": case.tokens + 64,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
    }
    options: dict[str, Any] = {"dtype": "bfloat16" if tuned else "float32"}  # the trainers load float32 by a name
    if case.method == "qlora":
        options |= {
            "dtype": "bfloat16",
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            ),
        }
    if tuned and importlib.util.find_spec("liger_kernel"):
        given["use_liger_kernel"] = True
    base = AutoModelForCausalLM.from_pretrained(model, **options)
    rows = make_rows(case.batch * case.steps, case.tokens, mixed=case.mixed)
    common: dict[str, Any] = {
        "model": base,
        "processing_class": AutoTokenizer.from_pretrained(model),
        "peft_config": LoraConfig(**LORA),
    }

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    prompts = [turn("user", row["question"]) for row in rows]
    answers = [turn("assistant", row["answer"]) for row in rows]
    if case.objective == "sft":
        data = Dataset.from_dict({"prompt": prompts, "completion": answers})
        trainer = SFTTrainer(args=SFTConfig(**given), train_dataset=data, **common)
    else:
        rejected = [turn("assistant", row["rejected"]) for row in rows]
        data = Dataset.from_dict({"prompt": prompts, "chosen": answers, "rejected": rejected})
        trainer = DPOTrainer(args=DPOConfig(**given), train_dataset=data, **common)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": [losses[0], losses[-1]], "liger": given.get("use_liger_kernel", False)}


def run_child(case: Case, model: Path, work: Path) -> Figures:
    """Run one case in this process and return its figures."""
    import torch
    import transformers.trainer as trainers
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def _note(self) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            ends.clear()  # an attempt that ran out of memory does not count
            self._note()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self._note()

    callbacks: list[Any] = trainers.DEFAULT_CALLBACKS
    callbacks.append(Clock)
    if case.memory_gib and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(case.memory_gib * GIB / torch.cuda.mem_get_info()[1])
    figures: Figures = {"state": "measured"}
    try:
        figures |= (run_platform if case.engine == "ft-assets" else run_trl)(case, model, work)
    except Exception as error:  # the others still run
        figures = {"state": f"failed: {type(error).__name__}: {error}"[:2000]}
    steps = [after - before for before, after in pairwise(ends)]
    if len(steps) > WARM_UP:
        figures["step_seconds"] = median(steps[WARM_UP:])
        lengths = [len(row["question"].split()) + len(row["answer"].split()) + 16 for row in _rows_of(case)]
        tokens = case.batch * sum(lengths) / len(lengths) * (2 if case.objective == "dpo" else 1)
        figures["tokens_per_second"] = tokens / figures["step_seconds"]
    if torch.cuda.is_available():
        figures["allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
        figures["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
    return figures


def _rows_of(case: Case) -> list[Figures]:
    return make_rows(case.batch * case.steps, case.tokens, mixed=case.mixed)


# --- the parent ---


def measure(cases: list[Case], *, device: str, tiny: bool, out: Path, minutes: float, kept: Path | None) -> None:
    """Run the cases one after the other, and write all results so far after each. `kept`: a folder for the models."""
    deadline = time.monotonic() + 60 * minutes
    results: list[Figures] = [{**asdict(case), "label": case.label, "state": "not run: out of time"} for case in cases]
    memory = Path("/dev/shm")  # noqa: S108  models are read from memory where there is room
    root = memory if memory.is_dir() and shutil.disk_usage(memory).free > 40 * GIB else None
    with tempfile.TemporaryDirectory(dir=root) as folder:
        models: dict[str, Path] = {}
        for number, case in enumerate(cases):
            if time.monotonic() > deadline:
                break
            if case.shape not in models:
                sizes = {**SHAPES[case.shape], **(TINY if tiny else {})}
                models[case.shape] = write_model(sizes, (kept or Path(folder)) / case.shape, device)
            work = Path(folder) / f"work-{case.shape}-{case.method}"
            started = time.monotonic()
            figures = _start(case, models[case.shape], work, max(deadline - started, 1))
            results[number] |= {**figures, "wall_seconds": time.monotonic() - started}
            show(case, results[number])
            write(out, describe_machine(device), results)
    write(out, describe_machine(device), results)


def _start(case: Case, model: Path, work: Path, seconds: float) -> Figures:
    """Run a case in a new process. Return its figures, or the reason why it has none."""
    work.mkdir(parents=True, exist_ok=True)
    plan = work / "case.json"
    plan.write_text(json.dumps(asdict(case)), "utf-8")
    command = [sys.executable, __file__, "--child", str(plan), "--model", str(model)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # without it, long rows after short ones fragment the memory
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    with (work / "log.txt").open("w") as log:
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return {"state": "not run: out of time"}
    if done.returncode:
        tail = (work / "log.txt").read_text("utf-8")[-1500:]
        return {"state": f"failed: exit status {done.returncode}", "log": tail}
    return json.loads(done.stdout.splitlines()[-1])


def show(case: Case, figures: Figures) -> None:
    units = {
        "step_seconds": "s/step",
        "tokens_per_second": "tok/s",
        "reserved_gib": "GiB",
        "estimate_gib": "GiB expected",
    }
    known = [f"{figures[name]:.2f} {unit}" for name, unit in units.items() if name in figures]
    print(f"{case.label}: {figures['state']}", *known, f"({figures['wall_seconds']:.0f} s)", sep="  ", flush=True)
    for event in figures.get("events") or []:
        print("   ", event, flush=True)


def describe_machine(device: str) -> Figures:
    import torch

    versions: dict[str, str] = {}
    for name in ("torch", "transformers", "peft", "trl", "bitsandbytes", "liger-kernel"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    card = torch.cuda.get_device_properties(0) if device == "cuda" else None
    memory = card and round(card.total_memory / GIB, 1)
    return {"device": device, "gpu": card and card.name, "gpu_gib": memory, "versions": versions}


def write(out: Path, machine: Figures, results: list[Figures]) -> None:
    rows: list[Figures] = []
    for result in results:
        row = dict(result)
        if "estimate_gib" in row and "reserved_gib" in row:
            row["estimate_over_reserved"] = row["estimate_gib"] / row["reserved_gib"]
        rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="texts of which a case's label must contain one")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    default = Path(os.environ["OUT"]) if "OUT" in os.environ else ROOT / "benchmarks/results"
    parser.add_argument("--out", type=Path, default=default / "gpu.json")
    parser.add_argument("--models", type=Path, help="a folder that keeps the models for the next call")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        case = Case(**json.loads(chosen.child.read_text("utf-8")))
        print(json.dumps(run_child(case, chosen.model, chosen.child.parent)), flush=True)
        return
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU; --device cpu --tiny runs the same code on tiny shapes")
    sys.path.insert(0, str(ROOT))
    cases = [case for case in list_cases() if not chosen.only or any(word in case.label for word in chosen.only)]
    where: dict[str, Any] = {"out": chosen.out, "kept": chosen.models}
    measure(cases, device=chosen.device, tiny=chosen.tiny, minutes=chosen.minutes, **where)
    print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
