"""Serve many requests with one model: requests share forward passes, and each picture stays the same as alone."""

from imagegen_core.engine.interface import Engine
from imagegen_core.engine.local import LocalEngine
from imagegen_core.engine.pool import Pool
from imagegen_core.engine.report import EngineReport, GroupReport
from imagegen_core.engine.ticket import Ticket

__all__ = ["Engine", "EngineReport", "GroupReport", "LocalEngine", "Pool", "Ticket"]
