-- The account that makes accounts, for PostgreSQL 15. Run as superuser, once a server:
--   psql -v ON_ERROR_STOP=1 -v password="$(cat file)" -f admin-role.sql postgres
-- The password is then in this session's statement: prefer `\password jit_admin`, or a certificate, where the log keeps statements.

-- Not a superuser. CREATEROLE: makes, locks and drops accounts, and makes them members of the roles that targets.toml hands out.
-- Up to PostgreSQL 15 CREATEROLE reaches every role that is no superuser, also pg_execute_server_program and pg_write_server_files:
-- keep its secret as you keep a superuser's. From 16 it reaches only roles that it made or was given ADMIN OPTION for.
-- INHERIT, so that pg_signal_backend below is in force. LIMIT: the broker opens 8 sessions at most; room for a restart.
CREATE ROLE jit_admin LOGIN NOSUPERUSER INHERIT CREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 20
  PASSWORD :'password';

-- Cuts sessions of accounts at their end; it does not reach superusers.
GRANT pg_signal_backend TO jit_admin;

-- Every account is a member of this group, so that a line of pg_hba.conf can name them all. It has no right and must get none.
CREATE ROLE jit_accounts NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

-- It also needs CONNECT on every database in which accounts may own something. PUBLIC has that, unless it was revoked; then:
--   GRANT CONNECT ON DATABASE app TO jit_admin;

-- It is a member of nothing else: it reads and writes no data. PostgreSQL 16 and later (untested) want ADMIN OPTION for each role
-- that is handed out and for the group:
--   GRANT jit_accounts, app_writer TO jit_admin WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
