"""Rules on data, contracts and vectors. Imports neither Dagster nor torch nor pandas, so that other CI can use it."""
