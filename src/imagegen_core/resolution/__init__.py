"""Resolve names to checkpoints, styles and backends."""
