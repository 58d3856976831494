"""The outside world: artifacts on disk, models, Qdrant, hardware, where work runs. Knows nothing of assets."""
