"""The experiments: one file each, run as `python -m experiments.NAME`.

A file on this level defines EXPERIMENT (a config, `run(config)` and its presets). What several
experiments share belongs in a room beside them. An experiment never imports another experiment,
nor anything of analysis.
"""
