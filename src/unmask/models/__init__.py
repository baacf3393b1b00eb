"""dLLMs made uniform: whatever a family does differently stops here."""
