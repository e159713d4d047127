"""What `aiokpl-metricsd doctor` looks at: a file for each part of the machine, the table in `examination`."""

__all__: list[str] = []
