"""Fitted methods: rows of queries and of candidates, and the scores that these make.

What makes a method of a task (its settings, its curvature) does not belong here.
"""
