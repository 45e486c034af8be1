"""Code shared by the experiments on German-English translation.

Trained translators, pools of sentence pairs, their scores and the filtering by them belong here.
The Transformer itself does not (models), nor do corpora (data).
"""
