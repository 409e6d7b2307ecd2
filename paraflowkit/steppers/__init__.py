"""Base steppers (samplers), one a file."""
