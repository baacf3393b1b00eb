"""Collapse is noticed after its patience, and only if it lasts."""

from unmask.rl.collapse import CollapseDetector, fallen_speeds

FINE = {"nfe_min": 6, "nfe_max": 9, "signal": 0.5, "correct": 0.5, "updated": True}


def test_each_collapse_has_its_sentence():
    for change, words in (
        ({"nfe_max": 4, "nfe_min": 4}, "each block in one step"),
        ({"nfe_min": 32, "nfe_max": 32}, "spent its whole step budget"),
        ({"signal": 0.0, "correct": 0.0, "updated": False}, "no roll-out is right"),
        ({"signal": 0.0, "correct": 1.0, "updated": False}, "earn the same"),
        ({"signal": 0.1, "updated": False}, "Lower min_signal"),
    ):
        detector = CollapseDetector(3, 4, 32)
        assert detector.update({**FINE, **change}) is None
        assert detector.update({**FINE, **change}) is None
        assert words in detector.update({**FINE, **change})


def test_a_good_iteration_calms_it():
    detector = CollapseDetector(2, 4, 32)
    bad = {**FINE, "updated": False}
    assert [detector.update(m) is None for m in (bad, FINE, bad, FINE, bad)] == [True] * 5
    assert detector.update(bad) is not None


def test_without_patience_it_never_triggers():
    detector = CollapseDetector(0, 4, 32)
    assert all(detector.update({**FINE, "updated": False}) is None for _ in range(50))


def test_a_speed_that_falls_is_named():
    best: dict[str, float] = {}
    assert fallen_speeds({"reward@0.00": 0.9, "reward@0.50": 0.5, "reward": 0.7}, best) is None
    assert fallen_speeds({"reward@0.00": 0.95, "reward@0.50": 0.46}, best) is None
    told = fallen_speeds({"reward@0.00": 0.9, "reward@0.50": 0.44}, best)
    assert told.startswith("The validation reward has fallen at speed 0.50 (from 0.500 to 0.440). If it stays there,")
    assert best == {"0.00": 0.95, "0.50": 0.5}
    assert fallen_speeds({"reward": 0.1, "nfe": 3.0}, best) is None
