"""An example plugin of paraflowkit. Importing it loads no torch."""
