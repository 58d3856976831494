"""The gain of training on the corpus' own sentences (`embedding.pretrain: ict`), on validation questions.

    python benchmarks/pretrain.py WORK... [--base NAME] [--set KEY=VALUE ...]

WORK and the parts of the questions are those of `benchmarks/factors.py`. Both trainings see the same questions, with
the defaults but for `--set`; the best epoch of each is compared, in pairs on the validation questions.
"""

# pyright: basic
from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean

from factors import questions_of
from fusion import BASE

from expectations.rules.bootstrap import paired_bootstrap
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.ranked import Ranked
from ft_assets.embedding.train import train
from resources.models import locate
from resources.telemetry import Metrics


def main() -> None:
    """Print the epochs of both trainings, and the gain of the best one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="+")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--questions", type=int, default=1500)
    parser.add_argument("--set", nargs="+", default=[])
    chosen = parser.parse_args()
    changes = dict(one.split("=", 1) for one in chosen.set)
    for folder in chosen.work:
        passages, (asked, held, _) = questions_of(folder, chosen.questions)
        best: list[Ranked] = []
        for kind in ("none", "ict"):
            settings = EmbeddingSettings.model_validate({"base_model": chosen.base, "pretrain": kind, **changes})
            encoder = HybridEncoder.from_base(locate(chosen.base, folder / "state"), settings, "")
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                trained = train(encoder, asked, passages, settings, Metrics(Path(scratch)), validation=held)
            best.append(trained.epochs[trained.best or 0])
            means = [f"{100 * fmean(epoch.fused):.1f} ({100 * fmean(epoch.dense):.1f})" for epoch in trained.epochs]
            print(folder.name, kind, ", ".join(means), f"{time.monotonic() - started:.0f} s", flush=True)
        for arm in Ranked._fields:
            gain = paired_bootstrap(*(getattr(one, arm) for one in reversed(best)))
            print(
                f"{folder.name} {arm} {100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
