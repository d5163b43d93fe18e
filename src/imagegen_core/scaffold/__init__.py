"""Create a plugin project: a small project that works and passes the conformance kit."""
