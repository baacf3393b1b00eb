"""Evaluation: rows, intervals, the grid of heuristics, tables and plots."""
