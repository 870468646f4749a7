# Prometheus, and promtool, from Debian packages. Its configuration is mounted; what it has seen goes with the container.
ARG BASE
FROM ${BASE}
RUN command -v prometheus >/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/*; }
RUN mkdir -p /data && chown nobody /data
USER nobody
EXPOSE 9090
ENTRYPOINT ["prometheus", "--storage.tsdb.path=/data", "--storage.tsdb.retention.time=2h", "--log.level=warn"]
CMD ["--config.file=/etc/recoup-monitoring/prometheus.yaml"]
