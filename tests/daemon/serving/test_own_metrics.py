"""Columns of a ledger -> samples."""

from aiokpl_metricsd.delivering.delivery_log import describe_error
from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.rendering.exposition import Form
from aiokpl_metricsd.serving import own_metrics


def render(ledger: SinkLedger) -> str:
    samples = list(own_metrics.collect_columns(own_metrics.SINK, ledger.as_dict(), (("sink", "dd"),)))
    return own_metrics.encode_samples(Form.TEXT, samples, 0.0)


def test_the_page_says_of_what_kind_a_sinks_last_failure_was() -> None:
    ledger = SinkLedger()
    assert "metricsd_sink_last_error" not in render(ledger)
    ledger.last_error = describe_error(ConfigurationError("datadog: the package x is missing; pip install y"))
    assert 'metricsd_sink_last_error{sink="dd",error="ConfigurationError"} 1.0\n' in render(ledger)
    ledger.last_error = describe_error(TimeoutError())
    assert 'metricsd_sink_last_error{sink="dd",error="TimeoutError"} 1.0\n' in render(ledger)
