"""Snapshots -> text: JSON rows, tables, percentiles."""

__all__: list[str] = []
