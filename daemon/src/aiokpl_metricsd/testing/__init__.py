"""What sinks and programs are tested with: a scripted sink, a clock that moves when told, a contract suite.

`sink_contract` is not imported here, as it needs pytest.
"""

from aiokpl_metricsd.testing.backend import Answer, Backend, Key
from aiokpl_metricsd.testing.clock import ManualClock, settle
from aiokpl_metricsd.testing.fakes import ScriptedSink, hang

__all__ = ["Answer", "Backend", "Key", "ManualClock", "ScriptedSink", "hang", "settle"]
