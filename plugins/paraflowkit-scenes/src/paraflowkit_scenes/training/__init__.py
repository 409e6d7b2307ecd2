"""Training of everything that this package ships; needs nothing at run time."""
