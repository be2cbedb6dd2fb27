"""`splitcom plan`: the cut layer, LoRA rank and codec with which a run on a measured cluster ends soonest."""
