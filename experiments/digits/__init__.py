"""Code shared by the experiments on MNIST and scikit-learn's digits.

Their trained networks, exact Hessians and projected gradients belong here. What a single experiment
needs stays in that experiment's file.
"""
