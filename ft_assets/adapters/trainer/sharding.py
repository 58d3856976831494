"""Weights in shards over the processes of a training (`sharding: fsdp2`), for a model that no single GPU holds.

transformers loads the model in shards (torch's FSDP2), so that no process ever holds all of it. accelerate's FSDP2
would begin with the whole model in every process, and leaves gloo out, so that a CPU could not test it. An adapter is
small and stays whole in every process; its gradients are averaged. With `method: full` weights and optimizer are
shards: process 0 gathers them for a checkpoint, in the layout that one process writes, and any number of processes
resumes it.
"""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.contracts.adapter import LoraShape
from expectations.violations import Violation, violation
from ft_assets.adapters.refusals import SUBJECT, refuse, refuse_if
from ft_assets.config.model import AdapterSettings, DpoSettings, SftSettings, TrainSettings
from resources import torchrun
from resources.accelerator import Compute
from resources.trained_model import load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # transformers' names
_log = logging.getLogger(__name__)


def is_sharded(settings: TrainSettings) -> bool:
    """Return whether the weights are spread over processes. A single one has nothing to spread."""
    return settings.sharding == "fsdp2" and torchrun.world_size() > 1


def check_sharding(
    settings: SftSettings | DpoSettings, lora: AdapterSettings | LoraShape | None, compute: Compute
) -> None:
    """Refuse (FT-TRAIN-079) what is not shown to train the same weights in shards, before anything is loaded."""
    if is_sharded(settings):
        refuse_if("training in shards", list(_unproven(settings, lora, compute)))


def _unproven(
    settings: SftSettings | DpoSettings, lora: AdapterSettings | LoraShape | None, compute: Compute
) -> Iterable[Violation]:
    import torch

    section = "dpo" if isinstance(settings, DpoSettings) else "sft"
    whole = settings.method == "full"
    refused = {
        f"{section}.method": (settings.method, "lora or full", settings.method == "qlora"),
        "dpo.method": (settings.method, "lora", whole and section == "dpo"),
        f"{section}.optimizer": (settings.optimizer, "adamw", settings.optimizer != "adamw"),
        f"{section}.activation_offloading": (True, False, settings.activation_offloading),
        # each process would ask for its own questions, and wait for the layers of the others
        f"{section}.eval_answers": (settings.eval_answers, 0, settings.eval_answers > 0),
        "accelerator.dtype": (compute.dtype, "bfloat16 or float32", compute.dtype == "float16"),
        # transformers takes the GPU that it sees
        "accelerator.device": ("cpu", "auto", compute.device == "cpu" and torch.cuda.is_available()),
    }
    if lora is not None and not whole:
        refused |= {
            "lora.dora": (True, False, lora.dora),
            "lora.modules_to_save": (lora.modules_to_save, [], bool(lora.modules_to_save)),
            "lora.train_tokens": (lora.train_tokens, [], bool(lora.train_tokens)),
        }
    for field, (found, expected, is_refused) in refused.items():
        if is_refused:
            yield violation("FT-TRAIN-079", where=SUBJECT, field=field, found=found, expected=expected)


def shard_options() -> dict[str, Any]:
    """Return the options of `from_pretrained` that load a model in one shard a process."""
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(fsdp_size=torchrun.world_size())}


def accept_shards(base: Any) -> None:
    """Check that the layers of a model that was loaded in shards are spread, each apart.

    Raises Refused (FT-TRAIN-080): the whole model would be gathered for every pass.
    """
    from torch.distributed.fsdp import FSDPModule

    spread = [name for name, module in base.named_modules() if name and isinstance(module, FSDPModule)]
    if not spread:
        found = type(base).__name__.removeprefix("FSDP")
        refuse(violation("FT-TRAIN-080", where=SUBJECT, field="base_model", found=found, expected="layers in a plan"))
    # PEFT 0.21 takes any size, and so this 1, for tensor parallelism: it would gather the whole base with each adapter
    base._tp_size = None


def prepare_shards(trainer: Any) -> None:
    """Have a trainer whose model was loaded in shards train it as DDP would."""
    trainer.args.save_only_model = False  # set for transformers, which refuses to save what it would not gather
    trainer.model_wrapped = trainer.accelerator.prepare_model(
        trainer.model, device_placement=False, evaluation_mode=True
    )
    # transformers would do it when the training begins, after the trial steps
    trainer._sync_replicated_trainable_parameters(trainer.model)
    split_again(trainer.model)
    numbers = [(local_part(parameter).numel(), parameter.numel()) for parameter in trainer.model.parameters()]
    own, all_of_them = (sum(each) for each in zip(*numbers, strict=True))
    _log.info("shards: this process has %d of the %d numbers of the model", own, all_of_them)


