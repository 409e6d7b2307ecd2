"""Everything that runs under Lightning Fabric: where rows are evaluated, and the predict loop."""
