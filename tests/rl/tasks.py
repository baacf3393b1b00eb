"""Tasks that a random dLLM can earn something on."""

from unmask.tasks.auto import load_task
from unmask.tasks.base import Task


class Short(Task):
    """Any text counts as right if its number of words is even."""

    name, gen_length, block_length, endless = "short", 8, 4, True

    def examples(self, split, n, seed=0):
        return load_task("house").examples(split, n, seed)

    def verify(self, example, text):
        return len(text.split()) % 2 == 0


class Hopeless(Short):
    def verify(self, example, text):
        return False


class Easy(Short):
    def verify(self, example, text):
        return True


class Odd(Short):
    name = "odd"

    def examples(self, split, n, seed=0):
        return load_task("house").examples(split, n, seed + 1)

    def verify(self, example, text):
        return not super().verify(example, text)
