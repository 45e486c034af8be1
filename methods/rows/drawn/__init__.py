"""Linear maps that are drawn from a seed: dense entries, hashes, two sides.

How each multiplies rows fast belongs here. What a user chooses, and its variance, is a class of
`projections.py`.
"""
