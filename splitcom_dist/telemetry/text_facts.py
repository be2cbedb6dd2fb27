"""What sketches tell of a sample's text, where the sender has it: its targets, and what it shares with earlier ones."""

from collections.abc import Sequence

from splitcom_dist.codec.labels import LabelCache
from splitcom_dist.codec.prefix import PrefixTree
from splitcom_dist.data.tokens import Sample
from splitcom_dist.telemetry.sketches import TextFacts


def facts_of_shard(samples: Sequence[Sample]) -> TextFacts:
    """Of a client's samples, in the order of its shard."""
    tree = PrefixTree()
    tree.paths([sample.id for sample in samples], [sample.tokens for sample in samples])
    shared = tree.news()
    facts = {sample.id: (len(sample.tokens) - sample.target_start, shared[sample.id][1]) for sample in samples}
    return facts.__getitem__


def facts_of_labels(labels: LabelCache) -> TextFacts:
    """Of samples whose labels a server has."""
    return lambda sample: (len(labels.recall([sample])[0]), -1)
