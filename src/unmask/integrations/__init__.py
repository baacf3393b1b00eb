"""Faces of this library in the terms of others: thin, each behind an extra."""
