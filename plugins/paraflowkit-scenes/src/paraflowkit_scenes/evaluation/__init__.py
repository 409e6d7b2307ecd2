"""Evaluation of the scenes pipeline: quality over guidance, and parallel solvers beside the sequential sampler."""
