"""Secrets of URLs appear in no message and no log line."""

from __future__ import annotations

import json
import logging
import sys
import time

import pytest

from imagegen_core.redaction import redact
from imagegen_core.server.log import log_as_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@host:6379/0", "redis://host:6379/0"),
        ("redis://:hunter2@host", "redis://host"),
        ("redis://:hun/te@r2@host/0", "redis://host/0"),
        ("rediss://token@host/0", "rediss://host/0"),
        ("redis://host/0?password=hunter2&db=1", "redis://host/0?password=***&db=1"),
        ("https://x.example/c?sv=2020&sig=hunter2%3D&se=1", "https://x.example/c?sv=2020&sig=***&se=1"),
        ("https://x.example/c?token=hunter2#part", "https://x.example/c?token=***#part"),
        ("https://x.example/c?access_token=hunter2", "https://x.example/c?access_token=***"),
        ("https://x.example/c?api_key=hunter2&key=hunter2", "https://x.example/c?api_key=***&key=***"),
        (
            "https://x.example/c?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2&X-Amz-Security-Token=hunter2&x=1",
            "https://x.example/c?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Security-Token=***&x=1",
        ),
        (
            "https://x.example/c?AWSAccessKeyId=hunter2&SIGNATURE=hunter2",
            "https://x.example/c?AWSAccessKeyId=***&SIGNATURE=***",
        ),
        ("403 for 'https://x.example/c?sig=hunter2': denied", "403 for 'https://x.example/c?sig=***': denied"),
        ("from redis://a:hunter2@h to ftp://b:hunter2@i.", "from redis://h to ftp://i."),
        ("AccountKey=hunter2;Endpoint=x", "AccountKey=***"),
    ],
)
def test_only_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a?size=64x64&seed=7",
        "mail ann@example.org about https://example.org/",
        "Invalid key 'a b': expected letters",
        "Set IMAGEGEN_ALLOW_NO_KEYS=1, or send X-API-Key",
        "s3://bucket/pictures",
        "/srv/pictures@home/a.png",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("part", ["://", "://a@", "key=", "key", "a", "@", "?sig=&", "://a b@"])
def test_a_long_text_is_redacted_within_a_second(part: str) -> None:
    text = part * (10**6 // len(part))
    began = time.perf_counter()
    redact(text)
    assert time.perf_counter() - began < 1


def test_the_log_hides_secrets_in_messages_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    log_as_json()
    logging.getLogger().handlers[0].setStream(sys.stderr)  # type: ignore[attr-defined]
    cause = OSError("refused by https://user:hunter2@x.example/c?sig=hunter2")
    logging.getLogger("imagegen_core").error("Cannot ask %s", "redis://:hunter2@host/0", exc_info=cause)
    line = capsys.readouterr().err
    record = json.loads(line)
    assert record["message"] == "Cannot ask redis://host/0"
    assert "OSError: refused by https://x.example/c?sig=***" in record["exc_info"]
    assert "hunter2" not in line
