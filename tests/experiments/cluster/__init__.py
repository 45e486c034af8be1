"""Tests of arrays and submission, on a Slurm of one node where one is installed."""
