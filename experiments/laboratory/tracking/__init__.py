"""Runs as other programs show them: W&B, TensorBoard, plain CSV files. Nothing is ever read back.

What is shown of a run, and how it is sent, belongs here; nothing that a number depends on does.
A new place is one file with a `Tracker`, and its word in `trackers`.
"""
