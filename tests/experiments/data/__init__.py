"""Tests of readers on small files in the original formats, and of their messages.

Nothing here is downloaded.
"""
