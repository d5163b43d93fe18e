"""A Ray cluster of two nodes, each a process of its own, and applications on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from imagegen_core import GenerateRequest, Settings
from imagegen_core.cluster.application import REPLICA, replicas
from imagegen_core.cluster.models import ClusterModelHost
from imagegen_core.hosting.model_host import HostReport
from imagegen_core.modes import load_modes
from imagegen_core.plugins.registry import Registry
from tests.waiting import until

LIMIT = 60.0
NODES = 2
ROOT = Path(__file__).parent.parent.parent

# Ray opens what it closes at the end of a process, and warns of what it will change.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What processes need on their path to have the scripted worker's plugin installed."""
    folder = tmp_path_factory.mktemp("scripted")
    info = folder / "imagegen_scripted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-scripted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imagegen.plugins]\nscripted = tests.cluster.scripted\n")
    return os.pathsep.join([str(folder), str(ROOT)])


@pytest.fixture(scope="package")
def cluster(plugin_path: str) -> Iterator[Cluster]:
    """Two nodes with two CPUs each, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", plugin_path, prepend=os.pathsep)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # Ray reads it when it is imported, as it was here before
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        for _ in range(NODES - 1):
            made.add_node(num_cpus=2)
        for folder in reversed(plugin_path.split(os.pathsep)):
            patch.syspath_prepend(folder)
        ray.init(address=made.address, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield made
        serve.shutdown()
        ray.shutdown()
        made.shutdown()


class Deployed:
    """Replicas, and this process as their front."""

    def __init__(self, name: str, settings: Settings, models: ClusterModelHost) -> None:
        self.name, self.settings, self.models = name, settings, models
        self.modes = load_modes(settings)
        self.mode = self.modes.find(None)

    def submit(self, mode: str | None = None, deadline: float | None = LIMIT, **fields: Any) -> Any:
        found = self.modes.find(mode)
        request = found.complete(GenerateRequest(**{"prompt": "a star", "num_inference_steps": 4} | fields))
        return self.models.submit(found, request, deadline)

    def processes(self) -> list[psutil.Process]:
        """Those of the replicas, on all nodes."""
        title = f"ServeReplica:{self.name}:{REPLICA}"
        return [one for one in psutil.process_iter(["cmdline"]) if title in " ".join(one.info["cmdline"] or ())]

    def until(self, condition: Callable[[tuple[HostReport, ...]], bool]) -> tuple[HostReport, ...]:
        """What the replicas tell once it is so."""
        until(lambda: condition(self.models.hosts()), message=self.models.hosts, every=0.05)
        return self.models.hosts()


@pytest.fixture(scope="package")
def deploy(cluster: Cluster) -> Callable[..., Any]:
    """Runs replicas while a ``with`` lasts."""

    @contextmanager
    def deploying(environ: dict[str, str] | None = None, **given: Any) -> Iterator[Deployed]:
        given = {"backend": "scripted", "storage_provider": "disabled", "replicas": 2} | given
        settings = Settings.load(environ=environ or {}, **given)
        name = f"test-{time.monotonic_ns()}"
        target = serve.RunTarget(replicas(settings), name=name, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)
        models = ClusterModelHost(serve.get_deployment_handle(REPLICA, name), settings, Registry.discover())
        try:
            deployed = Deployed(name, settings, models)
            models.load(deployed.mode)
            deployed.until(lambda hosts: len(hosts) == settings.replicas)
            yield deployed
        finally:
            models.close(LIMIT)
            serve.delete(name)

    return deploying
