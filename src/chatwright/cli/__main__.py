"""``python -m chatwright.cli`` is the command ``chatwright``."""

from chatwright.cli import main

main()
