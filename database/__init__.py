"""The service's database: keys, usage and the audit trail, in SQLite by default or at any SQLAlchemy URL."""
