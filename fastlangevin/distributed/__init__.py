"""Chains and trainings on several ranks of torch.distributed."""

from .sharded_module import ShardedAverage
from .shards import Shard, shard

__all__ = ["Shard", "ShardedAverage", "shard"]
