"""Domains that the embedded model was pretrained on: like restaurants in form, unlike them in matter."""

import random
from collections.abc import Iterator

from splitcom_dist.data.grammar import Domain, describe, draw_meaning, linearise

CITIES = ("Lisbon", "Bergen", "Kyoto", "Porto", "Ghent", "Oslo", "Quito", "Tartu", "Graz", "Leeds", "Turin", "Cusco")
PEOPLE = ("Ada Moreno", "Jonas Weil", "Mira Tanaka", "Peter Osei", "Lena Brandt", "Omar Haddad", "Ruth Calder")

HOTELS = Domain(
    attributes={
        "name": tuple(
            f"{a} {b}"
            for a in ("Grand", "Royal", "Park", "Lake", "Alpine", "Central")
            for b in ("Hotel", "Lodge", "Inn", "Palace")
        ),
        "city": CITIES,
        "stars": ("two", "three", "four", "five"),
        "pool": ("yes", "no"),
        "breakfast": ("included", "not included"),
        "rooms": ("30", "80", "120", "250"),
        "pets": ("allowed", "not allowed"),
    },
    required=("name",),
    openings=(
        "the {name} is a hotel in {city}", "{name} is a {stars} star hotel",
        "in {city} there is a hotel called {name}", "the {name} is a hotel",
        "guests who come to {city} can stay at the {name}",
    ),
    clauses={
        "city": ("is located in {city}", "can be found in {city}", "stands in the middle of {city}"),
        "stars": ("has {stars} stars", "is a {stars} star house"),
        ("pool", "yes"): ("has a swimming pool", "offers its guests a pool"),
        ("pool", "no"): ("does not have a pool", "has no swimming pool"),
        ("breakfast", "included"): ("includes breakfast in the price", "serves breakfast for free"),
        ("breakfast", "not included"): ("charges extra for breakfast", "does not include breakfast"),
        "rooms": ("has {rooms} rooms", "offers {rooms} rooms"),
        ("pets", "allowed"): ("welcomes pets", "allows dogs and cats"),
        ("pets", "not allowed"): ("does not allow pets", "is not a place for pets"),
    },
    pronouns=("It", "The hotel", "This house"),
)  # fmt: skip

FILMS = Domain(
    attributes={
        "name": tuple(
            f"{a} {b}"
            for a in ("Silent", "Last", "Broken", "Distant", "Hidden", "Winter")
            for b in ("Harbour", "Signal", "Letters", "Horizon", "Voices")
        ),
        "director": PEOPLE,
        "genre": ("comedy", "drama", "thriller", "western", "documentary"),
        "year": ("1968", "1984", "1999", "2007", "2015"),
        "length": ("90 minutes", "two hours", "three hours"),
        "rating": ("poor", "mixed", "good", "excellent"),
        "award": ("won", "nominated"),
    },
    required=("name",),
    openings=(
        "{name} is a film by {director}", "{name} is a {genre}", "{director} directed the film {name}",
        "{name} is a film from {year}", "in {year} {director} made {name}", "{name} is a film",
    ),
    clauses={
        "director": ("was directed by {director}", "was made by {director}"),
        "genre": ("is a {genre}", "belongs to the genre {genre}"),
        "year": ("came out in {year}", "was released in {year}", "is from the year {year}"),
        "length": ("lasts {length}", "runs for {length}"),
        "rating": ("received {rating} reviews", "has {rating} reviews from critics"),
        ("award", "won"): ("won an award", "was given a prize"),
        ("award", "nominated"): ("was nominated for an award", "was close to winning a prize"),
    },
    pronouns=("It", "The film", "The picture"),
)  # fmt: skip

