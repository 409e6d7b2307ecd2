"""Step tables of configured diffusers schedulers."""

from paraflowkit.schedulers.table import SchedulerTable, table_from_scheduler

__all__ = ["SchedulerTable", "table_from_scheduler"]
