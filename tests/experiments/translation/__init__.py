"""Tests of what the translation experiments share."""
