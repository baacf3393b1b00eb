"""Policies of one speed, as the paper trains them (`configs/train`); those that ship have every speed."""

from pathlib import Path

HOUSE_FULL, HOUSE_BLOCK8 = (str(Path(__file__).parent / "data" / f"house-base-{name}") for name in ("full", "block8"))
