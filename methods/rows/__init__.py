"""One vector for each example (a gradient, features, a projection), in its cheapest exact form.

Forms of rows, the ways to compute them and their inner products belong here. Curvature does not,
nor does any choice of a method.
"""
