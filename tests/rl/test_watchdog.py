"""Collapse is noticed after its patience, and only if it lasts."""

from unmask.rl.watchdog import Watchdog

FINE = {"nfe_min": 3, "nfe_max": 9, "signal": 0.5, "correct": 0.5}


def test_each_collapse_has_its_sentence():
    for change, words in (
        ({"nfe_max": 1, "nfe_min": 1}, "everything in one step"),
        ({"nfe_min": 32, "nfe_max": 32}, "spent its whole step budget"),
        ({"signal": 0.0, "correct": 0.0}, "no roll-out has been right"),
        ({"signal": 0.0, "correct": 1.0}, "have earned the same"),
    ):
        dog = Watchdog(3, 32)
        assert dog.see({**FINE, **change}) is None
        assert dog.see({**FINE, **change}) is None
        assert words in dog.see({**FINE, **change})


def test_a_good_iteration_calms_it():
    dog = Watchdog(2, 32)
    bad = {**FINE, "signal": 0.0}
    assert [dog.see(m) is None for m in (bad, FINE, bad, FINE, bad)] == [True] * 5
    assert dog.see(bad) is not None


def test_without_patience_it_never_barks():
    dog = Watchdog(0, 32)
    assert all(dog.see({**FINE, "signal": 0.0}) is None for _ in range(50))
