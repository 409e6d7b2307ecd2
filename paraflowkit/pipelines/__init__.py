"""Unmodified diffusers pipelines, parallel in time."""

from paraflowkit.pipelines.compare import Check, check
from paraflowkit.pipelines.enable import Enabled, disable, enable, enabled
from paraflowkit.pipelines.preview import Preview
from paraflowkit.pipelines.stats import PipelineStats

__all__ = ["Check", "Enabled", "PipelineStats", "Preview", "check", "disable", "enable", "enabled"]
