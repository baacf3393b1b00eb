"""Tests in pytest's and unittest's way run in the sandbox."""

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
    "fixtures of pytest's own": (
        "import logging\ndef f(x):\n    print(x)\n    logging.warning('w')\n    return g(x)\ndef g(x): return x",
        """
        import pytest
        import solution
        @pytest.fixture(autouse=True)
        def always(): solution.started = True
        @pytest.fixture(params=[1, 2])
        def number(request): return request.param
        def test_f(capsys, caplog, monkeypatch, number):
            monkeypatch.setattr(solution, "g", lambda x: 10 * x)
            monkeypatch.setattr("builtins.input", lambda: "4")
            assert solution.f(number) == 10 * number and solution.started
            assert capsys.readouterr().out == f"{number}\\n" and "w" in caplog.text
        def test_warns():
            import warnings
            with pytest.warns(UserWarning): warnings.warn("x")
        @pytest.mark.skip
        def test_skipped(): assert False
        @pytest.mark.xfail
        def test_expected_to_fail(): assert solution.f(1) == 2
        def test_skips(): pytest.skip("no")
        """,
    ),
    "no pytest needed": (
        "def f(x): return x",
        "from solution import f\ndef test_f(): assert f(1) == 1\nclass TestF:\n    def test_f(self): assert f(2) == 2",
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


@pytest.mark.parametrize(
    "tests",
    [
        "import pytest\ndef test_f(): pytest.skip('all')",
        "import pytest\nfrom solution import f",
        "from solution import f\ndef helper(): assert f(2) == 4",
        "import pytest\n@pytest.mark.parametrize('x', [])\ndef test_f(x): assert f(x) == 4",
        "import pytest\nfrom solution import f\ndef test_f(no_such_fixture): assert f(2) == 4",
        "import pytest\nfrom solution import f\n@pytest.fixture\ndef x(): raise ValueError\ndef test_f(x): assert f(2)",
        "import pytest\ndef test_f(): pytest.exit('now', 0)",
        "import pytest\ndef test_f(): raise KeyboardInterrupt",
    ],
)
def test_tests_that_do_not_run_pass_nothing(tests):
    verdict = verdicts_of({"one": ("def f(x): return 4", tests)}, ())["one"]
    assert not verdict.passed
    assert verdict.reason in ("failed", "error")
