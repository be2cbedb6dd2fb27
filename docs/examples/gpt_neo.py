"""A model family of one's own: GPT-Neo, one of the three that SplitFT was tried with."""

from splitcom_dist.models.families import Family, register_family

register_family(
    "gpt_neo",  # `model_type` in the model's config.json
    Family(
        embedding="wte",
        blocks="h",
        final=("ln_f",),
        positions=("wpe",),
        entrance=("drop",),
        lora_targets=("q_proj", "v_proj"),
        tuple_blocks=True,  # its blocks return (hidden states, attention weights)
    ),
)
