"""Decoding: which positions are selectable, one step, and the loop that everything uses."""
