"""Little stories from a grammar: a hero, a friend, a thing, a trouble with a cause, help, and a closing line.

A story is one opening, one sentence from each beat of a plot, and one closing. One cast fills their slots for the
whole story, so that names, pronouns and things agree from the first line to the last. No story contains a digit:
numbers belong to the sums alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from swarm.builtin.plots import (
    ANIMALS,
    CLOSINGS,
    FRIEND_BOYS,
    FRIEND_GIRLS,
    HERO_BOYS,
    HERO_GIRLS,
    HOMES,
    MOODS,
    OPENINGS,
    PLOTS,
    Plot,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Story:
    """A finished story and what it is about, in words that fit after "a story about", the likeliest first."""

    text: str
    topics: tuple[str, ...]


def tell(rng: Random) -> Story:
    """A new story; the same state of `rng` gives the same story."""
    plot = _pick(rng, PLOTS)
    slots = _cast(rng, plot)
    parts = [_pick(rng, OPENINGS), *(_pick(rng, beat) for beat in plot.beats), _pick(rng, CLOSINGS)]
    text = " ".join(part.format_map(slots) for part in parts)
    day = f"a {plot.weather} {slots['time']}"
    topics = (
        f"a {slots['hero_kind']}",
        f"a {slots['thing']}",
        slots["hero"],
        f"{slots['hero']} the {slots['hero_kind']}",
        f"{slots['hero']} and {slots['friend']}",
        day,
    )
    return Story(_with_articles(text), tuple(_with_articles(topic) for topic in topics))


def _with_articles(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=apple|owl|old)", r"\1n ", text)


def _pick(rng: Random, options: Sequence[T]) -> T:
    # Earlier options come up more often, so that greedy decoding meets few near ties.
    return options[int(len(options) * rng.random() ** 1.5)]


def _cast(rng: Random, plot: Plot) -> dict[str, str]:
    hero = _character(rng, "hero", HERO_GIRLS, HERO_BOYS)
    friend = _character(rng, "friend", FRIEND_GIRLS, FRIEND_BOYS)
    while friend["friend_kind"] == hero["hero_kind"]:
        friend = _character(rng, "friend", FRIEND_GIRLS, FRIEND_BOYS)
    return {
        **hero,
        **{name.removeprefix("hero_"): word for name, word in hero.items() if name != "hero_kind"},
        **friend,
        "mood": _pick(rng, MOODS),
        "home": _pick(rng, HOMES),
        "time": "night" if plot.weather == "dark" else _pick(rng, ("morning", "day", "evening")),
        "weather": plot.weather,
        "sky": _pick(rng, plot.sky),
        "thing": _pick(rng, plot.things),
    }


def _character(rng: Random, role: str, girls: Sequence[str], boys: Sequence[str]) -> dict[str, str]:
    girl = rng.random() < 0.5
    name = _pick(rng, girls if girl else boys)
    kind = ("girl" if girl else "boy") if rng.random() < 0.1 else _pick(rng, ANIMALS)
    she, her, her_obj = ("she", "her", "her") if girl else ("he", "his", "him")
    return {
        role: name,
        role.capitalize(): name,
        f"{role}_kind": kind,
        f"{role}_she": she,
        f"{role}_She": she.capitalize(),
        f"{role}_her": her,
        f"{role}_Her": her.capitalize(),
        f"{role}_her_obj": her_obj,
    }
