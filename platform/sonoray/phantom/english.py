"""The phantom's English: captions, reports, questions and answers."""

from sonoray.phantom.anatomy import Organ
from sonoray.phantom.lesion import Echogenicity, Kind, Lesion, Margin, Posterior, Side, SizeClass
from sonoray.phantom.wording import Wording

_ORGANS = {Organ.THYROID: "thyroid", Organ.BREAST: "breast", Organ.LIVER: "liver"}
_SIDES = {Side.LEFT: "left", Side.RIGHT: "right"}
_ECHOES = {
    Echogenicity.ANECHOIC: "anechoic",
    Echogenicity.HYPO: "hypoechoic",
    Echogenicity.ISO: "isoechoic",
    Echogenicity.HYPER: "hyperechoic",
}
_MARGINS = {Margin.SMOOTH: "smooth", Margin.SPICULATED: "spiculated"}
_KINDS = {
    Kind.CYST: "cyst",
    Kind.BENIGN: "benign nodule",
    Kind.MALIGNANT: "malignant nodule",
    Kind.CALCIFIED: "calcified lesion",
}
_POSTERIORS = {
    Posterior.NONE: "",
    Posterior.SHADOW: ", with posterior shadowing",
    Posterior.ENHANCEMENT: ", with posterior enhancement",
}


def _place_name(organ: Organ, side: Side) -> str:
    if organ is Organ.BREAST:
        return f"{_SIDES[side]} {_ORGANS[organ]}"
    return f"{_SIDES[side]} lobe of the {_ORGANS[organ]}"


def _finding_sentence(organ: Organ, lesion: Lesion, size_mm: float, wording: int) -> str:
    place, echo = _place_name(organ, lesion.side), _ECHOES[lesion.echogenicity]
    article = "an" if echo[0] in "ai" else "a"
    margin = f"a {_MARGINS[lesion.margin]} margin"
    calcification = "internal calcifications" if lesion.calcified else "no calcifications"
    posterior = _POSTERIORS[lesion.posterior]
    if wording == 0:
        return (
            f"The {place} shows {article} {echo} lesion of about {round(size_mm)} mm with {margin} "
            f"and {calcification}{posterior}."
        )
    return (
        f"In the {place} there is {article} {echo} lesion with {margin} and {calcification}, about "
        f"{round(size_mm)} mm in size{posterior}."
    )


def _normal_sentence(place: str, wording: int) -> str:
    return (
        f"The {place} is homogeneous, without a lesion.",
        f"No lesion is seen in the {place}, which is homogeneous.",
    )[wording]


def _impression(organ: Organ, lesion: Lesion | None) -> str:
    if lesion is None:
        return f"Impression: normal {_ORGANS[organ]}."
    return f"Impression: {_KINDS[lesion.kind]} in the {_place_name(organ, lesion.side)}."


ENGLISH = Wording(
    organs=_ORGANS,
    sides=_SIDES,
    echoes=_ECHOES,
    margins=_MARGINS,
    kinds=_KINDS,
    sizes={
        SizeClass.SMALL: "The lesion is small.",
        SizeClass.MEDIUM: "The lesion is of medium size.",
        SizeClass.LARGE: "The lesion is large.",
    },
    advice={
        Kind.CYST: "Follow-up every year is recommended.",
        Kind.BENIGN: "Follow-up after six months is recommended.",
        Kind.MALIGNANT: "A biopsy is recommended.",
        Kind.CALCIFIED: "Follow-up every year is recommended.",
    },
    presence={True: "yes", False: "no"},
    pathology={False: "benign", True: "malignant"},
    place_name=_place_name,
    finding_sentence=_finding_sentence,
    normal_sentence=_normal_sentence,
    impression=_impression,
    between_sentences=" ",
    questions={
        "report": (
            "Please write the ultrasound report.",
            "Please describe these ultrasound images.",
        ),
        "organ": ("Which organ is examined?", "What organ is this?"),
        "finding": ("Is there a lesion in the images?", "Is a lesion seen?"),
        "echogenicity": (
            "What is the echogenicity of the lesion?",
            "How echogenic is the lesion?",
        ),
        "margin": (
            "Is the margin of the lesion smooth or spiculated?",
            "What is the margin of the lesion like?",
        ),
        "calcification": (
            "Are there calcifications in the lesion?",
            "Does the lesion contain calcifications?",
        ),
        "pathology": (
            "Is the lesion benign or malignant?",
            "What is the nature of the lesion?",
        ),
        "side": ("Is the lesion on the left or the right?", "On which side is the lesion?"),
        "size": ("How large is the lesion?", "What is the size of the lesion?"),
        "recommendation": ("What should be done next?", "What do you recommend?"),
    },
)
