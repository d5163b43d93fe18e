"""Wildcards in prompts, a watermark, and a webhook."""
