"""``python .../sandbox/__main__.py SETTINGS``: the keeper, in an interpreter without the rest of `unmask`."""

import sys
from types import ModuleType

for name in ("unmask", "unmask.sandbox"):
    package = sys.modules[name] = ModuleType(name)
    package.__path__ = [__file__.rpartition("/")[0]]

from unmask.sandbox.keeper import main  # noqa: E402

main(sys.argv[1])
