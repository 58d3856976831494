"""The table gate: Great Expectations suites, one for each table, and the reports on them."""
