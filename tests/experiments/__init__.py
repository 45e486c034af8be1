"""Tests of each experiment by its smallest preset, and of the rooms that experiments share.

Tests that run a cell belong here. Numbers of tables and figures are tested in tests/analysis.
"""
