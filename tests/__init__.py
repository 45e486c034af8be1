"""Tests, in folders like those of the code; what concerns all floors is tested on this level.

A test that would fail for a wrong number, a lost run or a broken rule belongs here. A test that
repeats how something is written does not.
"""
