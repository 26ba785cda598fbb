"""OpenTelemetry: one trace a document, carried from hop to hop in the job's row; metrics on /metrics and by OTLP.

Conventions: https://opentelemetry.io/docs/specs/semconv/messaging/ and …/gen-ai/. Spans carry ids, never content;
metrics carry neither.
OTLP goes where OTEL_EXPORTER_OTLP_ENDPOINT says; without it nothing is sent.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

# Before the instrumentation is imported: the stable names (db.query.text), not the old ones (db.statement).
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

MESSAGING_SYSTEM = "postgresql"
SECONDS_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Edges at 120 s and 600 s, where the objectives of the fast and the AI queue are."""
SHARE_BUCKETS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)

tracer = trace.get_tracer("chartloom")
meter = metrics.get_meter("chartloom")

_exporting = False
"""Whether anybody receives spans: a span that nobody sees costs 40 µs a job, as much as Postgres does for it."""


class ErrorTextRemover(SpanExporter):
    """Passes on spans without what an error says: asyncpg's quotes the row that was refused."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_without_error_text(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _without_error_text(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        links=span.links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=trace.Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
    )


def configure_telemetry(*, service: str, version: str, instance: str, trace_statements: bool = True) -> None:
    """Sets the global providers, once a process. ``flush_telemetry`` before it ends."""
    resource = Resource.create(
        {
            "service.name": f"chartloom-{service}",
            "service.namespace": "chartloom",
            "service.version": version,
            "service.instance.id": instance,
        }
    )
    global _exporting  # noqa: PLW0603 - set once, before the first span
    _exporting = bool(
        os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    provider = TracerProvider(resource=resource)
    readers: list[MetricReader] = [PrometheusMetricReader()]
    if _exporting:
        provider.add_span_processor(BatchSpanProcessor(ErrorTextRemover(OTLPSpanExporter())))
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    trace.set_tracer_provider(provider)
    views = [
        View(instrument_name="*_seconds", aggregation=ExplicitBucketHistogramAggregation(SECONDS_BUCKETS)),
        View(instrument_name="*_confidence", aggregation=ExplicitBucketHistogramAggregation(SHARE_BUCKETS)),
    ]
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=readers, views=views))
    propagate.set_global_textmap(TraceContextTextMapPropagator())
    if trace_statements and _exporting:
        AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]


def flush_telemetry() -> None:
    """Sends what is still buffered: a process that ends must not take the last spans with it."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        shutdown = getattr(provider, "shutdown", None)
        if shutdown is not None:
            shutdown()


def context_of(traceparent: str) -> Context:
    """The remote context that a row carries."""
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def traceparent_of(span: Span) -> str | None:
    """What a row carries for whoever goes on from this span; None in a process without telemetry."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent")


NO_SPAN = nullcontext(trace.INVALID_SPAN)


def is_exporting() -> bool:
    """Whether anybody receives spans."""
    return _exporting


def message_span(
    operation: str, destination: str, kind: SpanKind, *, parent: str | None = None, **attributes: Any
) -> AbstractContextManager[Span]:
    """``{operation} {destination}`` with the messaging attributes. An error marks it, by type alone.

    ``parent`` is a row's traceparent; without it the current span is the parent. Where nothing is exported, it does
    nothing.
    """
    if not _exporting:
        return NO_SPAN
    return _span(
        f"{operation} {destination}",
        kind,
        None if parent is None else context_of(parent),
        {
            "messaging.system": MESSAGING_SYSTEM,
            "messaging.destination.name": destination,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            **{
                key: value if isinstance(value, int | float) else str(value)
                for key, value in attributes.items()
                if value is not None
            },
        },
    )


def model_span(provider: str, model: str) -> AbstractContextManager[Span]:
    """``chat {model}``, around one call. Its messages are a patient's, and are in no span."""
    if not _exporting:
        return NO_SPAN
    return _span(
        f"chat {model}",
        SpanKind.CLIENT,
        None,
        {"gen_ai.operation.name": "chat", "gen_ai.provider.name": provider, "gen_ai.request.model": model},
    )


@contextmanager
def _span(name: str, kind: SpanKind, context: Context | None, attributes: Mapping[str, Any]) -> Iterator[Span]:
    with tracer.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        # An exception's message may quote a record.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            mark_failed(span, getattr(error, "code", type(error).__name__))
            raise


def mark_failed(span: Span, error_type: str) -> None:
    span.set_status(trace.StatusCode.ERROR)
    span.set_attribute("error.type", error_type)
