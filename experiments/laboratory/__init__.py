"""What turns a config into a run on disk: keys, runs, the command line, tracking, progress.

Code that would serve an experiment on any subject belongs here. Nothing that knows a model or a
data set does.
"""
