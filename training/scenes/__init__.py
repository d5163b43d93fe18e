"""Procedural pictures with captions. The caption fixes everything except a little light and terrain."""

from training.scenes.captions import caption
from training.scenes.render import render
from training.scenes.scene import Landscape, Scene, Shape, Subject, random_scene

__all__ = ["Landscape", "Scene", "Shape", "Subject", "caption", "random_scene", "render"]
