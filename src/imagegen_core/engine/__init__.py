"""Many requests, one model: pictures are drawn together, and come out as if each were drawn alone."""

from imagegen_core.engine.interface import Engine
from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.pool import Pool
from imagegen_core.engine.report import EngineReport, GroupReport
from imagegen_core.engine.ticket import Ticket

__all__ = ["Engine", "EngineReport", "GroupReport", "LocalEngine", "Pool", "Ticket"]
