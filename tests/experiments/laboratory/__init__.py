"""Tests of runs, keys, the command line and tracking under kills, races and full disks.

Experiments made for the test belong here. The registered experiments do not.
"""
