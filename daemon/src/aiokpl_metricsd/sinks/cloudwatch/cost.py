"""Series and requests -> what CloudWatch charges a month. Pure."""

from collections.abc import Sequence
from typing import Final

# US dollars a custom metric and month, by how many metrics an account has in a region, and 1,000
# PutMetricData requests; us-east-1, list prices, read 2026-11 in copies of
# aws.amazon.com/cloudwatch/pricing. Other regions differ, and what an account is given free is left out.
METRIC_TIERS: Final[Sequence[tuple[float, float]]] = (
    (10_000, 0.30),
    (240_000, 0.10),
    (750_000, 0.05),
    (float("inf"), 0.02),
)
USD_PER_1000_REQUESTS: Final = 0.01
PRICES_READ: Final = "2026-11"

# A metric is charged by the hour, a month has 730 on average.
_MONTH_S: Final = 730 * 3600


def count_requests(requests: int, interval_s: float) -> int:
    """Return the requests of a month.

    Args:
        requests: of one window.
        interval_s: the length of a window in seconds.
    """
    return round(requests * _MONTH_S / interval_s)


def price_metrics(metrics: int) -> float:
    """Return what so many custom metrics cost a month, in US dollars."""
    price, left = 0.0, float(metrics)
    for size, usd in METRIC_TIERS:
        price += min(left, size) * usd
        left = max(0.0, left - size)
    return price


def price_requests(requests: int) -> float:
    """Return what so many requests cost, in US dollars."""
    return requests / 1000 * USD_PER_1000_REQUESTS


def describe_cost(metrics: int, requests: int, interval_s: float) -> list[str]:
    """Return the estimate as lines for people.

    Args:
        metrics: custom metrics, that is series.
        requests: of one window.
        interval_s: the length of a window in seconds.
    """
    monthly = count_requests(requests, interval_s)
    request_usd = f"{price_requests(monthly):,.2f} USD"
    return [
        f"{metrics:,} custom metrics: {price_metrics(metrics):,.2f} USD a month",
        f"{monthly:,} PutMetricData requests a month ({requests:,} each {interval_s:g} s): {request_usd}",
        f"list prices of us-east-1, read {PRICES_READ}, without what else the account has",
    ]


__all__ = [
    "METRIC_TIERS",
    "PRICES_READ",
    "USD_PER_1000_REQUESTS",
    "count_requests",
    "describe_cost",
    "price_metrics",
    "price_requests",
]
