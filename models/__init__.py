"""The models of the service: which checkpoint stands behind each name, and the set that is started and stopped."""

from models.model_set import ModelSet
from models.names import ModelNames
from models.selection import build_models

__all__ = ["ModelNames", "ModelSet", "build_models"]
