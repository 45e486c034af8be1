"""Code shared by the experiments that train many models: subsets, classifiers, attributions.

Training a whole ensemble and keeping what its members predict belongs here. Estimates made from
those predictions do not: they are in methods.ensembles.
"""
