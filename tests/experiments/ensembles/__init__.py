"""Tests of what the experiments on many models share."""
