"""A producer to look at: the metrics of a service that writes to a Kinesis stream."""

import random
import time
from contextlib import suppress

from aiokpl_metrics_client import MetricsClient

# How often a round of puts meets a throttled shard.
THROTTLED_RATIO = 0.05

SHARDS = ("shardId-000000000000", "shardId-000000000001")


def main() -> None:
    """Record some two hundred events a second, until Ctrl-C."""
    generator = random.Random(7)  # noqa: S311 - a demo, not a secret
    with MetricsClient() as client:
        received = client.counter("UserRecordsReceived", stream="orders")
        pending = client.gauge("UserRecordsPending", stream="orders")
        request_time = client.timer("RequestTime", stream="orders")
        while True:
            for _ in range(20):
                received.record(1)
                client.put("UserRecordsPut", stream="orders", shard_id=generator.choice(SHARDS))
                client.put("BufferedTime", generator.lognormvariate(3, 0.5), stream="orders")
            if generator.random() < THROTTLED_RATIO:
                client.put(
                    "ErrorsByCode", stream="orders", error_code="ProvisionedThroughputExceededException"
                )
            pending.record(generator.randrange(100))
            with request_time:
                time.sleep(generator.uniform(0.05, 0.15))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
