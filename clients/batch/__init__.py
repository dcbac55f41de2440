"""Batches: many specs from files to certified plans in a file."""
