"""The data that is backed up: accounts as pgbench makes them and JSON documents, the same in every run."""

from __future__ import annotations

from datetime import timedelta

from tasks.postgres import Server

LOADING = timedelta(hours=1)
# Measured: 150 bytes for an account with its index, 1,330 for a document with its two.
ACCOUNTS_PER_GB = 3_700_000
DOCUMENTS_PER_GB = 330_000

_TABLES = """
CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84));
CREATE TABLE documents (
    id bigint NOT NULL,
    owner text NOT NULL,
    created_at timestamptz NOT NULL,
    body jsonb NOT NULL
);
"""

# As `pgbench -i` does it, but with balances that differ.
_ACCOUNTS = """
INSERT INTO pgbench_accounts
SELECT n, (n - 1) / 100000 + 1, n::bigint * 7919 % 100000 - 50000, '' FROM generate_series(1, {count}::bigint) n
"""

_DOCUMENTS = """
INSERT INTO documents
SELECT n, 'user-' || n * 31 % 50000, timestamptz '2026-01-01 00:00:00Z' + n * interval '7 seconds',
    jsonb_build_object(
        'id', n,
        'address', 'N' || md5('address-' || n),
        'hash', md5('hash-' || n) || md5('more-' || n),
        'amount', n * 7919 % 1000000 / 100.0,
        'active', n % 3 = 0,
        'tags', jsonb_build_array('kind-' || n % 17, 'region-' || n % 5, md5((n % 1000)::text)),
        'history', (
            SELECT jsonb_agg(jsonb_build_object(
                'at', n + step * 60, 'by', 'user-' || (n + step) * 17 % 50000,
                'note', 'changed by the service on behalf of its owner', 'ref', md5(n || '/' || step)))
            FROM generate_series(1, 5) step))
FROM generate_series(1, {count}::bigint) n
"""

_INDEXES = """
ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX documents_owner ON documents (owner);
"""


def accounts(size_gb: float) -> int:
    """Give how many accounts such a database has, numbered from 1."""
    return int(ACCOUNTS_PER_GB * size_gb)


def load(server: Server, size_gb: float) -> int:
    """Fill the server's database with about so many gigabytes, and give the bytes that it has then."""
    with server.connect(statement=LOADING) as connection:
        connection.execute("SET search_path = public")
        connection.execute("SET maintenance_work_mem = '512MB'")
        for text in (
            _TABLES,
            _ACCOUNTS.format(count=accounts(size_gb)),
            _DOCUMENTS.format(count=int(DOCUMENTS_PER_GB * size_gb)),
            _INDEXES,
        ):
            connection.execute(text.encode())
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(str(row[0]))
