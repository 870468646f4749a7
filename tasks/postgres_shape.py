"""What a database has that no dump of it holds: owner, encoding, locale, settings and grants; read, and made again."""

from __future__ import annotations

import csv

from psycopg import sql

from recoup.manifest import DatabaseGrant, DatabaseShape, RoleSetting
from tasks.postgres import Connection, quoted

# Settings that PostgreSQL marks GUC_LIST_QUOTE (guc_tables.c).
_LISTS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)


def read_shape(connection: Connection) -> DatabaseShape:
    """Give the shape of the database that is connected to."""
    row = connection.execute(
        "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype "
        "FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    settings = connection.execute(
        "SELECT coalesce(r.rolname, ''), unnest(setconfig) FROM pg_db_role_setting s "
        "JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole "
        "WHERE d.datname = current_database() ORDER BY 1, 2"
    ).fetchall()
    grants = connection.execute(
        "SELECT x.privilege_type, coalesce(r.rolname, ''), x.is_grantable FROM pg_database d, aclexplode(d.datacl) x "
        "LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE d.datname = current_database() ORDER BY 2, 1"
    ).fetchall()
    roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1").fetchall()
    owner, encoding, collate, ctype = (str(value) for value in row)
    return DatabaseShape(
        owner=owner,
        encoding=encoding,
        collate=collate,
        ctype=ctype,
        settings=tuple(str(setting) for role, setting in settings if not role),
        role_settings=tuple(RoleSetting(role=str(role), setting=str(setting)) for role, setting in settings if role),
        # An empty list stands for PostgreSQL's own defaults; a database that denies everybody keeps its owner's.
        grants=tuple(DatabaseGrant(privilege=str(p), grantee=str(g), grantable=bool(o)) for p, g, o in grants),
        roles=tuple(str(r[0]) for r in roles),
    )


def make_database(connection: Connection, name: str, shape: DatabaseShape | None) -> None:
    """Make an empty database of a shape, or of the server's own defaults, in place of one of the same name."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(quoted(name)))
    if shape is None:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(quoted(name)))
        return
    connection.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            quoted(name),
            quoted(shape.owner),
            sql.Literal(shape.encoding),
            sql.Literal(shape.collate),
            sql.Literal(shape.ctype),
        )
    )
    database = sql.SQL("ALTER DATABASE {}").format(quoted(name))
    for setting in shape.settings:
        connection.execute(sql.SQL("{} SET {}").format(database, _assignment(setting)))
    for one in shape.role_settings:
        role = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(quoted(one.role), quoted(name))
        connection.execute(sql.SQL("{} SET {}").format(role, _assignment(one.setting)))
    if shape.grants:
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(quoted(name)))
    for grant in shape.grants:
        connection.execute(_grant(name, grant))


def _assignment(setting: str) -> sql.Composed:
    name, _, value = setting.partition("=")
    if name not in _LISTS:
        return sql.SQL("{} TO {}").format(quoted(name), sql.Literal(value))
    # Kept by the server as a list of quoted names; given back as one text, it would be one strange name.
    names = next(csv.reader([value], skipinitialspace=True), [""])
    return sql.SQL("{} TO {}").format(quoted(name), sql.SQL(", ").join(map(sql.Literal, names)))


def _grant(name: str, grant: DatabaseGrant) -> sql.Composed:
    return sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
        sql.SQL(grant.privilege),
        quoted(name),
        quoted(grant.grantee) if grant.grantee else sql.SQL("PUBLIC"),
        sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
    )
