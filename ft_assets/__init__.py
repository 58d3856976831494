"""The Dagster code location. One folder a stage, in the order of the data's way; wiring lives in definitions.py."""
