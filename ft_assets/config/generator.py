"""The section `generator`, as workers take it."""

from __future__ import annotations

from ft_assets.config.model import Settings
from resources.text_source import GeneratorParams


def params_of_generator(settings: Settings) -> GeneratorParams:
    """Return the parameters of a worker that asks the generator."""
    generator, (name, revision) = settings.generator, settings.local_generator()
    return GeneratorParams(
        kind=generator.kind,
        base_model=name,
        revision=revision,
        url=generator.url or "",
        model=generator.model or "",
        context_tokens=generator.context_tokens or 0,
        concurrency=generator.concurrency,
        timeout=generator.timeout,
        max_retries=generator.max_retries,
        batch_size=generator.batch_size,
        max_tokens_total=generator.max_tokens_total,
    )
