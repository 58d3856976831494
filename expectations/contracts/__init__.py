"""Contracts that travel with what they describe: in the model folder, in the collection's metadata, in asset metadata."""
