"""What the aggregator is made of: series, windows, statistics. Pure: no socket, no task, no clock."""

__all__: list[str] = []
