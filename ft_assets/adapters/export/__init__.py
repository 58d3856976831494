"""Adapters for use outside the project: merged models, GGUF files, model cards."""
