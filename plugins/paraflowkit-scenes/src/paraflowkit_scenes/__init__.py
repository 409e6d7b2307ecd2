"""A small text-to-image pipeline with its data, eyes and training: ``DiffusionPipeline.from_pretrained(FOLDER)``."""

from paraflowkit_scenes.config import FOLDER

__all__ = ["FOLDER"]
