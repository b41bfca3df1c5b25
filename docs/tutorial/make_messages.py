"""Write the messages of the tutorial: `python docs/tutorial/make_messages.py FILE [--count N] [--seed S]`.

They are put together from phrases, so that nothing has to be downloaded: messages to a shop that sells plants by mail, each
about a late or lost parcel (`delivery`), about money (`payment`), or asking for advice (`advice`). People say the same thing
in many words, say more than they have to, and mention things that are not their point, so that no single word decides.
Gold is in the splits `valid` and `test` alone, as if somebody had labeled a few messages by hand.
"""

import argparse
import random
from pathlib import Path

import polars as pl

CLASSES = ("delivery", "payment", "advice")

GREETINGS = ("Hello!", "Hi there!", "Good morning.", "Dear team!", "Hey!", "Good evening.", "Hi.", "", "")

POINTS = {
    "delivery": (
        "my parcel has not arrived",
        "the parcel was left in the rain",
        "the courier never rang the bell",
        "the courier brought it to the wrong house",
        "the tracking page has said the same thing for a week",
        "the tracking number does not work",
        "the box came with a broken corner and earth all over",
        "half of the plants were missing from the box",
        "nothing has come so far although it was sent ten days ago",
        "the van drove past our street twice without stopping",
        "my neighbor signed for it and now nobody can find it",
        "it was due on Friday and we are still waiting",
        "the package was returned to you without a reason",
        "shipping took so long that the leaves were yellow",
    ),
    "payment": (
        "I was charged twice",
        "my card was charged although I canceled",
        "I would like my money back",
        "when will I get my money back",
        "I am still waiting for the refund",
        "the refund is less than what I paid",
        "the invoice shows the wrong amount",
        "please send me an invoice with my company's name",
        "the voucher was not taken off the total",
        "the discount code is refused at the checkout",
        "the price in the cart is higher than on the page",
        "my bank says that the payment was never collected",
        "you took the sum for three pots and I bought one",
        "the receipt lacks the tax that I have to declare",
    ),
    "advice": (
        "how often should I water it",
        "how much light does it need in winter",
        "the leaves turn brown at the tips, what can I do",
        "which soil do you recommend",
        "is it safe for cats",
        "can it stay on the balcony in October",
        "when is the best time for repotting",
        "there are small flies in the soil and I wonder what helps",
        "it has not grown at all since spring, is that normal",
        "should I cut the long shoots",
        "which pot size would you choose",
        "do I have to feed it while it rests",
        "I am not sure whether it wants sun or shade",
        "my fern hangs its head, what am I doing wrong",
    ),
}

DETAILS = (
    "I ordered a fern and two pots.",
    "It is about the olive tree from your spring list.",
    "My order number is {number}.",
    "We have bought from you for years.",
    "It was meant as a present for my mother.",
    "I bought the large monstera last month.",
    "This is my second message.",
    "The order was placed on the {day}th.",
    "I have attached a picture.",
    "The plant itself looks lovely.",
    "I paid extra for the gift wrap.",
    "The parcel came quickly, thank you for that.",
    "Everything else was fine.",
    "I live on the fourth floor.",
)

CLOSINGS = ("Thanks!", "Thank you in advance.", "Best regards", "Please let me know.", "Kind regards", "Cheers", "", "")


def write_message(chance: random.Random, label: str) -> str:
    """A message of class `label`."""
    details = [one.format(number=chance.randrange(1000, 9999), day=chance.randrange(4, 20)) for one in DETAILS]
    parts = [chance.choice(GREETINGS), *chance.sample(details, chance.randrange(0, 3))]
    point = chance.choice(POINTS[label])
    parts.insert(chance.randrange(1, len(parts) + 1), point[0].upper() + point[1:] + chance.choice((".", "!", "...")))
    return " ".join(part for part in (*parts, chance.choice(CLOSINGS)) if part)


def make_messages(count: int, seed: int) -> pl.DataFrame:
    """A table of `count` messages: item_id, split, gold (none in train), text."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = chance.choices(CLASSES, weights=(5, 3, 4))[0]
        split = chance.choices(("train", "valid", "test"), weights=(14, 3, 3))[0]
        text = write_message(chance, label)
        rows.append((f"m{seed}-{number:04}", split, None if split == "train" else label, text))
    return pl.DataFrame(rows, schema={"item_id": str, "split": str, "gold": str, "text": str}, orient="row")


def main() -> None:
    """Write the messages as CSV."""
    parser = argparse.ArgumentParser(description="Write the messages of the tutorial.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    messages = make_messages(options.count, options.seed)
    messages.write_csv(options.file)
    gold = messages.filter(pl.col("gold").is_not_null()).height
    print(f"{messages.height} messages, {gold} of them with gold")


if __name__ == "__main__":
    main()
