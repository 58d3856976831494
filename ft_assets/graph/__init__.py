"""The parts that every stage needs to be in the graph: gates, artifacts, observed files, automation, the instance."""
