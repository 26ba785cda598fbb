"""No span that leaves the process says what an error said."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.telemetry import ErrorTextRemover


def test_the_text_of_an_error_stays_in_the_process() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ErrorTextRemover(kept)))
    tracer = provider.get_tracer("test")
    try:
        with tracer.start_as_current_span("INSERT", attributes={"db.system.name": "postgresql"}):
            raise ValueError("Failing row contains (Jane Doe, HIV positive)")
    except ValueError:
        pass
    (span,) = kept.get_finished_spans()
    assert "Jane" not in span.to_json()
    assert not span.status.is_ok
    assert span.attributes == {"db.system.name": "postgresql"}
