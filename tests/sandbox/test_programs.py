"""Programs that must pass: code and tests do to each other what they do in one process."""

import dataclasses

import pytest

from tests.sandbox.machine import WITHOUT, verdicts_of
from tests.sandbox.programs import FILES, GOOD
from unmask.sandbox import Program, Sandbox


@pytest.fixture(scope="module", params=WITHOUT)
def good(request):
    without = WITHOUT[request.param]
    return without, verdicts_of(GOOD | FILES, without)


@pytest.mark.parametrize("name", GOOD | FILES)
def test_good_programs_pass(good, name):
    without, verdicts = good
    if without and (name in FILES or name == "own folder"):
        assert "Error" in verdicts[name].message  # nothing would bound what it writes
    else:
        assert verdicts[name].passed, verdicts[name]
        assert verdicts[name].reason == "passed"


def test_setup_is_the_tests_own_but_for_the_names():
    setup = "def helper(x): return x + 1\ndef f(x):\n    '''A stub.'''"
    tests = "def check(candidate):\n    assert candidate(2) == 4\n    assert helper(1) == 2\ncheck(f)"
    code = "def helper(x): return 0\ndef f(x): return 4"
    verdict = Sandbox().run(Program(code, tests, setup, ("f",)))
    assert verdict.passed, verdict
    assert not Sandbox().run(Program(code, tests, setup, ("f", "helper"))).passed


def test_naming_the_code_is_not_testing_it():
    verdict = Sandbox().run(Program("def f(x): return 4", "def check(g): assert g(2) == 4", names=("f",)))
    assert (verdict.reason, verdict.message) == ("failed", "NoTestError: nothing called the code")


def test_a_function_with_the_name_of_a_builtin_is_taken_if_named():
    program = Program("def sum(a, b): return a + b", "assert sum(1, 2) == 3", names=("sum",))
    assert Sandbox().run(program).passed
    assert "TypeError" in Sandbox().run(dataclasses.replace(program, names=())).message


def test_verdicts_repeat_though_the_code_depends_on_hashes():
    program = Program("def f(): return list({str(i) for i in range(99)})", "assert f()[0] == '0'")
    assert len({verdict.message for verdict in Sandbox().run_all([program] * 3)}) == 1
