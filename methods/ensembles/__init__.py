"""From many trained models, not gradients: subsets, estimates, agreement, power, plans.

Functions on arrays of masks and outcomes belong here. Nothing here trains a model or differentiates
one.
"""
