"""HTTP sessions for OpenTelemetry's exporters, for three things that the exporters do not do.

- The certificates that a policy or an `OTEL_*` variable names are trusted.  Left alone, `requests` prefers those of
  `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, which many base images set.
- The error of a failed request is logged, so that it becomes the cause in the event; the exporters drop it.
- `http/json`: the exporters write protobuf alone, so the message is rewritten as JSON on its way out, in the exporter's
  thread.  `http/protobuf` is much cheaper.

Retries and timeouts are the exporters' own.
"""

from __future__ import annotations

import gzip
import logging
import re
from base64 import b64decode
from typing import Any, Final

import requests
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Request = ExportTraceServiceRequest | ExportMetricsServiceRequest

LOG: Final = logging.getLogger("opentelemetry.sidecar")

_id: Final = re.compile(r'"(traceId|spanId|parentSpanId)": "([A-Za-z0-9+/=]*)"')
"""Matches ids of a message.  It cannot match inside a JSON text, where a quotation mark has a backslash."""


class Session(requests.Session):
    """Session that trusts the configured certificates and logs why a request failed."""

    def request(self, method: str, url: str, **options: Any) -> Any:  # type: ignore[override]  # as it is called
        try:
            return super().request(method, url, verify=self.verify, **options)
        except Exception as error:
            LOG.warning("%s", error)
            raise


class JsonSession(Session):
    """Session that sends protobuf messages as JSON, compressed with gzip if `gzipped`."""

    def __init__(self, message: type[Request], *, gzipped: bool) -> None:
        super().__init__()
        self._message = message
        self._gzipped = gzipped

    def request(  # type: ignore[override]  # as it is called
        self, method: str, url: str, *, data: bytes, headers: dict[str, str], **options: Any
    ) -> Any:
        text = as_json(self._message.FromString(data)).encode()
        headers = {**headers, "content-type": "application/json"}
        if self._gzipped:
            headers["content-encoding"] = "gzip"
            text = gzip.compress(text)
        return super().request(method, url, data=text, headers=headers, **options)


def as_json(message: Request) -> str:
    """Return a message by OTLP's JSON mapping: that of protobuf, but with ids in hex and enumerations as numbers."""
    text: str = json_format.MessageToJson(message, indent=None, use_integers_for_enums=True)
    return _id.sub(lambda found: f'"{found[1]}": "{b64decode(found[2]).hex()}"', text)
