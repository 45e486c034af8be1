"""Tests of what the image experiments share."""
