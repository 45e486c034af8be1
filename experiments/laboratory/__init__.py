"""From a config to a run on disk: keys, runs, the command line, tracking, progress.

Code that would serve an experiment on any subject belongs here, the once-per-model work of a method
and its settings as numbers included. Nothing that knows a model or a data set does.
"""
