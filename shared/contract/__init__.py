"""The shapes of the rows that services hand to one another. Postgres is the only thing between them."""
