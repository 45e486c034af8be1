"""Tests of masks, estimates and their errors on outcomes whose answer is known."""
