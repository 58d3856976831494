"""What must be true. Imports neither Dagster nor torch nor pandas, so another repository's CI can use it alone."""
