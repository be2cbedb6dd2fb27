"""What a run would have sent with other thresholds or controllers: recomputed from its logs, without training."""
