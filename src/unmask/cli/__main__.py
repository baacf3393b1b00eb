"""`python -m unmask.cli`, for launchers such as `accelerate launch -m unmask.cli train ...`."""

from unmask.cli.main import main

main()
