"""Reading pages: how fast, how exactly, and whether what is not exact says so."""
