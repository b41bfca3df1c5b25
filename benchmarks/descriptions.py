"""What the classes of the shared tasks mean, in a sentence each; written once, before any result was seen."""

DESCRIPTIONS: dict[str, dict[str, list[str]]] = {
    "agnews": {
        "world": [
            "World news: politics, elections, governments, wars, attacks, diplomacy and disasters around the globe."
        ],
        "sports": ["Sports news: games, matches, teams, players, coaches, leagues, scores and championships."],
        "business": ["Business news: companies, markets, stocks, earnings, oil prices, trade, jobs and the economy."],
        "tech": [
            "Science and technology news: computers, software, the internet, phones, gadgets, space and research."
        ],
    },
    "yelp": {
        "negative": [
            "A negative review: bad food, rude or slow service, a disappointing experience, never going back."
        ],
        "positive": ["A positive review: great food, friendly service, a wonderful experience, highly recommended."],
    },
    "spam": {
        "HAM": ["A comment on the music video itself: the song, the singer, how much somebody loves or dislikes it."],
        "SPAM": ["An advertisement: check out my channel, subscribe to me, visit this link, make money online."],
    },
    "sms": {
        "HAM": ["A personal text message between friends or family about plans, feelings and everyday life."],
        "SPAM": ["An unsolicited commercial text message: you have won a prize, call or text this number, free offer."],
    },
    "semeval": {
        "Cause-Effect": ["Something causes an effect: an event, illness or damage is the result of something else."],
        "Component-Whole": ["A component is a part of a larger whole, such as the engine of a car."],
        "Content-Container": ["Something is inside a container, such as letters in a box or wine in a bottle."],
        "Entity-Destination": ["Something is moved to a destination, put into or sent to a place."],
        "Entity-Origin": ["Something comes from an origin, a source, a place or a material."],
        "Instrument-Agency": ["Somebody uses an instrument or a tool to do something."],
        "Member-Collection": ["A member belongs to a collection, such as a flock of birds or a team of players."],
        "Message-Topic": ["A message, text, speech or book is about a topic."],
        "Product-Producer": ["A producer makes a product, such as a company, an artist or a factory."],
    },
    "claude9": {
        "Limitation of liability": [
            "The provider is not liable for any damages or losses that come from using the service."
        ],
        "Unilateral termination": ["The provider may suspend or terminate your account at any time, for any reason."],
        "Unilateral change": ["The provider may change these terms or the service at any time, without notice."],
        "Content removal": [
            "The provider may remove or delete content that users have posted, at its sole discretion."
        ],
        "Contract by using": ["By using or accessing the service you agree to be bound by these terms."],
        "Choice of law": ["These terms are governed by the laws of a certain state or country."],
        "Jurisdiction": [
            "Disputes are brought before the courts of a certain place, to whose jurisdiction you submit."
        ],
        "Arbitration": ["Disputes are resolved by binding arbitration instead of in court."],
        "Other": ["Any other clause of the terms of service."],
    },
}
"""By task and class."""
