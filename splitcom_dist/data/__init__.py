"""From private text to batches: corpora, tokens, shards and the ragged layout that crosses the cut."""
