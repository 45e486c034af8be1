"""Tests of the report in a browser, and of tables as text and LaTeX."""
