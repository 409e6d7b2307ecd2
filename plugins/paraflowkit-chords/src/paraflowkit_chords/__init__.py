"""CHORDS, a multi-core hierarchical solver, as a plugin of paraflowkit. Importing it loads no torch."""
