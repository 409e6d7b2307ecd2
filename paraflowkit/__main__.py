"""``python -m paraflowkit``."""

from paraflowkit.cli import main

main()
