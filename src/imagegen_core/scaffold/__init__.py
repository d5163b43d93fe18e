"""The beginnings of a plugin: a small project that draws, enlarges or stores, and passes the conformance kit."""
