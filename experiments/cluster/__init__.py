"""How the missing cells of a preset are spread over machines: Slurm arrays and local workers.

Dividing cells into tasks and stages, queueing and resubmitting them belong here. What a cell
computes never does, and a single process works without this room.
"""
