"""Symmetric matrices that one may only multiply by: Hessians, Gauss-Newton matrices, Krylov bases.

Products of such a matrix with vectors belong here. Inverting it does not: that is methods.ihvp.
"""
