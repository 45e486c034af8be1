"""What the experiments on MNIST and scikit-learn's digits share.

Their trained networks and the retrieval of wrong labels belong here. What a single experiment needs
stays in that experiment's file.
"""
