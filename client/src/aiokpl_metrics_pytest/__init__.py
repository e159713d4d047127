"""The pytest plugin of aiokpl-metrics-client: the fixture `metricsd`, described in `docs/testing.md`.

A package of its own, because pytest imports its plugins in every run: a module of `aiokpl_metrics_client`
would bring the whole client, and msgspec, into each of them.
"""

__all__: list[str] = []
