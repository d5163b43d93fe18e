"""What a checkpoint is, and how a configured name becomes its path; nothing here imports torch."""
