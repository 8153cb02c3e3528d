# The image of the sidecar; the services of the shop (`sidecar.demo.shop`) are in it too.  Reproducible: every package comes at the
# version and with the hash that requirements/ says.  The request path is compiled (`make compiled`); the compiler stays
# in the build stage.
#
#   docker build -t resilience-sidecar .
#   docker run --rm -v ./policies/demo.yaml:/etc/sidecar/policies.yaml:ro resilience-sidecar check /etc/sidecar

# For an image that is the same next year, give the digest of the base too, and the versions of the compiler and of nftables that it has:
#
#   docker build --build-arg DIGEST=@sha256:... --build-arg GCC=4:12.2.0-3 --build-arg LIBC=2.36-9+deb12u14 \
#     --build-arg NFTABLES=1.0.6-2+deb12u2 .
#
# What is in it: /opt/sidecar/sbom.cdx.json (CycloneDX).

ARG PYTHON=3.13-slim-bookworm
ARG DIGEST=

FROM python:${PYTHON}${DIGEST} AS build
ARG GCC=4:12.2.*
ARG LIBC=2.36-*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN apt-get update && apt-get install --yes --no-install-recommends "gcc=$GCC" "libc6-dev=$LIBC"
RUN python -m venv --without-pip /opt/sidecar
COPY requirements/runtime.txt requirements/compiled.txt requirements/
RUN pip --python /opt/sidecar/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/runtime.txt \
 && pip install --require-hashes --no-deps --only-binary :all: -r requirements/compiled.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY sidecar/ sidecar/
COPY chaos/ chaos/
COPY policies/ policies/
COPY deploy/sbom.py deploy/
RUN HATCH_BUILD_HOOKS_ENABLE=1 pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && pip --python /opt/sidecar/bin/python install --no-deps --no-index /wheels/*.whl \
 && /opt/sidecar/bin/python -m compileall -q /opt/sidecar/lib \
 && /opt/sidecar/bin/python deploy/sbom.py /opt/sidecar > /opt/sidecar/sbom.cdx.json

FROM python:${PYTHON}${DIGEST}
ARG NFTABLES=1.0.6-*
RUN apt-get update && apt-get install --yes --no-install-recommends "nftables=$NFTABLES" && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title="resilience-sidecar" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/sidecar/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/sidecar /opt/sidecar
USER 65532:65532
EXPOSE 8080 9901 15001
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9901/readyz', timeout=2)"]
ENTRYPOINT ["sidecar"]
CMD ["run", "/etc/sidecar"]
