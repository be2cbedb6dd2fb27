"""Federated averaging of LoRA adapters with Flower: every client trains the whole model on its own texts."""
