"""Workers with one fault each."""
