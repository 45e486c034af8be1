"""One file for each architecture, as ordinary PyTorch modules.

Layers, sizes and the reading of released weights belong here. Training, data and attribution never
do.
"""
