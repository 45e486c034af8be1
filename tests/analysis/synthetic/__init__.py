"""Runs made without training, one file for each experiment, with numbers chosen by the test.

Their metric and array names are held against those of real smoke runs (shapes.json). Assertions
belong in the tests, not here.
"""
