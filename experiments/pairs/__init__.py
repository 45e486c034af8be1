"""Code shared by the experiments on pairs of sentences (MultiNLI, HANS).

The fine-tuned classifier, its influence functions, rankings and timings belong here. What a single
experiment needs stays in that experiment's file.
"""
