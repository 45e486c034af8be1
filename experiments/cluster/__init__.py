"""How the missing cells of a preset are spread over machines: Slurm arrays and local workers.

Queueing, dividing and resubmitting cells belong here. What a cell computes never does, and a single
process works without this room.
"""
