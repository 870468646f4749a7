"""A database with one of each thing that is easily lost, and the questions that show whether it was."""

# One of each thing whose name, type or text has broken some backup tool, or an earlier version of this one.
SCHEMA = """
CREATE ROLE scratch_reader NOLOGIN;
CREATE SCHEMA "Odd Place";
CREATE TYPE "Odd Place"."Mood" AS ENUM ('good', 'so so', 'it''s bad');
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE "Odd Place"."Da ""Table" (
    "Id" int PRIMARY KEY, recoup_row_ text, "select" "Odd Place"."Mood" DEFAULT 'so so', moods "Odd Place"."Mood"[],
    status varchar(10) DEFAULT 'new' CHECK (status IN ('new', 'old')), share percent, "10%" float8,
    twice int GENERATED ALWAYS AS ("Id" * 2) STORED, thrice int GENERATED ALWAYS AS ("Id" * 3));
INSERT INTO "Odd Place"."Da ""Table" ("Id", recoup_row_, moods, share, "10%")
    SELECT n, 'same', ARRAY['good', 'so so']::"Odd Place"."Mood"[], n % 100, n / 3.0 FROM generate_series(1, 500) n;
CREATE INDEX ON "Odd Place"."Da ""Table" (status) WHERE status IN ('new', 'old');
CREATE VIEW "Odd Place".view AS SELECT * FROM "Odd Place"."Da ""Table" WHERE status IN ('new', 'old') AND "Id" > -1;
CREATE MATERIALIZED VIEW "Odd Place".counted AS SELECT count(*) AS n FROM "Odd Place"."Da ""Table";
CREATE TABLE "Odd Place".empty (k int);
CREATE TABLE "Odd Place".without_columns ();
CREATE TABLE parts (k int NOT NULL, v text) PARTITION BY RANGE (k);
CREATE TABLE "parts Low" PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_other PARTITION OF parts DEFAULT;
CREATE INDEX ON parts (k);
INSERT INTO parts SELECT n, repeat('x', n) FROM generate_series(1, 200) n;
CREATE TABLE loose (k int);
INSERT INTO loose VALUES (-1), (NULL), (2);
ALTER TABLE loose ADD CONSTRAINT positive CHECK (k > 0) NOT VALID;
CREATE TABLE documents (id bigserial PRIMARY KEY, body jsonb NOT NULL, noted timestamptz NOT NULL DEFAULT now());
INSERT INTO documents (body) SELECT jsonb_build_object('n', n, 'text', E'tab\\t"quote" \\\\ ünï',
        'deep', jsonb_build_array(n / 3.0, null))
    FROM generate_series(1, 300) n;
CREATE TABLE log (at timestamptz DEFAULT now(), what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.log (what) VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER noted AFTER INSERT ON documents FOR EACH ROW EXECUTE FUNCTION note();
CREATE SEQUENCE lonely START 41; SELECT nextval('lonely');
CREATE SEQUENCE unused START 7;
GRANT USAGE ON SCHEMA "Odd Place" TO scratch_reader;
GRANT SELECT ON documents TO scratch_reader; GRANT UPDATE (body) ON documents TO scratch_reader;
GRANT USAGE ON SEQUENCE lonely TO scratch_reader; REVOKE EXECUTE ON FUNCTION note() FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO scratch_reader;
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON documents FOR SELECT TO scratch_reader USING (id % 2 = 0);
COMMENT ON TABLE documents IS 'kept';
CREATE STATISTICS told ON k, v FROM "parts Low";
"""
DATABASE = """
ALTER DATABASE {0} SET search_path TO "$user", public, "Odd, ""Place";
ALTER DATABASE {0} SET default_transaction_read_only TO on;
ALTER DATABASE {0} SET idle_in_transaction_session_timeout TO 20;
ALTER ROLE scratch_reader IN DATABASE {0} SET statement_timeout TO '3s';
REVOKE CONNECT, TEMPORARY ON DATABASE {0} FROM PUBLIC;
GRANT CONNECT ON DATABASE {0} TO scratch_reader;
"""
_USER = "nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
# Asked of the source and of the copy: both must say the same, in whatever order.
SAME = {
    "tables": (
        "SELECT nspname, relname, relkind, relrowsecurity, pg_get_userbyid(relowner) FROM pg_class c JOIN "
        f"pg_namespace n ON n.oid = relnamespace WHERE {_USER}"
    ),
    "columns": (
        "SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated FROM "
        "pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE "
        f"attnum > 0 AND relkind = 'r' AND {_USER}"
    ),
    "enum": 'SELECT unnest(enum_range(NULL::"Odd Place"."Mood"))',
    "sequences": "SELECT schemaname, sequencename, start_value, last_value FROM pg_sequences",
    "constraints": (
        "SELECT conrelid::regclass, conname, contype, convalidated FROM pg_constraint WHERE conrelid <> 0 AND "
        "conname !~ '^pg_'"
    ),
    "grants on tables": (
        "SELECT relname, relacl::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE "
        f"{_USER} AND relacl IS NOT NULL"
    ),
    "grants on columns": (
        "SELECT attrelid::regclass, attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL AND "
        "attrelid > 16000"
    ),
    "grants on schemas": f"SELECT nspname, nspacl::text FROM pg_namespace WHERE {_USER} AND nspname !~ '^pg_'",
    "grants on functions": "SELECT proname, proacl::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "grants to come": "SELECT defaclobjtype, defaclacl::text FROM pg_default_acl",
    "grants on the database": "SELECT datacl::text FROM pg_database WHERE datname = current_database()",
    "settings": (
        "SELECT setrole::regrole, s FROM pg_db_role_setting, unnest(setconfig) s JOIN pg_database ON datname "
        "= current_database() WHERE setdatabase = pg_database.oid"
    ),
    "policies": "SELECT polname, pg_get_expr(polqual, polrelid) FROM pg_policy",
    "comment": "SELECT obj_description('documents'::regclass)",
    "statistics": "SELECT stxname FROM pg_statistic_ext",
    "partitions": "SELECT tableoid::regclass, count(*), sum(length(v)) FROM parts GROUP BY 1",
    "view": 'SELECT count(*), sum(twice), sum(thrice) FROM "Odd Place".view',
    "materialized view": 'SELECT n FROM "Odd Place".counted',
}
