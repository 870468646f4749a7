"""What the environment says to each role; read once at the start."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

# A dead dependency must show as a quick 503, never as a hang.
PATIENCE = 2.0


@dataclass(frozen=True)
class Settings:
    """One role's surroundings. Secrets are kept out of ``repr``; a pair of databases has two hosts and two ports."""

    host: str
    port: int
    db_host: str
    db_port: str
    db_name: str
    db_user: str
    db_password: str = field(repr=False)
    redis_host: str
    redis_port: int
    redis_password: str = field(repr=False)
    records_url: str
    accounts_url: str
    neo_n3_rpc_url: str
    neo_x_rpc_url: str
    jwt_secret: str = field(repr=False)
    smoke_user: str
    smoke_password: str = field(repr=False)
    tls_port: int
    tls_pem: str = field(repr=False)
    # What makes a node ill, for drills: of another network; so many blocks behind and standing still; with another
    # history from so many blocks below the head on.
    node_network: int | None
    node_lag: int
    node_fork: int

    @classmethod
    def from_environment(cls) -> Settings:
        env = os.environ
        return cls(
            host=env.get("HOST", "0.0.0.0"),
            port=int(env.get("PORT", "8080")),
            db_host=env.get("DB_HOST", "postgres"),
            db_port=env.get("DB_PORT", "5432"),
            db_name=env.get("DB_NAME", "neo_service_layer"),
            db_user=env.get("DB_USER", "neo"),
            db_password=env.get("DB_PASSWORD", ""),
            redis_host=env.get("REDIS_HOST", "redis"),
            redis_port=int(env.get("REDIS_PORT", "6379")),
            redis_password=env.get("REDIS_PASSWORD", ""),
            records_url=env.get("RECORDS_URL", "http://records-service:8080"),
            accounts_url=env.get("ACCOUNTS_URL", "http://accounts-service:8080"),
            neo_n3_rpc_url=env.get("NEO_N3_RPC_URL", "http://neo-n3-rpc:8080"),
            neo_x_rpc_url=env.get("NEO_X_RPC_URL", "http://neo-x-rpc:8080"),
            jwt_secret=env.get("JWT_SECRET", ""),
            smoke_user=env.get("SMOKE_USER", "smoke"),
            smoke_password=env.get("SMOKE_PASSWORD", ""),
            tls_port=int(env.get("TLS_PORT", "8443")),
            tls_pem=env.get("TLS_PEM", ""),
            node_network=int(env.get("NODE_NETWORK") or 0) or None,
            node_lag=int(env.get("NODE_LAG") or 0),
            node_fork=int(env.get("NODE_FORK") or 0),
        )
