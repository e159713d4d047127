'''The contract of a sink, as tests: what `export`, entering, leaving and the declarations promise.

A sink's own tests derive from `SinkContract`, and pytest collects the rest:

    class TestAcmeSink(SinkContract[AcmeBackend]):
        """A test class's name begins with Test."""

        def build_sink(self, backend: AcmeBackend) -> AcmeSink:
            return AcmeSink(url=backend.url)

        @asynccontextmanager
        async def open_backend(self) -> AsyncGenerator[AcmeBackend]:
            with AcmeBackend() as backend:
                yield backend

What the backend cannot be told or asked skips the tests that need it, with the reason. docs/sinks.md leads
through it.
'''

from aiokpl_metricsd.testing.attempt_contract import AttemptContract
from aiokpl_metricsd.testing.backend import Answer, Backend, Key
from aiokpl_metricsd.testing.delivery_contract import DeliveryContract
from aiokpl_metricsd.testing.subject import BackendT


class SinkContract(AttemptContract[BackendT], DeliveryContract[BackendT]):
    """The whole suite. The hooks are those of `Subject`: `build_sink` is required, the others are offers."""


__all__ = ["Answer", "Backend", "Key", "SinkContract"]
