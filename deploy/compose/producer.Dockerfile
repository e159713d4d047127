# The demo producer with the client, on any image with Python 3.10 or later.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

COPY requirements/run.txt /src/requirements/run.txt
COPY protocol /src/protocol
COPY client /src/client
COPY LICENSE /src/LICENSE
# run.txt pins and hashes what the client needs, and more; the client itself brings msgspec alone.
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /src/requirements/run.txt \
    && python3 -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation \
        /src/protocol /src/client \
    && rm -rf /src
COPY deploy/demo/producer.py /app/producer.py

USER 65533:65533
ENTRYPOINT ["python3", "-u", "/app/producer.py"]
