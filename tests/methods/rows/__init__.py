"""Tests that every form of rows equals per-example gradients of autograd, in float64."""
