"""A user's loss: as a function of parameters, what is proved of it, and what its errors mean.

What an attribution method does with gradients does not belong here.
"""
