"""What the files of a batch are called that stand beside its output, OUT, by what their names end in."""

FAILURES = ".failures.jsonl"
"""A line for each task without a plan."""
LOCK = ".batch.json"
"""Whose the output is, and under which options its results were made."""
PART = ".part.jsonl"
"""The results that are to become a table, until the batch is over."""
