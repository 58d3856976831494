"""The table gate: Great Expectations suites on a narrow table of measures, and their report."""
