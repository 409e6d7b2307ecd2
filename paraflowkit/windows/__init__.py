"""Window policies, one a file."""
