"""Pipelined parareal (self-refining) sampling, as a plugin of paraflowkit. Importing it loads no torch."""
