"""The words of the little stories: who, where and what, and the plots with their causes and effects.

Braces name slots that `stories.py` fills: `{hero}` and `{friend}` are names, `{she}`, `{her}` and `{her_obj}` are the
hero's pronouns (she/he, her/his, her/him), `{friend_she}` is the friend's; a capital starts a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

HERO_GIRLS = ("Mia", "Lily", "Nora", "Anna", "Ella")
HERO_BOYS = ("Tom", "Ben", "Leo", "Sam", "Pip")
# Friends have names of their own: a model this small would otherwise give them the hero's.
FRIEND_GIRLS = ("Rosa", "Zoe", "Ida", "Clara", "Ruby")
FRIEND_BOYS = ("Max", "Finn", "Otto", "Hugo", "Jack")
ANIMALS = (
    "fox",
    "rabbit",
    "bear",
    "mouse",
    "cat",
    "owl",
    "dog",
    "hedgehog",
    "duck",
    "squirrel",
    "turtle",
    "frog",
)
MOODS = ("little", "kind", "brave", "clever", "cheerful", "curious", "quiet", "shy")
HOMES = (
    "in a small village",
    "near a deep forest",
    "by the sea",
    "on a green hill",
    "beside a quiet river",
    "in an old mill",
    "at the edge of a wide field",
    "under a tall oak tree",
    "in a house with a blue door",
)
LIGHT_THINGS = ("kite", "hat", "scarf", "balloon", "paper bird")
SMALL_THINGS = ("ball", "key", "drum", "book", "bell", "lantern", "toy boat", "silver spoon", "music box")
FOODS = ("cake", "apple pie", "loaf of bread", "bowl of soup", "basket of berries", "jar of honey")
PLANTS = ("garden", "apple tree", "rose", "sunflower", "pumpkin")


@dataclass(frozen=True)
class Plot:
    """What happens on one kind of day: each beat lists sentences of which a story takes one."""

    weather: str
    sky: tuple[str, ...]
    things: tuple[str, ...]
    beats: tuple[tuple[str, ...], ...]


PLOTS = (
    Plot(
        "windy",
        ("The wind blew through the trees.", "A strong wind shook the roofs."),
        LIGHT_THINGS,
        (
            (
                "{Hero} took {her} {thing} and ran outside to play.",
                "{Hero} went out to show {her} {thing} to {friend}.",
            ),
            (
                "Suddenly the wind took the {thing} and carried it high into a tree.",
                "But the wind was too strong, and the {thing} flew up into a tall tree.",
            ),
            (
                "{Hero} jumped and jumped, but {she} could not reach it.",
                "{Hero} was too small to reach it, and {she} began to cry.",
            ),
            (
                '"Do not worry," said {friend} the {friend_kind}. "I can climb."',
                '{Friend} the {friend_kind} heard it and came at once. "I will help you," {friend_she} said.',
            ),
            (
                "{Friend} climbed up, branch by branch, and brought the {thing} down.",
                "{Friend} shook the branch until the {thing} fell into the grass.",
            ),
            (
                "{Hero} was so happy that {she} danced.",
                '"Thank you!" said {hero}, and {she} held the {thing} tight.',
            ),
        ),
    ),
    Plot(
        "rainy",
        ("The rain fell on the roof all night.", "Big drops of rain ran down the window."),
        FOODS,
        (
            (
                "{Hero} wanted to bring a {thing} to {friend} the {friend_kind}.",
                "{Hero} had made a {thing} for {friend} the {friend_kind}.",
            ),
            (
                "But the rain had filled the river, and the bridge was gone.",
                "But so much rain had come down that the river had washed the bridge away.",
            ),
            (
                '"How can I get to the other side?" {hero} asked.',
                "{Hero} stood by the water and did not know what to do.",
            ),
            (
                "Then {friend} called from the other side and threw a long rope.",
                "Then {she} saw some old logs, and {she} had an idea.",
            ),
            (
                "Together they tied the logs and made a raft.",
                "They pulled and they pushed, and soon they had a raft that could float.",
            ),
            (
                "{Hero} came over the water, and the {thing} was still dry.",
                "Slowly the raft crossed the river, and {hero} laughed with joy.",
            ),
            (
                "They sat by the fire and shared the {thing}.",
                "Then they ate the {thing} together and listened to the rain.",
            ),
        ),
    ),
    Plot(
        "snowy",
        ("Snow covered the fields and the roofs.", "Soft white snow fell from the sky."),
        SMALL_THINGS,
        (
            (
                "{Hero} went into the forest to look for {her} lost {thing}.",
                "{Hero} walked a long way to bring a {thing} to {friend}.",
            ),
            (
                "The snow fell faster, and soon {she} could not see the path.",
                "Because the snow had covered the path, {she} lost {her} way.",
            ),
            ("It grew dark, and {hero} was cold and afraid.", "{Hero} called for help, but nobody answered."),
            (
                "Then {she} saw a small light between the trees.",
                "Then {she} heard a bell ring far away.",
            ),
            (
                "It was {friend} the {friend_kind}, who had come to look for {her_obj}.",
                '"Here I am!" said {friend} the {friend_kind}. "Follow me."',
            ),
            (
                "{Friend} took {her_obj} home and gave {her_obj} warm milk.",
                "They walked home side by side, and their steps were deep in the snow.",
            ),
            (
                "And there, behind the door, stood the {thing}.",
                "{Hero} put the {thing} on the table and smiled.",
            ),
        ),
    ),
    Plot(
        "sunny",
        ("The sun was hot, and there was not a cloud in the sky.", "It had not rained for many days."),
        PLANTS,
        (
            ("{Hero} went out to see {her} {thing}.", "In the morning, {hero} looked at {her} {thing}."),
            (
                "The {thing} was dry, because it had no water.",
                "But the leaves were brown, for the ground was too dry.",
            ),
            ('"My poor {thing}!" said {hero}.', "{Hero} was sad, and {she} sat down in the shade to think."),
            (
                "So {she} took a bucket and walked to the well, again and again.",
                "So {she} asked {friend} the {friend_kind} to help {her_obj} carry water.",
            ),
            (
                "{Friend} brought a second bucket, and the work was soon done.",
                "All day long {hero} and {friend} carried water from the river.",
            ),
            (
                "After three days the {thing} was green again.",
                "The next morning there was a new leaf, and then another one.",
            ),
            ('"Look!" said {friend}. "It is smiling at us."', "{Hero} clapped {her} hands and laughed."),
        ),
    ),
    Plot(
        "foggy",
        ("A thick fog hid the hills.", "The fog was so thick that the sun looked like a pale coin."),
        SMALL_THINGS,
        (
            ("{Hero} was looking for {her} {thing}.", "{Hero} could not find {her} {thing} anywhere."),
            (
                "{She} looked under the bed and behind the door.",
                "{She} looked in the kitchen, and then {she} looked in the garden.",
            ),
            (
                "In the fog {she} could not even see {her} own feet.",
                "Because of the fog, everything outside was grey.",
            ),
            (
                'Then {friend} the {friend_kind} came by. "What are you looking for?" {friend_she} asked.',
                '"Can I help you?" asked {friend} the {friend_kind}.',
            ),
            (
                '"I have lost my {thing}," said {hero}.',
                "{Hero} told {friend} about the {thing}.",
            ),
            (
                "They waited until the fog was gone, and then they saw the {thing} in the grass.",
                'When the sun came out, {friend} pointed up. "There is your {thing}, on the roof!"',
            ),
            (
                "{Hero} laughed, because it had been so near all the time.",
                "{Hero} was glad, and {she} thanked {friend} with a smile.",
            ),
        ),
    ),
    Plot(
        "cold",
        ("There was ice on the pond.", "The windows were white with frost."),
        FOODS,
        (
            (
                "{Hero} had only one {thing} left.",
                "{Hero} was hungry, and there was only a {thing} in the house.",
            ),
            (
                "Just then somebody knocked at the door.",
                "Then {she} heard a soft knock.",
            ),
            (
                "It was {friend} the {friend_kind}, who was cold and tired.",
                "{Friend} the {friend_kind} stood outside and shook with cold.",
            ),
            (
                '"Please come in," said {hero}.',
                '"Sit down by the fire," said {hero}, and {she} closed the door.',
            ),
            (
                "{She} cut the {thing} in two and gave {friend} the bigger half.",
                "{She} shared the {thing} with {friend}, although there was not much.",
            ),
            (
                "In spring {friend} came back with a full basket.",
                "The next day {friend} came back and brought wood for the fire.",
            ),
            (
                '"You were kind to me," {friend_she} said, "and I did not forget it."',
                '"This is for you," said {friend}.',
            ),
        ),
    ),
    Plot(
        "dark",
        ("There was no moon in the sky.", "Only one star was in the sky."),
        SMALL_THINGS,
        (
            ("{Hero} could not sleep.", "{Hero} lay in bed and listened."),
            (
                "Something in the garden went tap, tap, tap.",
                "There was a strange noise behind the house.",
            ),
            (
                "{She} was afraid, but {she} wanted to know what it was.",
                '"Who is there?" {she} asked, but nobody answered.',
            ),
            (
                "So {she} took a candle and opened the door.",
                "So {she} went down the stairs, step by step.",
            ),
            (
                "It was only {friend} the {friend_kind}, who was playing with a {thing}.",
                "There sat {friend} the {friend_kind} with a {thing}.",
            ),
            (
                '"I could not sleep," said {friend}. "Shall we play together?"',
                '"I am sorry," said {friend}. "I found this {thing} and wanted to bring it to you."',
            ),
            ("Then {hero} laughed, and {she} was not afraid any more.", "They played until the sun came up."),
        ),
    ),
)

OPENINGS = (
    "Once upon a time, there was a {mood} {hero_kind} called {hero}. {She} lived {home}. "
    "One {weather} {time}, {she} woke up early. {sky}",
    "{Hero} was a {mood} {hero_kind} who lived {home}. It was a {weather} {time}. {sky}",
    "One {weather} {time}, a {mood} {hero_kind} called {hero} looked out of the window. {sky}",
    "There was once a {mood} {hero_kind} who lived {home}. {Her} name was {hero}. "
    "{sky} It was a {weather} {time}.",
    "It was a {weather} {time}. {sky} {Hero} the {hero_kind} lived {home}, "
    "and {friend} the {friend_kind} lived not far away.",
    "The {mood} {hero_kind} lived {home}, and everybody called {her_obj} {hero}. "
    "One {time} it was {weather}. {sky}",
)
CLOSINGS = (
    "From that day on, {hero} and {friend} were the best of friends.",
    "That night {hero} slept well and dreamed of the {thing}.",
    "And {hero} learned that a good friend is worth more than gold.",
    "So the day had a happy end after all.",
    "{Hero} never forgot that {weather} {time}.",
    "After that, {friend} came to visit every week.",
)
