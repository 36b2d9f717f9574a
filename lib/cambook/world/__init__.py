"""The picture world: seeded scenes with exact ground truth, and the two networks trained on them."""

from .figures import CLASSES, SIBLINGS
from .scene import Object, Scene, scene, two_class_scene

__all__ = ["CLASSES", "SIBLINGS", "Object", "Scene", "scene", "two_class_scene"]
