"""Plugins' hooks around pictures act on the replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imagegen_core import GenerateRequest, Registry, ResolvedRequest
from imagegen_core.resolution.parameters import complete_parameters
from tests.cluster.conftest import LIMIT, pytestmark
from tests.cluster.scripted import picture_of

__all__ = ["pytestmark"]


def test_a_replica_changes_the_picture_by_the_requests_parameter(deploy: Callable[..., Any]) -> None:
    registry = Registry.discover()
    plain = picture_of(ResolvedRequest.of(GenerateRequest(prompt="a", seed=7), "8x8"))
    with deploy(replicas=1) as deployed:
        drawn = {}
        for text in ("", "Hi"):
            asked = GenerateRequest(prompt="a", seed=7).with_parameters({"watermark": text})
            asked = complete_parameters(asked, registry.parameters, None)
            drawn[text] = deployed.models.submit(deployed.mode, asked, LIMIT).result(LIMIT)
            assert drawn[text].png == registry.hooks.picture(plain, asked).png
    assert drawn[""] == plain
    assert drawn["Hi"].png != plain.png
