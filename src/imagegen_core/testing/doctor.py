"""The doctor's word on the plugin whose offer is checked."""

from __future__ import annotations

import pytest

from imagegen_core.plugins.doctor import examined
from imagegen_core.plugins.registry import Registry


def check_plugin(noun: str, name: str) -> None:
    """Fail where the doctor finds fault with the plugin that offers, say, the ``backend`` called `name`."""
    offering = next((one for one in Registry.discover().plugins if f"{noun} {name}" in one.offers), None)
    if offering is None:
        pytest.skip(f"the {noun} {name} is imagegen's own, and comes with no plugin")
    plugin = examined(offering)
    assert plugin.status == "ok", f"{plugin.cause}; {plugin.mend}"
    assert not plugin.remarks, "; ".join(plugin.remarks)
