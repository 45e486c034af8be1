"""Tests that products with a curvature matrix equal those of the matrix written out."""
