"""Tests of the policy block together with OpenTelemetry's standard variables."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.telemetry.settings import Sampler, Settings, Target, resolve_settings
from sidecar.telemetry.spec import TelemetrySpec, wiring

COLLECTOR = "http://collector:4318"


def settled(environ: dict[str, str] | None = None, **block: Any) -> Settings:
    return resolve_settings(TelemetrySpec(**block) if block else None, "orders", environ or {})


def traces(environ: dict[str, str], **block: Any) -> Target:
    target = settled(environ, **block).traces
    assert target is not None
    return target


def test_nothing_is_exported_unless_somebody_says_where_to() -> None:
    settings = settled()
    assert (settings.traces, settings.metrics, settings.warnings) == (None, None, ())
    assert settled({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}).traces is None, "an empty variable is an unset one"


@pytest.mark.parametrize(
    ("environ", "block", "kind", "endpoint"),
    [
        ({}, {"endpoint": COLLECTOR}, "http", COLLECTOR + "/v1/traces"),
        ({}, {"endpoint": COLLECTOR + "/"}, "http", COLLECTOR + "/v1/traces"),
        ({}, {"endpoint": "http://collector:4317"}, "grpc", "http://collector:4317"),
        ({}, {"endpoint": "http://collector:4317", "protocol": "http"}, "http", "http://collector:4317/v1/traces"),
        ({}, {"endpoint": COLLECTOR, "protocol": "grpc"}, "grpc", COLLECTOR),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:1"}, {"endpoint": COLLECTOR}, "http", "http://other:1/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"endpoint": COLLECTOR}, "grpc", COLLECTOR),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            {"endpoint": COLLECTOR}, "http", COLLECTOR + "/v1/traces",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/own", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:1"},
            {}, "http", "http://t/own",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {}, "http", "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}, "grpc", "http://localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, {"endpoint": COLLECTOR}, "json", COLLECTOR + "/v1/traces"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            {}, "json", "http://localhost:4318/v1/traces",
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, {"endpoint": COLLECTOR}, "console", ""),
    ],
)  # fmt: skip
def test_where_traces_go(environ: dict[str, str], block: dict[str, Any], kind: str, endpoint: str) -> None:
    target = traces(environ, **block)
    assert (target.kind, target.endpoint) == (kind, endpoint)


@pytest.mark.parametrize(
    ("endpoint", "insecure", "is_plain"),
    [
        ("http://c:4317", "", True),
        ("https://c:4317", "true", False),
        ("c:4317", "true", True),
        ("c:4317", "", False),
    ],
)
def test_grpc_speaks_tls_by_the_scheme_and_without_one_by_the_variable(
    endpoint: str, insecure: str, is_plain: bool
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_INSECURE": insecure}
    assert traces(environ).is_plain is is_plain


def test_signals_can_be_told_apart_and_turned_off() -> None:
    settings = settled({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/own"})
    assert settings.traces is None
    assert settings.metrics is not None
    assert settings.metrics.endpoint == "http://m/own"
    assert settled({"OTEL_TRACES_EXPORTER": "none"}, endpoint=COLLECTOR).traces is None
    assert settled({"OTEL_METRICS_EXPORTER": "prometheus"}, endpoint=COLLECTOR).metrics is None
    assert settled(endpoint=COLLECTOR, metrics=None).metrics is None
    disabled = settled({"OTEL_SDK_DISABLED": "TRUE"}, endpoint=COLLECTOR)
    assert (disabled.traces, disabled.metrics) == (None, None)
    assert settled({"OTEL_SDK_DISABLED": "1"}, endpoint=COLLECTOR).traces is not None


def test_how_it_is_sent() -> None:
    target = traces({}, endpoint=COLLECTOR, headers={"X-Key": "k"}, compression="gzip", timeout="2s", tls={"ca": "/ca"})
    assert (dict(target.headers), target.compression, target.timeout) == ({"x-key": "k"}, "gzip", 2.0)
    assert target.tls.ca == "/ca"
    assert "k'" not in repr(target)
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=other,b=%20c,bad",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/general",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": "/own",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/key",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/cert",
        "OTEL_BSP_EXPORT_TIMEOUT": "1000",
    }
    settings = settled(environ, endpoint=COLLECTOR, headers={"x-key": "k", "a": "1"}, compression="gzip", timeout="2s")
    assert settings.traces is not None
    assert settings.metrics is not None
    assert dict(settings.traces.headers) == {"x-key": "other", "a": "1", "b": " c"}
    assert (settings.traces.timeout, settings.metrics.timeout) == (1.0, 1.5)
    assert settings.traces.compression == "none"
    assert (settings.traces.tls.ca, settings.metrics.tls.ca) == ("/own", "/general")
    assert (settings.traces.tls.cert, settings.traces.tls.key) == ("/cert", "/key")
    assert settings.warnings == ("OTEL_EXPORTER_OTLP_HEADERS has a member that is not key=value",)


@pytest.mark.parametrize(
    ("environ", "sampler"),
    [
        ({}, None),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampler(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampler(0.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, Sampler(0.25, False)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, Sampler(1.0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampler(0.0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}, Sampler(0.01)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, Sampler(1.0)),
    ],
)
def test_samplers(environ: dict[str, str], sampler: Sampler | None) -> None:
    assert settled(environ, endpoint=COLLECTOR).sampler == sampler


def test_batches_intervals_and_the_rest() -> None:
    settings = settled(
        {
            "OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10", "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OTEL_METRIC_EXPORT_INTERVAL": "5000", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "DELTA",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_off", "OTEL_LOG_LEVEL": "error",
            "OTEL_PROPAGATORS": "tracecontext,baggage,b3,tracecontext",
        },
        endpoint=COLLECTOR, metrics={"interval": "10s"}, propagation="b3multi",
    )  # fmt: skip
    assert (settings.queue, settings.batch, settings.delay, settings.interval) == (100, 10, 0.25, 5.0)
    assert (settings.temporality, settings.exemplars, settings.level) == ("delta", "always_off", "ERROR")
    assert settings.formats == ("w3c", "b3")
    assert settled(endpoint=COLLECTOR, metrics={"interval": "10s"}).interval == 10.0
    assert settled(endpoint=COLLECTOR, propagation=["b3multi", "w3c"]).formats == ("b3multi", "w3c")
    assert settled({"OTEL_PROPAGATORS": "none"}).formats == ()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "known are always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "not a number from 0 to 1"),
        ("OTEL_PROPAGATORS", "tracecontext,xray", "names 'xray'"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "known are otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/xml", "known are grpc, http/protobuf, http/json"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "whole number above 0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "more than the queue holds"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "whole number"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://x", "not a URL"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram", "known are"),
        ("OTEL_CONFIG_FILE", "/etc/otel.yaml", "is not read"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0", "/metrics on the admin listener"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "9464", "/metrics on the admin listener"),
        ("OTEL_LOGS_EXPORTER", "otlp", "logs go to standard output"),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup", "the stable one alone"),
    ],
)
def test_what_makes_no_sense_is_told_and_left_out(name: str, value: str, says: str) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, name: value}
    (warning,) = settled(environ).warnings
    assert warning.startswith(name)
    assert says in warning


def test_a_reload_may_change_sampling_and_the_access_log_alone() -> None:
    before = TelemetrySpec(endpoint=COLLECTOR)
    assert wiring(before) == wiring(TelemetrySpec(endpoint=COLLECTOR, sampling={"ratio": "1%"}, access_log={}))
    assert wiring(before) != wiring(TelemetrySpec(endpoint=COLLECTOR, compression="gzip"))
    assert wiring(None) == wiring(TelemetrySpec())
