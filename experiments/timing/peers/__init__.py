"""Other libraries beside ours: the same task on the same network and examples, in one process.

A file for each kind of task; a task says what ours does and what each library does, at settings of
its own that are stated. Clocks and the work of ours alone belong to experiments.timing.
"""
