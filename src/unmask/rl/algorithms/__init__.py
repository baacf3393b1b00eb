"""Algorithms of reinforcement learning: each is a module that says what a batch of roll-outs teaches.

`load_algorithm` finds one by its module's name, or a user's own by its dotted path.
"""
