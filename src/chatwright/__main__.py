"""``python -m chatwright``: the command line, also for torchrun (``torchrun -m chatwright run RECIPE``)."""

from chatwright.cli import main

main()
