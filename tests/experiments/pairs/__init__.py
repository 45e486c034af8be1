"""Tests of what the experiments on pairs of sentences share."""
