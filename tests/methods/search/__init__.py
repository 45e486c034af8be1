"""Tests that searches and indexes find what sorting all inner products finds."""
