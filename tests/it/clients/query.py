"""Logs in with what jit-broker printed: a URI as the argument, or libpq's environment. psycopg 3."""
import sys

import psycopg

with psycopg.connect(sys.argv[1] if len(sys.argv) > 1 else "") as connection:
    print("|".join(str(v) for v in connection.execute("select current_user, count(*) from notes").fetchone()))
