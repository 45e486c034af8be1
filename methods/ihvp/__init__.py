"""Ways to multiply a vector by the inverse of a curvature matrix, one file each.

An inverse takes a damped operator and gives an operator. Gradients, scores and models never appear
here.
"""
