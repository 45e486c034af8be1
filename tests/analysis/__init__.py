"""Tests of every table and figure on synthetic runs whose right numbers are known.

Nothing here trains a model or imports torch to make a run.
"""
