"""The embedded corpus: restaurant descriptions in the manner of the E2E challenge, generated, nothing downloaded.

Sources are meaning representations in LoRA's linearised form; each has several texts. All names are invented.
"""

import hashlib
import random

from splitcom_dist.data.grammar import Domain, describe, draw_meaning, linearise

FIRST = (
    "Copper", "Willow", "Harbour", "Amber", "Juniper", "Granite", "Saffron", "Lantern", "Marigold", "Thistle",
    "Cobalt", "Orchard", "Velvet", "Pepper", "Meadow", "Falcon", "Ivory", "Bramble", "Cinnamon", "Tidewater",
)  # fmt: skip
SECOND = (
    "Table", "Kettle", "Room", "Spoon", "Arms", "Garden", "Hearth", "Larder", "Corner", "Barrel", "Plate", "Oven",
)  # fmt: skip
LANDMARKS = (
    "the Old Mill", "Station Bridge", "the Botanic House", "Quayside Books", "the Clock Tower", "Foxglove Inn",
    "Riverbank Cinema", "the Glassworks", "Market Cross", "the Lighthouse Hotel", "Pilgrim Hall", "Cedar Square",
)  # fmt: skip

RESTAURANTS = Domain(
    attributes={  # spelt as the challenge spells them
        "name": tuple(f"The {first} {second}" for first in FIRST for second in SECOND),
        "Type": ("restaurant", "pub", "coffee shop", "bistro"),
        "food": ("Italian", "Indian", "Japanese", "French", "English", "Mexican", "Turkish", "vegetarian", "Chinese"),
        "price": ("cheap", "moderate", "high", "less than £ 20", "£ 20 - 25", "more than £ 30"),
        "customer rating": ("low", "average", "high", "1 out of 5", "3 out of 5", "5 out of 5"),
        "area": ("riverside", "city centre", "harbour", "old town"),
        "family friendly": ("yes", "no"),
        "near": LANDMARKS,
    },
    required=("name", "Type"),
    openings=(
        "{name} is a {Type}",
        "{name} is a {Type} near {near}",
        "{name} is a {Type} that serves {food} food",
        "{name} is a {Type} with {food} food in the {area} area",
        "there is a {Type} called {name} near {near}",
        "there is a {Type} in the {area} area called {name}",
        "located near {near}, {name} is a {Type} serving {food} dishes",
        "for {food} food, try {name}, a {Type}",
        "if you are in the {area} area, visit the {Type} {name}",
        "{name}, a {Type} close to {near}, offers {food} food",
        "in the {area} area, not far from {near}, you will find {name}, a {Type}",
    ),
    clauses={
        "food": (
            "serves {food} food", "offers {food} cuisine", "has {food} dishes on the menu",
            "is known for {food} food",
        ),
        "price": ("has prices of {price}", "costs {price}"),
        ("price", "cheap"): ("is cheap", "has low prices", "will not cost you much", "is inexpensive"),
        ("price", "moderate"): ("is moderately priced", "has a moderate price range", "charges average prices"),
        ("price", "high"): ("is expensive", "has high prices", "is in the high price range"),
        ("price", "less than £ 20"): ("costs less than £ 20", "has meals for under £ 20", "charges less than £ 20"),
        ("price", "£ 20 - 25"): ("has a price range of £ 20 - 25", "charges between £ 20 and £ 25"),
        ("price", "more than £ 30"): ("costs more than £ 30", "has prices above £ 30", "charges more than £ 30"),
        "customer rating": (
            "has a customer rating of {customer rating}", "is rated {customer rating} by its customers",
            "was given {customer rating} by diners",
        ),
        ("customer rating", "low"): ("has a low customer rating", "is not well rated", "has poor reviews"),
        ("customer rating", "average"): ("has an average customer rating", "gets average reviews"),
        ("customer rating", "high"): ("is highly rated", "has a high customer rating", "gets excellent reviews"),
        "area": (
            "is in the {area} area", "can be found in the {area}", "is situated in the {area} area",
            "lies in the {area}",
        ),
        ("family friendly", "yes"): (
            "is family friendly", "welcomes children", "is a good place for families", "is kid friendly",
        ),
        ("family friendly", "no"): ("is not family friendly", "does not welcome children", "is for adults only"),
        "near": ("is near {near}", "is close to {near}", "stands next to {near}", "is not far from {near}"),
        "Type": ("is a {Type}",),
    },
    pronouns=("It", "It", "The place", "This venue"),
    joins=(" and ", ", and it "),
)  # fmt: skip


def restaurants(split: str, meanings: int, texts_per_meaning: int, seed: int = 0) -> list[tuple[str, str]]:
    """(source, target) pairs: `texts_per_meaning` texts for each of so many distinct meanings.

    A meaning belongs to one of the splits "train", "validation" and "test" by its hash, whatever the seed, so no two
    splits can share one. Equal arguments give equal texts in every process.
    """
    rng = random.Random(f"{split} {seed}")
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    while len(seen) < meanings:
        meaning = draw_meaning(RESTAURANTS, rng)
        source = linearise(meaning)
        if source in seen or split_of(source) != split:
            continue
        seen.add(source)
        pairs += [(source, describe(RESTAURANTS, meaning, rng)) for _ in range(texts_per_meaning)]
    return pairs


def split_of(source: str) -> str:
    """The split a meaning belongs to: 8 of 10 train, one each validation and test."""
    bucket = hashlib.sha256(source.encode()).digest()[0] % 10
    return "train" if bucket < 8 else ("validation", "test")[bucket - 8]
