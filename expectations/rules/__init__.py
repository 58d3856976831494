"""The rules that gates apply: each takes plain values and returns violations."""
