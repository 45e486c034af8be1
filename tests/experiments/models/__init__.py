"""Tests of architectures: shapes, numbers of parameters, equality with a reference."""
