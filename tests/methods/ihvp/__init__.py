"""Tests of inverses against dense solves, and of what they say when they fail."""
