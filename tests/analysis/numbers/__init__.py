"""Tests of statistics and verdicts against closed forms, simulation and other libraries."""
