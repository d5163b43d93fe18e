"""A Ray cluster of two nodes in separate processes, and its applications."""

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
from tests import postcard
from tests.waiting import until

LIMIT = 60.0
NODES = 2
ROOT = Path(__file__).parent.parent.parent

# Ray closes its resources only at the end of a process, and warns of future changes.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python path of processes with the scripted worker's plugin, and the example imagegen-postcard."""
    folder = tmp_path_factory.mktemp("scripted")
    info = folder / "imagegen_scripted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-scripted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imagegen.plugins]\nscripted = tests.cluster.scripted\n")
    return os.pathsep.join([*postcard.install(folder), str(ROOT)])


@pytest.fixture(scope="package")
def cluster(plugin_path: str) -> Iterator[Cluster]:
    """Two nodes with two CPUs each; this process is connected to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", plugin_path, prepend=os.pathsep)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # Ray reads it when it is imported, which this process did before
        ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        for _ in range(NODES - 1):
            ray_cluster.add_node(num_cpus=2)
        for folder in reversed(plugin_path.split(os.pathsep)):
            patch.syspath_prepend(folder)
        ray.init(address=ray_cluster.address, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield ray_cluster
        serve.shutdown()
        ray.shutdown()
        ray_cluster.shutdown()


class Deployed:
    """An application's replicas, with this process as their ingress."""

    def __init__(self, name: str, settings: Settings, models: ClusterModelHost) -> None:
        self.name, self.settings, self.models = name, settings, models
        self.modes = load_modes(settings)
        self.mode = self.modes.find(None)

    def submit(self, mode: str | None = None, deadline: float | None = LIMIT, **fields: Any) -> Any:
        chosen = self.modes.find(mode)
        request = chosen.complete(GenerateRequest(**{"prompt": "a star", "num_inference_steps": 4} | fields))
        return self.models.submit(chosen, request, deadline)

    def processes(self) -> list[psutil.Process]:
        """Return the replicas' processes on all nodes."""
        title = f"ServeReplica:{self.name}:{REPLICA}"
        return [
            process for process in psutil.process_iter(["cmdline"]) if title in " ".join(process.info["cmdline"] or ())
        ]

    def until(self, condition: Callable[[tuple[HostReport, ...]], bool]) -> tuple[HostReport, ...]:
        """Wait until the replicas' reports satisfy a condition, and return them."""
        until(lambda: condition(self.models.hosts()), message=self.models.hosts, every=0.05)
        return self.models.hosts()


@pytest.fixture(scope="package")
def deploy(cluster: Cluster) -> Callable[..., Any]:
    """A context manager that runs replicas."""

    @contextmanager
    def deploying(environ: dict[str, str] | None = None, **options: Any) -> Iterator[Deployed]:
        options = {"backend": "scripted", "storage_provider": "disabled", "replicas": 2} | options
        settings = Settings.load(environ=environ or {}, **options)
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
