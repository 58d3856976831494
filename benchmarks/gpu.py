"""Memory and speed of LoRA and QLoRA training on one GPU, compared with the estimator and with plain TRL.

    python benchmarks/gpu.py [--tokens 1024 2048 4096] [--minutes 9] [--out FILE]   # on the GPU machine
    python benchmarks/gpu.py --estimates benchmarks/results/gpu.json                # add what `ft estimate` computes
    python benchmarks/gpu.py --device cpu --tiny                                    # the same code on two tiny shapes

Needs torch, transformers and peft, and nothing from a hub: the models are built on the device from their sizes with
random weights, rows are random tokens of full length (the second half supervised), one row or pair a step, gradient
checkpointing on. This file contains the rest: the head that never holds all logits, and nf4 with double quantisation
in plain torch, for machines without bitsandbytes (same memory, slower; the result `quantiser` names the one that was
used). TRL is measured as well where it is installed, with its defaults. Results are written after every case.

`ft-assets` here is a small loop that computes what the platform's worker computes on a GPU, not the worker itself.
"""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
GIB = 2**30
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-4B": {
        "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 2560, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-7B": {
        "model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
TINY = {
    "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 1000,
}  # fmt: skip
METHODS, OBJECTIVES, ENGINES = ("qlora", "lora"), ("sft", "dpo"), ("ft-assets", "TRL defaults")
RANK, BETA = 16, 0.1
Case = dict[str, Any]


# --- the head: log-probabilities of the targets, tile by tile, as TRL's fused head does it ---

_TILE_TOKENS, _TILE_VOCABULARY = 4096, 8192


class TiledLogProbs(torch.autograd.Function):
    """Computes log p(target) for hidden states [N, H] under a frozen head [V, H], one tile of logits at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        totals: list[Tensor] = []
        for rows in hidden.split(_TILE_TOKENS):
            tiles = [torch.logsumexp((rows @ tile.T).float(), -1) for tile in weight.split(_TILE_VOCABULARY)]
            totals.append(torch.stack(tiles).logsumexp(0))
        total = torch.cat(totals)
        ctx.save_for_backward(hidden, weight, targets, total)
        return (hidden * weight[targets]).sum(-1, dtype=torch.float32) - total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight, targets, total = ctx.saved_tensors
        gradient = gradients[0][:, None]
        result = gradient * weight[targets]
        for start in range(0, len(hidden), _TILE_TOKENS):
            rows = slice(start, start + _TILE_TOKENS)
            for tile in weight.split(_TILE_VOCABULARY):
                shares = ((hidden[rows] @ tile.T).float() - total[rows, None]).exp_()
                result[rows] -= shares.mul_(gradient[rows]).to(tile.dtype) @ tile
        return result.to(hidden.dtype), None, None


# --- nf4 in plain torch ---

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_BLOCK, _SUPER_BLOCK, _PIECE = 64, 256, 2**24


class Nf4Linear(nn.Linear):
    """A frozen projection in 4 bits: nf4 in blocks of 64, whose scales are 8 bits in blocks of 256."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.shape, self.dtype = weight.shape, weight.dtype
        blocks = weight.float().reshape(-1, _BLOCK)
        scale = blocks.abs().amax(-1)
        codes = torch.tensor(_NF4, device=weight.device)
        nearest = torch.bucketize(
            blocks / scale[:, None].clamp(min=1e-12), (codes[1:] + codes[:-1]) / 2, out_int32=True
        ).flatten()
        self.weight = nn.Parameter((nearest[::2] * 16 + nearest[1::2]).to(torch.uint8), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        # the scales are all positive: only their distance from the mean is stored
        mean = scale.mean()
        padded = nn.functional.pad(scale - mean, (0, -len(scale) % _SUPER_BLOCK)).reshape(-1, _SUPER_BLOCK)
        steps = padded.abs().amax(-1).clamp(min=1e-12) / 127
        self.register_buffer("scales", (padded / steps[:, None]).round().to(torch.int8))
        self.register_buffer("steps", steps)
        self.register_buffer("mean", mean)
        pairs = torch.cartesian_prod(codes, codes).to(weight.dtype)  # both values of a byte
        self.register_buffer("pairs", pairs)

    def dequantise(self) -> Tensor:
        values = torch.empty(self.shape, dtype=self.dtype, device=self.weight.device)
        scales = (self.scales.float() * self.steps[:, None] + self.mean).flatten().to(self.dtype)
        for start in range(0, values.numel(), _PIECE):
            piece = values.view(-1)[start : start + _PIECE]
            packed = self.weight[start // 2 : (start + len(piece)) // 2].int()
            torch.mul(
                nn.functional.embedding(packed, self.pairs).view(-1, _BLOCK),
                scales[start // _BLOCK : (start + len(piece)) // _BLOCK, None],
                out=piece.view(-1, _BLOCK),
            )
        return values

    def forward(self, input: Tensor) -> Tensor:
        return _FrozenProduct.apply(input.to(self.dtype), self, self.bias)  # pyright: ignore[reportReturnType]


class _FrozenProduct(torch.autograd.Function):
    """x @ W.T. W is computed from its 4 bits in the forward and again in the backward pass, and is never stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear, bias: Tensor | None) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantise(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ ctx.layer.dequantise(), None, None


# --- models with random weights ---


def build_model(sizes: dict[str, Any], *, quantised: bool, dtype: torch.dtype, device: str) -> Any:
    """Return a random model, built layer by layer on the device: a quantised model is never there in full size."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**sizes)
    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")

    def fresh(parameter: Tensor, name: str) -> Tensor:
        if parameter.ndim == 1:
            return torch.full_like(parameter, float("norm" in name), device=device)
        return torch.empty_like(parameter, device=device).normal_(std=0.02)

    for name, module in list(model.named_modules()):
        if quantised and isinstance(module, nn.Linear) and name != "lm_head":
            bias = None if module.bias is None else fresh(module.bias, name)
            model.set_submodule(name, _quantise(fresh(module.weight, name).bfloat16(), bias))
            continue
        for kind, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta and not (name == "lm_head" and config.tie_word_embeddings):
                setattr(module, kind, nn.Parameter(fresh(parameter, name), requires_grad=False))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    # its buffers are computed, not random
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    if quantised and quantiser() == "bitsandbytes":
        model.is_loaded_in_4bit = True  # peft reads this
    return model


def quantiser() -> str:
    """Return the name of the nf4 implementation that is used."""
    return "bitsandbytes" if importlib.util.find_spec("bitsandbytes") else "torch"


def _quantise(weight: Tensor, bias: Tensor | None) -> nn.Module:
    if quantiser() == "torch":
        return Nf4Linear(weight, bias)
    import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]

    outputs, inputs = weight.shape
    layer = bnb.nn.Linear4bit(
        inputs,
        outputs,
        bias is not None,
        compute_dtype=weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    layer.support_avx512bf16_for_cpu = False  # its CPU kernel has no backward pass
    return layer.to(weight.device)  # the move quantises it


def add_adapter(model: Any, method: str) -> Any:
    """Return the model with an adapter as TRL and the platform add it: fp32 on a bf16 base, bf16 on a 4-bit base."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name and method == "qlora":
            parameter.data = parameter.data.bfloat16()
    return adapted


# --- the engines: each yields the seconds of every step ---


def steps_of_ours(case: Case, model: Any, device: str) -> Iterator[float]:
    """Yield the seconds of the platform's steps: checkpointing, tiled head over the supervised half, fused AdamW."""
    from peft import LoraConfig

    adapted = add_adapter(model, case["method"])
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted.train()
    if case["objective"] == "dpo":
        adapted.add_adapter("ref", LoraConfig(**adapted.peft_config["default"].to_dict()))
        for name, parameter in adapted.named_parameters():
            if ".ref." in name:
                parameter.requires_grad_(False)
                parameter.data = parameter.data.to(torch.bfloat16 if case["method"] == "qlora" else torch.float32)
        adapted.set_adapter("default")
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0, fused=True)
    base = adapted.get_base_model()
    rows, half = (2 if case["objective"] == "dpo" else 1), case["tokens"] // 2

    def score(ids: Tensor) -> Tensor:
        """Return the log-probabilities [B, T/2] of the second half."""
        with torch.autocast(device, torch.bfloat16):
            hidden = base.model(input_ids=ids, use_cache=False).last_hidden_state[:, half - 1 : -1].bfloat16()
            targets = ids[:, half:]
            weight = base.lm_head.weight.bfloat16()
            log_probs: Any = TiledLogProbs.apply(hidden.reshape(-1, hidden.shape[-1]), weight, targets.reshape(-1))
            return log_probs.view(targets.shape)

    for _ in range(case["steps"]):
        ids = torch.randint(0, base.config.vocab_size, (rows, case["tokens"]), device=device)
        synchronise(device)
        started = time.perf_counter()
        if case["objective"] == "dpo":
            with torch.no_grad():
                adapted.set_adapter("ref")
                reference = score(ids).sum(-1)
                adapted.set_adapter("default")
                for name, parameter in adapted.named_parameters():
                    parameter.requires_grad_("lora_" in name and ".default." in name)
            chosen, rejected = score(ids).sum(-1) - reference
            loss = -nn.functional.logsigmoid(BETA * (chosen - rejected))
        else:
            loss = -score(ids).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(loss)
        synchronise(device)
        yield time.perf_counter() - started


def steps_of_trl(case: Case, model: Any, device: str) -> Iterator[float]:
    """Yield the seconds of the steps of SFTTrainer or DPOTrainer with their defaults, except for the batch of one."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            synchronise(device)
            moments.append(-time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            synchronise(device)
            moments[-1] += time.perf_counter()

    steps, tokens = case["steps"], case["tokens"]
    words = [[str(n) for n in torch.randint(3, 1000, (tokens,)).tolist()] for _ in range(2 * steps)]
    half = tokens // 2
    with tempfile.TemporaryDirectory() as out:
        given: dict[str, Any] = {
            "output_dir": out,
            "max_steps": steps,
            "per_device_train_batch_size": 1,
            "max_length": tokens,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": device == "cpu",
            "dataloader_pin_memory": device != "cpu",
        }
        common: dict[str, Any] = {
            "model": model,
            "processing_class": _word_tokenizer(),
            "callbacks": [Clock()],
            "peft_config": LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        }
        if case["objective"] == "dpo":
            pairs = [
                {
                    "prompt": " ".join(first[:half]),
                    "chosen": " ".join(["", *first[half + 1 :]]),
                    "rejected": " ".join(["", *second[half + 1 :]]),
                }
                for first, second in zip(words[::2], words[1::2], strict=True)
            ]
            trainer = DPOTrainer(args=DPOConfig(**given), train_dataset=Dataset.from_list(pairs), **common)
        else:
            ids = [[int(word) for word in row] for row in words]
            rows = [{"input_ids": row, "labels": [-100] * half + row[half:]} for row in ids]
            trainer = SFTTrainer(args=SFTConfig(**given), train_dataset=Dataset.from_list(rows), **common)
        trainer.train()
    yield from moments


def _word_tokenizer() -> Any:
    """Return a tokenizer with a token for each number, so that rows have exactly the wanted length."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {**{"<pad>": 0, "<eos>": 1, "<unk>": 2}, **{str(n): n for n in range(3, 1000)}}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


RUN: dict[str, Callable[[Case, Any, str], Iterator[float]]] = {"ft-assets": steps_of_ours, "TRL defaults": steps_of_trl}


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# --- one process an engine, shape and method ---


def run_group(cases: list[Case], device: str) -> Iterator[Case]:
    """Yield the results of the cases, each on a new model."""
    for case in cases:
        model: Any = None
        figures: dict[str, Any] = {}
        try:
            # TRL's trainers load a model in float32 if they get its name
            dtype = torch.float32 if case["engine"] == "TRL defaults" else torch.bfloat16
            model = build_model(case["sizes"], quantised=case["method"] == "qlora", dtype=dtype, device=device)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = list(RUN[case["engine"]](case, model, device))
            step = median(seconds[1:])  # the first one warms up
            rows = 2 if case["objective"] == "dpo" else 1
            figures = {"state": "measured", "step_seconds": step, "tokens_per_second": rows * case["tokens"] / step}
        except torch.OutOfMemoryError:
            figures = {"state": "out of memory"}
        if device == "cuda":
            reserved = torch.cuda.memory_reserved()
            free, total = torch.cuda.mem_get_info()
            outside = total - free - reserved  # the CUDA context
            figures |= {
                "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
                "peak_gib": (torch.cuda.max_memory_reserved() + outside) / GIB,
            }
        yield {**case, **figures}
        del model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def list_cases(tokens: list[int], steps: int, *, tiny: bool) -> list[Case]:
    """Return the cases, the most useful ones first in case time runs out: all of ours, then TRL's."""
    return [
        {
            "engine": engine,
            "shape": shape,
            "method": method,
            "objective": objective,
            "tokens": length,
            "steps": steps,
            "sizes": {**sizes, **(TINY if tiny else {})},
        }
        for engine, (shape, sizes), method, objective, length in product(
            ENGINES, SHAPES.items(), METHODS, OBJECTIVES, tokens
        )
    ]


def estimate(case: Case) -> float | None:
    """Return the GiB by the platform's estimator; None where its own libraries are not installed."""
    sys.path.insert(0, str(ROOT))
    try:
        from resources.estimate import TrainingSetup, TrainingTarget, estimate_training
        from resources.model_shape import ModelShape
    except ImportError:
        return None
    sizes = case["sizes"]
    shape = ModelShape.from_sizes(
        layers=sizes["num_hidden_layers"],
        hidden=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        ffn=sizes["intermediate_size"],
        vocab=sizes["vocab_size"],
        kv_heads=sizes["num_key_value_heads"],
        head_dim=sizes.get("head_dim"),
        tied=sizes["tie_word_embeddings"],
    )
    target = TrainingTarget(method=case["method"], r=RANK, dpo=case["objective"] == "dpo")
    setup = TrainingSetup(tokens=case["tokens"], bf16=case["engine"] != "TRL defaults")
    return estimate_training(shape, target, setup).total / GIB


def measure(cases: list[Case], device: str, out: Path, minutes: float) -> None:
    """Run each group of cases in a child process, and write all results so far after each case."""
    deadline = time.monotonic() + 60 * minutes
    done: dict[int, Case] = {}

    machine = describe_machine(device)

    def save() -> None:
        write(out, machine, [done.get(n, {**case, "state": "not run: out of time"}) for n, case in enumerate(cases)])

    groups: dict[tuple[str, ...], list[int]] = {}
    for number, case in enumerate(cases):
        groups.setdefault(tuple(case[name] for name in ("engine", "shape", "method")), []).append(number)
    for (engine, *_), numbers in groups.items():
        if engine == "TRL defaults" and not all(map(importlib.util.find_spec, ("trl", "datasets"))):
            done |= {n: {**cases[n], "state": "not run: trl is not installed"} for n in numbers}
            continue
        command = [sys.executable, __file__, "--group", json.dumps([cases[n] for n in numbers]), "--device", device]
        # without it, long rows after short ones fragment the memory
        environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout
            alarm = threading.Timer(max(deadline - time.monotonic(), 0), child.kill)
            alarm.start()
            left = iter(numbers)
            for line in child.stdout:
                if line.startswith('{"engine"'):
                    done[next(left)] = one = json.loads(line)
                    show(one)
                    save()
            alarm.cancel()
        if child.returncode and time.monotonic() < deadline:
            done |= {n: {**cases[n], "state": f"failed: exit status {child.returncode}"} for n in left}
        if time.monotonic() > deadline:
            break
    save()


def show(case: Case) -> None:
    name = f"{case['engine']:<13} {case['shape']:<11} {case['method']:<6} {case['objective']} {case['tokens']:>5}"
    figures = [f"{case['state']}"]
    for key, unit in (("step_seconds", "s/step"), ("tokens_per_second", "tok/s"), ("peak_gib", "GiB")):
        if key in case:
            figures.append(f"{case[key]:.2f} {unit}")
    print(name, "  ".join(figures), flush=True)


def describe_machine(device: str) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str] = {}
    for name in ("torch", "transformers", "peft", "trl", "bitsandbytes"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    gpu = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return {
        "device": device,
        "gpu": gpu and gpu.name,
        "gpu_gib": gpu and round(gpu.total_memory / GIB, 1),
        "quantiser": quantiser(),
        "versions": versions,
    }


def write(out: Path, machine: dict[str, Any], cases: list[Case]) -> None:
    rows: list[Case] = []
    for case in cases:
        guess = case.get("estimate_gib") or estimate(case)
        row = {**case, "estimate_gib": guess}
        if guess and "peak_gib" in case:
            row["estimate_over_peak"] = guess / case["peak_gib"]
        rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    default = Path(os.environ["OUT"]) if "OUT" in os.environ else ROOT / "benchmarks/results"
    parser.add_argument("--out", type=Path, default=default / "gpu.json")
    parser.add_argument("--estimates", type=Path, metavar="FILE", help="add the estimates to the results in FILE")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.group:
        for case in run_group(json.loads(arguments.group), arguments.device):
            print(json.dumps(case), flush=True)
        return
    tokens = arguments.tokens or ([64, 128] if arguments.tiny else [1024, 2048, 4096])
    cases = list_cases(tokens, arguments.steps or (2 if arguments.tiny else 4), tiny=arguments.tiny)
    if arguments.estimates:
        known = json.loads(arguments.estimates.read_text("utf-8"))
        write(arguments.estimates, known["machine"], known["cases"])
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU; --device cpu --tiny runs the same code on tiny shapes")
    measure(cases, arguments.device, arguments.out, arguments.minutes)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
