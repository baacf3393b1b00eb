"""What the tests hold `unmask` against: the loop and the rules written again, without a line of the package."""

from tests.oracle.editing import editing_loop
from tests.oracle.loop import Choose, plain_loop
from tests.oracle.rules import RULES, plain_rule

__all__ = ["RULES", "Choose", "editing_loop", "plain_loop", "plain_rule"]
