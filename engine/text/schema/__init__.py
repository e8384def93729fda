"""JSON schemas, rewritten into what the grammar library enforces exactly, or refused with a keyword and its place."""
