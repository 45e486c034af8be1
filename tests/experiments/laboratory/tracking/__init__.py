"""Tests of what is shown elsewhere: nothing depends on it, and everything is sent once."""
