"""Nearest neighbours among rows, by exhaustive search and by indexes kept on disk.

Ranking and indexing of rows belong here. How rows are computed does not: they are passed in.
"""
