"""The training itself: model, TRL trainer, loss, checkpoints, memory, and the figures it reports."""
