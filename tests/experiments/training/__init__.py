"""Tests of the training loop: determinism, resuming, precision, augmentation, stacks."""
