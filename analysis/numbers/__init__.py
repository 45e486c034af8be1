"""From runs to numbers: tables of estimates with intervals, statistics, claims, verdicts.

Every number that is computed from runs belongs here. Colours, axes and pages do not.
"""
