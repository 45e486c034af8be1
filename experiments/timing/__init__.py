"""Code shared by the experiments on speed: the work that is timed, and peers to compare with.

Clocks, workloads and peers belong here. No other experiment may depend on this room.
"""
