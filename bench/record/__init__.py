"""The record: what it costs to write clinical rows, to audit them, and to read them as a user may."""
