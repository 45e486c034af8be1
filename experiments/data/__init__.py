"""One file for each data set: where its files lie, how to read them, what to generate instead.

Readers, label noise and generated stand-ins belong here. Models and methods never do, and importing
a file reads no data.
"""
