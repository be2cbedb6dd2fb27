"""Split federated fine-tuning of language models, with activations compressed in time."""

__version__ = "0.1.0"
