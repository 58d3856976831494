"""Contracts that travel with a model folder, a collection's metadata or an adapter."""