def keep_shards(trainer_class: type[Any]) -> type[Any]:
    """Return a subclass of a trainer that evaluates, saves and resumes a model in shards as it does a whole one."""

    class ShardKeepingTrainer(_load_split(_save_gathered(trainer_class))):
        @property
        def trains_shards(self) -> bool:
            """True if what is trained is in shards: all of a model, and not an adapter on it."""
            return self.is_distributed_loading_by_transformers and not hasattr(self.model, "peft_config")

        def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
            figures = super().evaluate(*args, **kwargs)
            if self.is_distributed_loading_by_transformers:
                split_again(self.model)
            return figures

    return ShardKeepingTrainer


def _save_gathered(trainer_class: type[Any]) -> type[Any]:
    class GatheringTrainer(trainer_class):
        def save_model(self, output_dir: str | None = None, *args: object, **kwargs: object) -> None:
            if self.trains_shards and output_dir:
                save_whole_model(self.model, Path(output_dir))
            else:
                super().save_model(output_dir, *args, **kwargs)

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            if self.trains_shards:
                _save_states(self, Path(output_dir))
            else:
                super()._save_optimizer_and_scheduler(output_dir)

    return GatheringTrainer


def _load_split(trainer_class: type[Any]) -> type[Any]:
    class SplittingTrainer(trainer_class):
        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if self.trains_shards and checkpoint:
                _load_states(self, Path(checkpoint))
            else:
                super()._load_optimizer_and_scheduler(checkpoint)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: object = None) -> None:
            if self.trains_shards:
                _load_whole_model(self.model, Path(resume_from_checkpoint))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

        def _load_best_model(self) -> None:
            if self.trains_shards:
                _load_whole_model(self.model, Path(self.state.best_model_checkpoint))
            else:
                super()._load_best_model()

    return SplittingTrainer


def split_again(model: nn.Module) -> None:
    """Split what a forward pass without a backward one left whole: the output head and the last norm, which a backward
    pass needs first. An optimizer that is made now would train these copies, and not the model."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor: its shard, or the tensor itself. It shares its memory."""
    from torch.distributed.tensor import DTensor

    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor of which processes have shards. All of them must call this."""
    from torch.distributed.tensor import DTensor

    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def largest_change(after: Iterable[Tensor], before: Iterable[Tensor]) -> float:
    """Return the largest absolute difference of any number from what it was, over all processes. `before`: copies of
    the local parts, on the CPU."""
    pairs = zip(after, before, strict=True)
    own = max((float((local_part(new).cpu() - old).abs().max()) for new, old in pairs if old.numel()), default=0.0)
    return max(torchrun.gather(own))


def save_whole_model(model: Any, target: Path | None) -> None:
    """Gather a model in shards and write it as `save_pretrained` writes a whole one. All processes must call this;
    only process 0 writes, and needs a `target`. transformers would write a tied head next to the embedding."""
    once = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    whole: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name not in tied:
            gathered = whole_tensor(value)
            if torchrun.is_main():
                whole[name] = gathered.cpu()
    if torchrun.is_main():
        shards, model.config.distributed_config = model.config.distributed_config, None
        model.save_pretrained(target, state_dict=whole)
        model.config.distributed_config = shards


def _load_whole_model(model: nn.Module, folder: Path) -> None:
    """Give a model in shards the weights in `folder`. They are loaded in shards too."""
    import torch

    loaded = dict(load_weights(folder, dtype=torch.float32, **shard_options()).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(loaded[name])


def _save_states(trainer: Any, folder: Path) -> None:
    """Write the state of optimizer and scheduler as a training without shards does. All processes must call this."""
    import torch

    state = trainer.optimizer.state_dict()
    whole: dict[int, dict[str, Tensor]] = {}
    for number, values in state["state"].items():
        gathered = {name: whole_tensor(value) for name, value in values.items()}
        if torchrun.is_main():
            whole[number] = {name: value.cpu() for name, value in gathered.items()}
    if torchrun.is_main():
        torch.save({**state, "state": whole}, folder / _OPTIMIZER)
        torch.save(trainer.lr_scheduler.state_dict(), folder / _SCHEDULER)


def _load_states(trainer: Any, folder: Path) -> None:
    """Read the state of optimizer and scheduler, and keep this process' shards of it."""
    import torch

    state = torch.load(folder / _OPTIMIZER, map_location="cpu", mmap=True, weights_only=True)
    _split(trainer.optimizer, state)
    trainer.optimizer.load_state_dict(state)
    trainer.lr_scheduler.load_state_dict(torch.load(folder / _SCHEDULER, weights_only=True))


def _split(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Replace the tensors of a whole state by shards, as the parameters are split."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state["state"].items():
        parameter = parameters[number]
        if not isinstance(parameter, DTensor):
            continue
        mesh, placements = parameter.device_mesh, parameter.placements
        for name, value in values.items():
            if value.shape == parameter.shape and value.dim():  # not the number of steps
                # each process read the file: nothing is sent
                values[name] = distribute_tensor(value, mesh, placements, src_data_rank=None)
