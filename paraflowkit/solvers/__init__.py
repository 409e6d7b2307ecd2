"""Parallel solvers, one a file."""
