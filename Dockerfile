# The daemon's image.
#
#   docker build --build-arg EXTRAS=cloudwatch --tag aiokpl-metricsd:0.1.0 .
#
# BASE_IMAGE is any image with Python 3.11 or later and pip, for both stages; pin it by its digest, as
# python:3.11-slim@sha256:..., where a build is to be repeated. docs/image.md has the rest.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements ./requirements
COPY deploy/image/build.py deploy/image/prune.py ./deploy/image/
# Of cloudwatch, otel, datadog and prometheus; `all`, or none.
ARG EXTRAS=all
# An index or a certificate of your own comes in by a secret, of which nothing stays.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip.crt,target=/run/secrets/pip.crt \
    python3 -m deploy.image.build dependencies
COPY protocol ./protocol
COPY daemon ./daemon
RUN python3 -m deploy.image.build daemon
COPY deploy/image/finish.py /opt/aiokpl-metricsd/finish.py

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG EXTRAS=all
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="aiokpl-metricsd" \
      org.opencontainers.image.description="A sidecar that aggregates metrics and exports each window once." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      aiokpl-metricsd.extras="${EXTRAS}"
COPY --from=build /opt/aiokpl-metricsd /opt/aiokpl-metricsd
# From here on no shell is needed, neither to build nor to run. The script removes itself.
RUN ["/opt/aiokpl-metricsd/bin/python3", "/opt/aiokpl-metricsd/finish.py"]
# The directory where a process starts is no place to import from.
ENV PATH=/opt/aiokpl-metricsd/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONSAFEPATH=1
WORKDIR /
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=30s --interval=30s --timeout=5s \
    CMD ["python3", "-I", "-m", "aiokpl_metricsd.healthcheck"]
# The interpreter is process 1: it takes SIGTERM from its first statement on, and starts no other process.
ENTRYPOINT ["python3", "-m", "aiokpl_metricsd"]
