"""A refactoring changes no row: the cheap and discrete part of `tests.golden.compute`, on every run of the tests."""

import json

import pytest

from tests.golden import compute

GOLDEN = json.loads(compute.PATH.read_text(encoding="utf-8"))
CHEAP = ("klass:threshold=0.7,kl=0.01", "house-base-full")


def test_rows_are_as_they_were():
    found = json.loads(json.dumps(dict(compute.rows(CHEAP))))
    compared = slice(None) if compute.machine() == GOLDEN["machine"] else slice(compute.PROMPTS)  # NFE alone
    assert {key: row[compared] for key, row in found.items()} == {key: GOLDEN[key][compared] for key in found}
    assert len(found) == len(CHEAP) * len(compute.REGIONS) * 4


@pytest.mark.slow
def test_everything_is_as_it_was():
    """Metrics in floating point may differ on other machines: `python -m tests.golden.compute check` says where."""
    found = json.loads(json.dumps(compute.everything()))
    discrete = [key for key, value in GOLDEN.items() if isinstance(value, list)]
    assert {key: found[key] for key in discrete} == {key: GOLDEN[key] for key in discrete}
    assert found.keys() == GOLDEN.keys()
