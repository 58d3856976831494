"""Contracts: they travel with a model folder, a collection's metadata, an adapter."""
