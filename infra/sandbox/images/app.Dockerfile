# The gateway, the microservices and the RPC stand-ins: one image, the role being the argument.
ARG BASE
FROM ${BASE}
ARG PACKAGES
RUN python3 -c 'import httpx, jwt, psycopg_pool, redis, starlette, uvicorn' 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends ${PACKAGES} && rm -rf /var/lib/apt/lists/*; }
WORKDIR /srv
COPY app app
RUN python3 -m compileall -q app && python3 -m app 2>&1 | grep -q usage
ENV PYTHONUNBUFFERED=1 PORT=8080
USER nobody
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "app"]
