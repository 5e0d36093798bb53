"""The words of the rules: five for every number, from the least to the most.

Each word belongs to one number as far as English allows it, so that an encoder that reads words without their order
still tells them apart.
"""

from __future__ import annotations

Words = tuple[str, str, str, str, str]

WORDING = 1  # raise it when other words are chosen: texts kept of the former are then never found again

PICTURE: dict[str, Words] = {  # measures of a picture
    "share": ("scarce marks", "sparse marks", "moderate marks", "ample marks", "dense marks"),
    "parts": ("hardly in pieces", "in few pieces", "in several pieces", "in many pieces", "in countless pieces"),
    "part_size": ("tiny specks", "small specks", "middling flecks", "large flecks", "huge areas"),
    "largest": ("evenly split", "loosely split", "partly joined", "mostly joined", "nearly whole"),
    "spread": ("tightly packed", "compact", "loose", "scattered", "sprawling"),
    "core": ("vacant middle", "thin middle", "filled middle", "crowded middle", "stuffed middle"),
    "apart": ("no strays", "rare strays", "some strays", "frequent strays", "abundant strays"),
    "brightness": ("dark picture", "dusky picture", "grey picture", "pale picture", "bright picture"),
    "contrast": ("faint contrast", "weak contrast", "fair contrast", "strong contrast", "stark contrast"),
    "polarity": ("black on its ground", "darker than its ground", "close to its ground", "lighter than its ground",
                 "gleaming on its ground"),
    "skew": ("deep shadows", "mild shadows", "balanced tones", "soft highlights", "glaring highlights"),
    "roughness": ("polished surface", "smooth surface", "grainy surface", "rough surface", "coarse surface"),
    "coherence": ("tangled lines", "mixed lines", "partly aligned lines", "aligned lines", "parallel lines"),
    "width": ("narrow frame", "slim frame", "usual frame", "wide frame", "broad frame"),
    "height": ("flat frame", "low frame", "even frame", "high frame", "tall frame"),
    "aspect": ("upright format", "portrait format", "square format", "landscape format", "panorama format"),
}  # fmt: skip
SENTENCES = (  # measures that stand in one sentence
    ("share", "parts", "part_size", "largest"),
    ("spread", "core", "apart"),
    ("brightness", "contrast", "polarity", "skew"),
    ("roughness", "coherence"),
    ("width", "height", "aspect"),
)
RECORD: dict[str, Words] = {  # quantities of a record
    "distance": ("central", "near", "aside", "distant", "remote"),
    "sd x": ("thin", "narrow", "moderate width", "wide", "broad"),
    "sd y": ("flat", "short", "moderate height", "tall", "towering"),
    "spread": ("packed", "compact", "loose", "scattered", "sprawling"),
    "hits": ("rare", "few", "several", "many", "numerous"),
    "half radius": ("dense core", "firm core", "soft core", "hollow core", "empty core"),
    "reach": ("slight reach", "modest reach", "usual reach", "long reach", "vast reach"),
    "width px": (
        "thin",
        "narrow",
        "moderate width",
        "wide",
        "broad",
    ),  # of a box, as `dsmoe-yolo data crops` records it
    "height px": ("flat", "short", "moderate height", "tall", "towering"),
    "aspect": ("upright", "portrait", "square", "landscape", "panorama"),
    "area share": ("tiny", "small", "medium", "large", "huge"),
    "center x": ("leftmost", "left", "midway", "right", "rightmost"),
    "center y": ("topmost", "upper", "halfway", "lower", "bottommost"),
}
MEASURED = PICTURE | {"offset": RECORD["distance"]}  # measures that are told in place of a record
OTHER: Words = ("lowest", "lower", "middling", "higher", "highest")  # any other number
# Distance from the centre, right or left and above or below; the adverbs of the two axes differ.
SIDES: tuple[tuple[Words, Words], tuple[Words, Words]] = (
    (
        ("hardly right", "slightly right", "clearly right", "far right", "extremely right"),
        ("hardly left", "slightly left", "clearly left", "far left", "extremely left"),
    ),
    (
        ("barely above", "somewhat above", "noticeably above", "high above", "utterly above"),
        ("barely below", "somewhat below", "noticeably below", "deep below", "utterly below"),
    ),
)
# Of two normal deviates the length exceeds these by chance in 1 of 3, 1 of 20 and 3 of 1000 (Rayleigh's law).
CHANCE = (1.48, 2.45, 3.41)
STRETCHED = ("round", "perhaps elongated", "elongated", "distinctly elongated")
AXES = ("horizontally", "diagonally rising", "vertically", "diagonally falling")
