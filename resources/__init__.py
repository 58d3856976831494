"""The outside world: artifacts on disk, models, Qdrant, hardware, worker processes. Imports no asset."""
