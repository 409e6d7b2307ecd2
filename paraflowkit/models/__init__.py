"""Model adapters, one a file."""
