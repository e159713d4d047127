"""What the in-process library, `aiokpl_metricsd.metrics`, is made of."""

__all__: list[str] = []
