"""Tests in pytest's and unittest's way run in the sandbox, whether or not pytest is installed."""

import pytest

from tests.sandbox.machine import WITHOUT, verdicts_of

GOOD = {
    "pytest": (
        """
        class Bank:
            def __init__(self): self.sum = 0.0
            def put(self, x): self.sum += x
        def f(x): return x * x
        """,
        """
        import math
        import pytest
        from solution import Bank, f
        ran = []
        @pytest.fixture
        def bank():
            b = Bank()
            b.put(0.1)
            yield b
            ran.append("closed")
        @pytest.fixture()
        def rich(bank):
            bank.put(0.2)
            return bank
        @pytest.mark.parametrize("x, y", [(2, 4), pytest.param(3, 9, id="three")])
        @pytest.mark.parametrize("sign", [1, -1])
        @pytest.mark.slow
        def test_f(x, y, sign):
            ran.append((x, sign))
            assert f(sign * x) == y
        def test_bank(rich, extra=1): assert rich.sum == pytest.approx(0.3)
        def test_approx():
            assert [f(0.1), {"a": f(0.2)}["a"]] == pytest.approx([0.01, 0.04])
            assert {"a": f(0.2)} == pytest.approx({"a": 0.04})
            assert f(2) != pytest.approx(4.1) and f(2) == pytest.approx(4.1, abs=0.2)
            assert f(2) != pytest.approx(math.inf)
        class TestBank:
            def setup_method(self): self.bank = Bank()
            @pytest.fixture
            def one(self): return 1
            @pytest.mark.parametrize("x", [1, 2])
            def test_put(self, x, one):
                self.bank.put(x + one)
                assert self.bank.sum == x + one
        def test_zz(): assert sorted(ran[:4]) == [(2, -1), (2, 1), (3, -1), (3, 1)] and ran[4:] == ["closed"]
        """,
    ),
    "unittest": (
        "def f(x): return [x, 4][x > 1]",
        """
        import unittest
        class T(unittest.TestCase):
            def setUp(self): self.x = 2
            def test_f(self): self.assertEqual(f(self.x), 4)
            def test_g(self):
                with self.assertRaises(TypeError): f("a")
        if __name__ == "__main__": unittest.main()
        """,
    ),
}


@pytest.fixture(scope="module", params=WITHOUT)
def good(request):
    return verdicts_of(GOOD, WITHOUT[request.param])


@pytest.mark.parametrize("name", GOOD)
def test_good_programs_pass(good, name):
    assert good[name].passed, good[name]
    assert good[name].reason == "passed"
