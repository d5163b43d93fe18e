"""Picture files from outside: parsed within limits, then decoded."""
