"""What the experiments on pairs of sentences (MultiNLI, HANS) share.

The fine-tuned classifier, its influence functions, rankings and timings belong here. What a single
experiment needs stays in that experiment's file.
"""
