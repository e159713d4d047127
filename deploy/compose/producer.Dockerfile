# The demo producer with the client, on any image with Python 3.10 or later and pip.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements/run.txt ./requirements/run.txt
COPY protocol ./protocol
COPY client ./client
# run.txt pins and hashes what the client needs, and more; the client itself brings msgspec alone.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip.crt,target=/run/secrets/pip.crt \
    python3 -m venv --without-pip /opt/producer \
    && pip="python3 -m pip --python /opt/producer/bin/python3 --no-cache-dir --disable-pip-version-check" \
    && $pip install --require-hashes --requirement requirements/run.txt \
    && $pip install --no-deps --no-index --no-build-isolation ./protocol ./client

FROM ${BASE_IMAGE}
COPY --from=build /opt/producer /opt/producer
COPY deploy/demo/producer.py /app/producer.py
USER 65533:65533
ENTRYPOINT ["/opt/producer/bin/python3", "-u", "/app/producer.py"]
