"""Tests of methods against closed forms, autograd and leave-one-out training.

Small convex or tiny networks belong here. Experiments and runs on disk do not.
"""
