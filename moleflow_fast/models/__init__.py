from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator, positionalencoding2d
from moleflow_fast.models.prototypes import TaskPrototype
from moleflow_fast.models.routing import PrototypeRouter

__all__ = [
    "MoLESpatialAwareNF",
    "PositionalEmbeddingGenerator",
    "PrototypeRouter",
    "TaskPrototype",
    "positionalencoding2d",
]
