"""An OpenAI-compatible server of any dLLM (`pip install 'unmask[serve]'`, `unmask serve`)."""
