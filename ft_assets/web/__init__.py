"""The pages that a browser opens: Dagster's and our own, behind one guard."""
