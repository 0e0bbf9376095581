# The engine's image. What it does is in packaging/install and packaging/bin, which need no Docker.
#
#   docker build -t tradeengine .                    docker build --target pgbouncer -t tradeengine-pgbouncer .
#
# Machine code is made here, for PROCESSOR: x86-64-v3 is any server since 2013; on ARM say generic. The file system may be
# read-only but for /var/lib/tradeengine and /tmp. Rings and tables are memfds: they count as the container's memory, and
# have nothing to do with --shm-size, which only the embedded PostgreSQL uses.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${PYTHON_IMAGE} AS build
ARG PROCESSOR=x86-64-v3
WORKDIR /source
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY packaging packaging
COPY config config
COPY migrations migrations
COPY src src
RUN PYTHON=python3.11 NUMBA_CPU_NAME=${PROCESSOR} packaging/install /opt/tradeengine

FROM ${DEBIAN_IMAGE} AS pgbouncer
RUN apt-get update \
    && apt-get install -y --no-install-recommends pgbouncer \
    && rm -rf /var/lib/apt/lists/*
COPY --chmod=755 packaging/compose/pgbouncer /usr/local/bin/start-pgbouncer
USER postgres
EXPOSE 6432
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["start-pgbouncer", "check"]
ENTRYPOINT ["start-pgbouncer"]

FROM ${PYTHON_IMAGE} AS engine
LABEL org.opencontainers.image.title="tradeengine" \
      org.opencontainers.image.licenses="Apache-2.0"
# tini is process 1: it hands signals on to the supervisor, and reaps whoever an actor leaves behind.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 tradeengine \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tradeengine --shell /usr/sbin/nologin tradeengine \
    && install -d -o tradeengine -g tradeengine -m 0700 /var/lib/tradeengine /backups
COPY --from=build /opt/tradeengine /opt/tradeengine
ENV PATH=/opt/tradeengine/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRADEENGINE_ENGINE_DATA_DIR=/var/lib/tradeengine \
    TRADEENGINE_HTTP_HOST=0.0.0.0 \
    TRADEENGINE_DEMO_ENABLED=false \
    TRADEENGINE_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/tradeengine
VOLUME /var/lib/tradeengine
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["tradeengine-healthcheck"]
ENTRYPOINT ["tini", "--", "tradeengine"]
CMD ["up"]
