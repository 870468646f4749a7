# Redis from Debian packages, for where no registry answers; behaves like the official redis.
ARG BASE
FROM ${BASE}
RUN mkdir -p /data && chown redis:redis /data
COPY --chmod=755 redis-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /data
WORKDIR /data
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["redis-server"]
