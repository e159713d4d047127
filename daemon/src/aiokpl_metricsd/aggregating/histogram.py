"""The distribution of a series in a window: the protocol's, which the client folds with too."""

from aiokpl_metrics_protocol import FIRST_SCALE, LOWEST_SCALE, Histogram

__all__ = ["FIRST_SCALE", "LOWEST_SCALE", "Histogram"]
