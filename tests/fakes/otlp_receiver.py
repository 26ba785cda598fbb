"""A real OTLP receiver, protobuf over HTTP: ``python otlp_receiver.py PORT FILE`` appends a JSON line a span.

What it gets of metrics is in FILE.metrics, as text.
"""

import json
import sys
from pathlib import Path

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PROTOBUF = "application/x-protobuf"
STATUS_ERROR = 2


def spans_of(body: bytes) -> list[dict[str, object]]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        {
            "service": next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name"),
            "name": span.name,
            "kind": span.kind,
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_id": span.parent_span_id.hex(),
            "failed": span.status.code == STATUS_ERROR,
            "attributes": {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}
            | {a.key: str(a.value) for a in span.attributes if a.value.HasField("array_value")},
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "text": str(span),
        }
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def main(port: int, target: Path) -> None:
    async def traces(request: web.Request) -> web.Response:
        with target.open("a") as file:
            for span in spans_of(await request.read()):
                file.write(json.dumps(span) + "\n")
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type=PROTOBUF)

    async def metrics(request: web.Request) -> web.Response:
        with Path(f"{target}.metrics").open("a") as file:
            file.write(str(ExportMetricsServiceRequest.FromString(await request.read())))
        return web.Response(body=ExportMetricsServiceResponse().SerializeToString(), content_type=PROTOBUF)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", traces)
    app.router.add_post("/v1/metrics", metrics)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
