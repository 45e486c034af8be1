"""How a model is trained: the one loop, its plans, augmentation, stacks of models, losses.

Everything that changes parameters, saves a state or resumes from one belongs here. Particular data
sets and architectures do not: they are passed in.
"""
