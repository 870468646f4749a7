# The other tools on top of the sandbox's PostgreSQL image, for a container that is thrown away. debian.list names a
# mirror only where the image itself knows none, and does not stay in the image.
ARG BASE
FROM ${BASE}
RUN --mount=type=bind,source=debian.list,target=/etc/apt/sources.list.d/recoup-benchmark.list \
    apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends pgbackrest barman rsync lz4 zstd \
    && rm -rf /var/lib/apt/lists/*
