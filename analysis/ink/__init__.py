"""From numbers to figures: the style, and panels that several figures share.

Drawing belongs here and uses the committed CSV alone. Nothing here reads a run or computes a number
that is stated.
"""
