"""`check_task`: does a task keep what decoding, training and evaluation rely on?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from unmask.errors import UnmaskError
from unmask.tasks.base import Example, Task
from unmask.testing.demand import demand

EMPTY = ("", " \n")
ODD = ("\x00\ud800", "{[(" * 30, "\\boxed{", "```python\n", "9" * 5000)  # what a dLLM may write
VERIFIED = 6  # examples whose texts are verified


def check_task(
    task: Task,
    *,
    solve: Callable[[Example], str] | None = None,
    splits: Sequence[str] = ("train", "validation", "test"),
    examples: int = 20,
    seed: int = 0,
) -> None:
    """Check a task on its first examples.

    It must give the same distinct examples for the same seed, no more than asked for, with text for prompts; share no
    prompt between splits; have columns that JSON can hold, and a gen_length that block_length divides. Its verdict on
    any text must be True or False, and not depend on what else is verified. No empty text is correct. `verifiable` must
    say whether there are verdicts at all.

    Args:
        solve: writes a correct text for an example. If given, each must be correct for its example, and not every one
            for the others.
        splits: one that the task lacks is left out.
        examples: how many of each split.

    Raises:
        UnmaskError: naming the first property that does not hold; or what this machine lacks to verify answers.
    """
    _check_lengths(task)
    found = {split: _examples_of(task, split, examples, seed) for split in splits}
    found = {split: some for split, some in found.items() if some}
    demand(bool(found), _name(task), f"has no example in {', '.join(splits)}: give it some, or name its splits")
    seen: dict[str, str] = {}
    for split, some in found.items():
        for example in some:
            first = seen.setdefault(example.prompt, split)
            shared = f"has {example.prompt[:40]!r} in {first} and in {split}: keep its splits apart"
            demand(first == split, _name(task), shared)
    some = list(found.values())[-1][:VERIFIED]
    if task.verifiable:
        task.prepare()
        _check_verdicts(task, some, solve)
    else:
        _check_that_none_is_given(task, some[0])


def _check_lengths(task: Task) -> None:
    demand(isinstance(task.name, str) and bool(task.name), _name(task), "must have a name: set name to some text")
    for what in ("gen_length", "block_length"):
        value = getattr(task, what)
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
        demand(whole, _name(task), f"has the {what} {value!r}: give a whole number above 0")
    demand(
        task.gen_length % task.block_length == 0,
        _name(task),
        f"has a block_length of {task.block_length} that does not divide its gen_length of {task.gen_length}: "
        "choose a divisor",
    )


def _examples_of(task: Task, split: str, n: int, seed: int) -> list[Example]:
    """The first examples, checked; none if the task lacks the split."""
    try:
        some = task.examples(split, n, seed)
    except UnmaskError:
        return []
    of = f"of the {split} split"
    demand(len(some) <= n, _name(task), f"gave {len(some)} examples {of} for n = {n}: give no more than n")
    for example in some:
        text = all(isinstance(each, str) for each in (example.prompt, example.answer, example.prefix))
        demand(text, _name(task), f"has an example {of} whose prompt, answer or prefix is no text: call str()")
        demand(bool(example.prompt.strip()), _name(task), f"has an empty prompt {of}: leave it out")
        try:
            json.dumps(dict(example.columns))
        except (TypeError, ValueError) as e:
            raise UnmaskError(f"{_name(task)} must have columns of plain values {of}: {e}.") from None
    distinct = len({example.prompt for example in some}) == len(some)
    demand(distinct, _name(task), f"gave a prompt {of} twice: give distinct examples")
    again = task.examples(split, n, seed)
    same = some == again and [dict(e.columns) for e in some] == [dict(e.columns) for e in again]
    demand(same, _name(task), f"gave other examples {of} for the same seed: draw with random.Random(seed)")
    return some


def _check_verdicts(task: Task, some: Sequence[Example], solve: Callable[[Example], str] | None) -> None:
    texts = [*EMPTY, *ODD]
    pairs = [(some[i % len(some)], text) for i, text in enumerate(texts)]
    pairs += [(example, example.answer) for example in some]
    if solve is not None:
        pairs += [(example, solve(example)) for example in some]
    alone = [_verdict(task, example, text) for example, text in pairs]
    for (_, text), verdict in zip(pairs[: len(EMPTY)], alone, strict=False):
        demand(not verdict, _name(task), f"calls {text!r} correct: let an empty text be wrong")
    order = [*range(1, len(pairs), 2), *range(0, len(pairs), 2)]
    shuffled = task.verify_all([pairs[i][0] for i in order], [pairs[i][1] for i in order])
    demand(len(shuffled) == len(pairs), _name(task), "must give one verdict per text from verify_all")
    demand(
        list(shuffled) == [alone[i] for i in order],
        _name(task),
        "gives another verdict from verify_all than from verify: verify each text by itself",
    )
    demand(task.verify_all([], []) == [], _name(task), "must give [] from verify_all of nothing")
    if solve is not None:
        _check_solutions(task, some, alone[-len(some) :], solve)


def _check_solutions(
    task: Task, some: Sequence[Example], verdicts: Sequence[bool], solve: Callable[[Example], str]
) -> None:
    for example, verdict in zip(some, verdicts, strict=True):
        text = solve(example)
        demand(verdict, _name(task), f"calls the solution {text[:40]!r} wrong: correct verify, or the gold answer")
    others = [(example, other) for example in some for other in some if example.answer != other.answer]
    if others:
        given = task.verify_all([example for example, _ in others], [solve(other) for _, other in others])
        demand(not all(given), _name(task), "calls the solution of any prompt correct for each: compare the answers")


def _check_that_none_is_given(task: Task, example: Example) -> None:
    try:
        task.verify(example, example.answer)
    except Exception:
        return
    demand(False, _name(task), "gives verdicts though verifiable is False: set it to True, or let verify raise")


def _verdict(task: Task, example: Example, text: str) -> bool:
    try:
        verdict = task.verify(example, text)
    except Exception as e:
        told = f"{type(e).__name__}: {e}".rstrip(".")
        raise UnmaskError(
            f"{_name(task)} fails to verify {text[:40]!r} ({told}): return False for what cannot be read, or set "
            "verifiable to False."
        ) from e
    demand(
        isinstance(verdict, bool),
        _name(task),
        f"gave {verdict!r} for {text[:40]!r}: return True or False from verify",
    )
    return verdict


def _name(task: Task) -> str:
    return f"The task {getattr(task, 'name', type(task).__name__)!r}"
