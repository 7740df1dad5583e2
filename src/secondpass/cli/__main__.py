"""`python -m secondpass.cli`, for launchers that start modules: `torchrun -m secondpass.cli train train.yaml`."""

from secondpass.cli.program import main

main()
