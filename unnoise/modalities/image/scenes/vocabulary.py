"""The words of a world: what its things are called, which colours they have, and what else means the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (222, 38, 38), "orange": (250, 140, 10), "yellow": (250, 214, 20), "green": (40, 160, 60), "blue": (35, 85, 225),
    "purple": (140, 50, 190), "pink": (250, 130, 190), "brown": (128, 78, 38), "grey": (140, 140, 146), "black": (30, 30, 34),
}  # fmt: skip
"""What things can be coloured, as drawn (sRGB)."""

BACKDROPS: Mapping[str, tuple[int, int, int]] = {
    "white": (255, 255, 255), "cream": (253, 245, 222), "mint": (220, 246, 228), "sky": (216, 236, 252), "lilac": (236, 228, 250),
    "silver": (228, 229, 232),
}  # fmt: skip
"""What lies behind: light, so that every colour of things stands out."""

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_IRREGULAR = {
    "fish": "fish", "sheep": "sheep", "mouse": "mice", "leaf": "leaves", "knife": "knives", "wolf": "wolves", "elf": "elves",
    "ox": "oxen", "die": "dice", "man": "men", "woman": "women", "person": "people", "child": "children", "tooth": "teeth",
    "foot": "feet", "goose": "geese", "quiz": "quizzes",
    "calf": "calves", "loaf": "loaves", "shelf": "shelves", "thief": "thieves", "scarf": "scarves", "hoof": "hooves",
    "life": "lives",
    "tomato": "tomatoes", "potato": "potatoes", "hero": "heroes", "mosquito": "mosquitoes", "lens": "lenses", "gas": "gases",
    "canvas": "canvases", "iris": "irises", "snowman": "snowmen", "fireman": "firemen", "policeman": "policemen",
    "grandchild": "grandchildren", "deer": "deer", "reindeer": "reindeer", "goldfish": "goldfish", "starfish": "starfish",
    "jellyfish": "jellyfish", "blowfish": "blowfish",
}  # fmt: skip


_IE = (
    "cookie", "zombie", "selfie", "movie", "genie", "brownie", "smoothie", "hoodie", "necktie", "axe", "headache", "moustache",
    "lacrosse", "avalanche", "mustache", "cache", "quiche", "toothache", "magpie", "collie", "birdie", "pixie",
)  # fmt: skip
_SINGULARS = {several: one for one, several in _IRREGULAR.items()} | {word + "s": word for word in _IE}
"""Plurals that the rules of `singular` would take for others."""
_ALIKE = frozenset({
    "pants", "jeans", "shorts", "trousers", "scissors", "sunglasses", "eyeglasses", "goggles", "headphones", "binoculars", "series",
})  # fmt: skip
"""Nouns that say no number."""


def plural(name: str) -> str:
    """The plural of a noun, by the rules of English and the few exceptions that drawn things have."""
    *before, last = name.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last])


def singular(noun: str) -> str:
    """The noun of which this is the plural; where several could be (buses, houses), the likelier one."""
    *before, last = noun.split(" ")
    if last in _ALIKE:
        return noun
    if last in _SINGULARS:
        last = _SINGULARS[last]
    elif last.endswith("ies") and len(last) > 4:  # pies, ties
        last = last[:-3] + "y"
    elif last.endswith(("sses", "xes", "zzes", "ches", "shes")) or (last.endswith("uses") and not last.endswith("ouses")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith("ss"):
        last = last[:-1]
    return " ".join([*before, last])


@dataclass(frozen=True)
class Vocabulary:
    """names: singular nouns, one or more words each, lower case. colours: none for sprites with colours of their own."""

    names: tuple[str, ...]
    colours: tuple[str, ...] = tuple(COLOURS)
    backdrops: tuple[str, ...] = tuple(BACKDROPS)

    @cached_property
    def nouns(self) -> Mapping[str, str]:
        """Every form of every name -> the name."""
        return {plural(n): n for n in self.names} | {n: n for n in self.names}


SHAPES = (
    "circle", "square", "triangle", "diamond", "star", "heart", "ring", "cross", "arrow", "moon", "tree", "house", "fish", "cup",
    "apple", "flower",
)  # fmt: skip
"""What `shapes` draws."""
DRAWN = Vocabulary(SHAPES)

_SIGN_WORDS = """
    OPEN CLOSED STOP GO YES NO HELLO WELCOME EXIT ENTER SALE FREE HOT COLD TEA CAFE COFFEE BAKERY BREAD MILK MARKET SHOP
    STORE HOTEL BANK POST TAXI BUS TRAIN METRO PARK ZOO MUSEUM LIBRARY SCHOOL HOSPITAL PHARMACY POLICE FIRE DANGER CAUTION
    SLOW FAST LEFT RIGHT UP DOWN NORTH SOUTH EAST WEST PUSH PULL HELP INFO TICKETS PARKING TOILET WATER BEACH GARDEN FOREST
    BRIDGE STREET ROAD AVENUE KITCHEN PIZZA BURGER SALAD SOUP RICE FISH FRUIT APPLE LEMON BERRY CANDY CAKE SUGAR SALT HONEY
    BOOKS MUSIC CINEMA THEATRE DANCE LOVE PEACE HAPPY BIRTHDAY PARTY WINTER SUMMER SPRING AUTUMN MONDAY FRIDAY SUNDAY TODAY
    TONIGHT NOW LATER QUIET PLEASE THANKS SORRY DOG CAT BIRD HORSE RABBIT FARM BARN HOUSE HOME ROOM DOOR WINDOW KEY LOCK BOX
    GIFT TOY GAME BALL BIKE BOAT SHIP PLANE ROCKET MOON STAR SUN SKY RAIN SNOW WIND CLOUD RAINBOW MAGIC DREAM WISH LUCKY
    QUEEN KING KNIGHT DRAGON WIZARD GHOST MOUSE JAZZ QUIZ VISIT EXPRESS JUNGLE VILLAGE PUZZLE ORCHID PYJAMAS FLOWERS ELEPHANT
    KANGAROO MOUNTAIN UNIVERSE
"""
SIGN_WORDS = tuple(_SIGN_WORDS.split())
"""What signs are likely to bear; half of them have one of these, the other half letters in any order."""
