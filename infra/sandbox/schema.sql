-- The sandbox platform's database: what the services use, and one of each thing a restore must bring back
-- (sequence, view, function with trigger, foreign keys, check constraint, unique index, jsonb, a role with grants).
-- Run once, as the owner, on an empty database, in a single transaction (psql --single-transaction).

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neo_readonly') THEN
        CREATE ROLE neo_readonly LOGIN;
    END IF;
END
$$;

CREATE SEQUENCE account_number_seq START 1000;

CREATE TABLE users (
    id bigserial PRIMARY KEY,
    username text NOT NULL,
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_username_key ON users (lower(username));

CREATE TABLE accounts (
    id bigint PRIMARY KEY DEFAULT nextval('account_number_seq'),
    user_id bigint NOT NULL REFERENCES users (id),
    address text NOT NULL UNIQUE,
    balance numeric(20, 8) NOT NULL DEFAULT 0 CONSTRAINT accounts_balance_not_negative CHECK (balance >= 0),
    attributes jsonb NOT NULL DEFAULT '{}'
);
ALTER SEQUENCE account_number_seq OWNED BY accounts.id;

CREATE TABLE records (
    id text PRIMARY KEY CONSTRAINT records_id_sane CHECK (length(id) BETWEEN 1 AND 200),
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX records_created_at ON records (created_at);

CREATE TABLE audit (
    id bigserial PRIMARY KEY,
    record_id text NOT NULL REFERENCES records (id),
    action text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION note_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (record_id, action) VALUES (NEW.id, lower(TG_OP));
    RETURN NEW;
END
$$;
CREATE TRIGGER records_noted AFTER INSERT OR UPDATE ON records FOR EACH ROW EXECUTE FUNCTION note_record();

CREATE VIEW account_overview AS
    SELECT u.username, count(a.id) AS accounts, coalesce(sum(a.balance), 0) AS balance
    FROM users u LEFT JOIN accounts a ON a.user_id = u.id
    GROUP BY u.username;

GRANT USAGE ON SCHEMA public TO neo_readonly;
GRANT SELECT ON users, accounts, records, audit, account_overview TO neo_readonly;

-- The user of smoke tests; its password is the services' own (SMOKE_PASSWORD), never in the database.
INSERT INTO users (username) VALUES ('smoke');
INSERT INTO users (username) SELECT 'user-' || n FROM generate_series(1, 999) n;
INSERT INTO accounts (user_id, address, balance, attributes)
    SELECT 1 + n % 1000, 'N' || md5('address-' || n), (n % 5000) / 8.0,
           jsonb_build_object('tier', n % 3, 'tags', jsonb_build_array('seed', n % 7))
    FROM generate_series(1, 7000) n;
INSERT INTO records (id, body)
    SELECT 'seed-' || n, jsonb_build_object('n', n, 'text', repeat(md5(n::text), 4))
    FROM generate_series(1, 6000) n;

ANALYZE;
