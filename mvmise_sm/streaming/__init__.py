"""Linear mixed models of data that are never in memory at once, or never in one place: plans, sums and their fits."""

from mvmise_sm.streaming.products import CrossProducts
from mvmise_sm.streaming.sources import Chunks

__all__ = ["Chunks", "CrossProducts"]
