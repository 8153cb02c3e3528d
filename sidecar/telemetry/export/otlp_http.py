"""HTTP sessions for OpenTelemetry's exporters, with four abilities that the exporters lack.

- They trust the certificates that a policy or an `OTEL_*` variable names.  `requests` alone would prefer those of
  `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, which many base images set.
- They log the error of a failed request, which becomes the cause in the event.  The exporters drop it.
- They can send JSON (`http/json`).  The exporters only write protobuf, so the message is converted in the exporter's
  thread, which is much slower than `http/protobuf`.
- They look up the collector's name as the names of upstreams; `requests` would wait for the system without bound.  The
  connection goes to the found address, while `Host` and TLS use the name.  A configured proxy does its own look-up.

Retries and timeouts are those of the exporters.
"""

from __future__ import annotations

import gzip
import logging
import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

Request = ExportTraceServiceRequest | ExportMetricsServiceRequest

LOG: Final = logging.getLogger("opentelemetry.sidecar")

_id: Final = re.compile(r'"(traceId|spanId|parentSpanId)": "([A-Za-z0-9+/=]*)"')
"""Pattern of ids in a message; inside a JSON string it cannot match, because quotation marks are escaped there."""


LookUp = Callable[[str], Sequence[str]]
"""Function that returns the addresses of a name, for any thread except the loop's; raises `OSError`."""


class NamesAdapter(HTTPAdapter):
    """Adapter that connects to an address of the URL's host, and to the next address after a failure."""

    def __init__(self, look_up: LookUp) -> None:
        super().__init__()
        self._look_up = look_up
        self._turn = 0
        self._direct = HTTPAdapter()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        if select_proxy(request.url or "", options.get("proxies")):
            return self._direct.send(request, *args, **options)
        try:
            return super().send(request, *args, **options)
        except requests.ConnectionError:
            self._turn += 1
            raise

    def add_headers(self, request: requests.PreparedRequest, **_: Any) -> None:
        request.headers.setdefault("Host", urlsplit(request.url or "").netloc.rpartition("@")[2])

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        name = host["host"]
        try:
            addresses = self._look_up(name)
        except OSError as error:
            raise requests.ConnectionError(error, request=request) from error
        if host["scheme"] == "https":
            tls = {**tls, "server_hostname": name, "assert_hostname": name}
        return {**host, "host": addresses[self._turn % len(addresses)]}, tls

    def close(self) -> None:
        super().close()
        self._direct.close()


class Session(requests.Session):
    """Session that trusts the configured certificates, and logs the error of a failed request."""

    def __init__(self, look_up: LookUp | None = None) -> None:
        """`look_up` looks up the collector's name; by default the system does."""
        super().__init__()
        if look_up is not None:
            self.mount("http://", NamesAdapter(look_up))
            self.mount("https://", NamesAdapter(look_up))

    def request(self, method: str, url: str, **options: Any) -> Any:  # type: ignore[override]  # as it is called
        try:
            return super().request(method, url, verify=self.verify, **options)
        except Exception as error:
            LOG.warning("%s", error)
            raise


class JsonSession(Session):
    """Session that sends protobuf messages as JSON, compressed with gzip if `gzipped`."""

    def __init__(self, message: type[Request], look_up: LookUp | None = None, *, gzipped: bool) -> None:
        super().__init__(look_up)
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
    """Return a message in the JSON mapping of OTLP: that of protobuf, with ids in hex and enumerations as numbers."""
    text: str = json_format.MessageToJson(message, indent=None, use_integers_for_enums=True)
    return _id.sub(lambda found: f'"{found[1]}": "{b64decode(found[2]).hex()}"', text)
