"""Networks and pipelines in diffusers' format as models."""
