"""The command line. Nothing that needs torch is imported before a command's input has been checked."""

from paraflowkit.cli.app import app, main

__all__ = ["app", "main"]
