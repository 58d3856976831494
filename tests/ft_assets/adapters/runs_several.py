"""A worker that trains several jobs one after the other: processes start once. A training may be killed on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from transformers import Trainer

from ft_assets.adapters import train
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker


class Killed(Exception):
    """The end of a training in all its processes at once."""


def train_until(job: Job, last: int | None) -> Artifact | None:
    """Train; None if it was killed in the step after `last`."""
    step = Trainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == last:
            raise Killed
        return step(self, *args, **kwargs)

    with mock.patch.object(Trainer, "training_step", training_step):
        try:
            return train.main(job)
        except Killed:
            return None


def main(job: Job) -> Artifact:
    """Run `params["jobs"]`: the file of each job, and its last step if it is killed then; the last one is not."""
    done: list[Artifact | None] = []
    for path, last in job.params["jobs"]:
        done.append(train_until(msgspec.json.decode(Path(path).read_bytes(), type=Job), last))
    if done[-1] is None:
        raise Killed
    return done[-1]


if __name__ == "__main__":
    run_worker(main)
