"""What the experiments on speed share: the work that is timed, and other libraries for comparison.

Clocks, workloads and peers belong here. No other experiment may depend on this room.
"""