MUSEUMS = Domain(
    attributes={
        "name": tuple(
            f"Museum of {a}"
            for a in ("Glass", "Trains", "Modern Art", "Rivers", "Clocks", "Letters", "Sound", "Maps")
        ),
        "city": CITIES,
        "entry": ("free", "5 euros", "12 euros"),
        "open": ("daily", "at weekends", "from Monday to Friday"),
        "guide": ("available", "not available"),
        "children": ("welcome", "not admitted"),
        "founded": ("1871", "1923", "1960", "2004"),
    },
    required=("name",),
    openings=(
        "the {name} is in {city}", "the {name} was founded in {founded}", "{city} is home to the {name}",
        "visitors to {city} should see the {name}", "the {name} is open {open}", "there is a museum called {name}",
    ),
    clauses={
        "city": ("is in {city}", "is situated in {city}"),
        "entry": ("costs {entry} to enter", "charges {entry} for a ticket"),
        ("entry", "free"): ("is free to enter", "does not charge for entry"),
        "open": ("is open {open}", "can be visited {open}"),
        ("guide", "available"): ("offers guided tours", "has guides for visitors"),
        ("guide", "not available"): ("has no guided tours", "does not offer tours"),
        ("children", "welcome"): ("is good for children", "has rooms for young visitors"),
        ("children", "not admitted"): ("does not admit children", "is for grown visitors only"),
        "founded": ("was founded in {founded}", "has been there since {founded}"),
    },
    pronouns=("It", "The museum"),
)  # fmt: skip

JOURNEYS = Domain(
    attributes={
        "name": tuple(f"Express {number}" for number in range(10, 60)),
        "from": CITIES,
        "to": CITIES,
        "departs": ("6.15", "8.40", "11.05", "15.30", "19.55"),
        "hours": ("two", "three", "five", "nine"),
        "dining car": ("yes", "no"),
        "fare": ("low", "19 euros", "45 euros", "high"),
    },
    required=("name", "to"),
    openings=(
        "the {name} goes from {from} to {to}", "the {name} is a train to {to}", "to get to {to}, take the {name}",
        "the {name} leaves for {to} at {departs}", "travellers from {from} reach {to} with the {name}",
    ),
    clauses={
        "from": ("starts in {from}", "comes from {from}"),
        "to": ("ends in {to}",),
        "departs": ("departs at {departs}", "leaves at {departs}"),
        "hours": ("takes {hours} hours", "needs {hours} hours"),
        ("dining car", "yes"): ("has a dining car", "serves meals on board"),
        ("dining car", "no"): ("has no dining car", "does not serve meals"),
        "fare": ("costs {fare}", "has a fare of {fare}"),
        ("fare", "low"): ("is cheap", "has a low fare"),
        ("fare", "high"): ("is expensive", "has a high fare"),
    },
    pronouns=("It", "The train"),
)  # fmt: skip

BOOKS = Domain(
    attributes={
        "name": tuple(
            f"The {a} of {b}"
            for a in ("Art", "Book", "Garden", "History", "House", "Song")
            for b in ("Salt", "Bridges", "Birds", "Silence", "Numbers")
        ),
        "author": PEOPLE,
        "kind": ("novel", "guide", "biography", "cookery book", "collection of poems"),
        "pages": ("90", "240", "410", "800"),
        "price": ("8 euros", "15 euros", "32 euros"),
        "readers": ("children", "students", "experts", "everyone"),
    },
    required=("name",),
    openings=(
        "{name} is a {kind} by {author}", "{name} is a {kind}", "{author} wrote {name}",
        "{name} is a book by {author}", "{name} is a book for {readers}", "{name} is a book",
    ),
    clauses={
        "author": ("was written by {author}", "is the work of {author}"),
        "kind": ("is a {kind}",),
        "pages": ("has {pages} pages", "is {pages} pages long"),
        "price": ("costs {price}", "can be bought for {price}"),
        "readers": ("is meant for {readers}", "was written for {readers}"),
    },
    pronouns=("It", "The book"),
)  # fmt: skip

DOMAINS = {"hotels": HOTELS, "films": FILMS, "museums": MUSEUMS, "journeys": JOURNEYS, "books": BOOKS}


def descriptions(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` (source, target) pairs, the domains in turn; the sources are linearised meanings."""
    rng = random.Random(f"domains {seed}")
    domains = list(DOMAINS.values())
    for index in range(count):
        domain = domains[index % len(domains)]
        meaning = draw_meaning(domain, rng)
        yield linearise(meaning), describe(domain, meaning, rng)
