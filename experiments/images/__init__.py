"""Code shared by the experiments on photographs: CIFAR networks, vision Transformers, proponents.

Trained models and queries of at least two image experiments belong here. The reading of images does
not (data), nor do architectures (models).
"""
