"""The phantom's Chinese: captions, reports, questions and answers."""

from sonoray.phantom.anatomy import Organ
from sonoray.phantom.lesion import Echogenicity, Kind, Lesion, Margin, Posterior, Side, SizeClass
from sonoray.phantom.wording import Wording

_ORGANS = {Organ.THYROID: "甲状腺", Organ.BREAST: "乳腺", Organ.LIVER: "肝脏"}
_SIDES = {Side.LEFT: "左侧", Side.RIGHT: "右侧"}
_ECHOES = {
    Echogenicity.ANECHOIC: "无回声",
    Echogenicity.HYPO: "低回声",
    Echogenicity.ISO: "等回声",
    Echogenicity.HYPER: "高回声",
}
_MARGINS = {Margin.SMOOTH: "光滑", Margin.SPICULATED: "毛刺"}
_KINDS = {
    Kind.CYST: "囊肿",
    Kind.BENIGN: "良性结节",
    Kind.MALIGNANT: "恶性结节",
    Kind.CALCIFIED: "钙化灶",
}
_POSTERIORS = {
    Posterior.NONE: "",
    Posterior.SHADOW: "，后方见声影",
    Posterior.ENHANCEMENT: "，后方回声增强",
}


def _place_name(organ: Organ, side: Side) -> str:
    if organ is Organ.BREAST:
        return _SIDES[side] + _ORGANS[organ]
    return _ORGANS[organ] + _SIDES[side][0] + "叶"


def _finding_sentence(organ: Organ, lesion: Lesion, size_mm: float, wording: int) -> str:
    place, echo = _place_name(organ, lesion.side), _ECHOES[lesion.echogenicity]
    margin = f"边缘{_MARGINS[lesion.margin]}"
    calcification = "内见钙化" if lesion.calcified else "未见钙化"
    size = f"大小约{round(size_mm)}毫米"
    posterior = _POSTERIORS[lesion.posterior]
    if wording == 0:
        return f"{place}见{echo}病灶，{size}，{margin}，{calcification}{posterior}。"
    return f"{place}探及{echo}病灶，{margin}，{calcification}，{size}{posterior}。"


def _normal_sentence(place: str, wording: int) -> str:
    return (f"{place}回声均匀，未见病灶。", f"{place}未见病灶，回声均匀。")[wording]


def _impression(organ: Organ, lesion: Lesion | None) -> str:
    if lesion is None:
        return f"提示：{_ORGANS[organ]}未见异常。"
    return f"提示：{_place_name(organ, lesion.side)}{_KINDS[lesion.kind]}。"


CHINESE = Wording(
    organs=_ORGANS,
    sides=_SIDES,
    echoes=_ECHOES,
    margins=_MARGINS,
    kinds=_KINDS,
    sizes={
        SizeClass.SMALL: "病灶较小。",
        SizeClass.MEDIUM: "病灶中等。",
        SizeClass.LARGE: "病灶较大。",
    },
    advice={
        Kind.CYST: "建议每年复查。",
        Kind.BENIGN: "建议半年后复查。",
        Kind.MALIGNANT: "建议穿刺活检。",
        Kind.CALCIFIED: "建议每年复查。",
    },
    presence={True: "有", False: "无"},
    pathology={False: "良性", True: "恶性"},
    place_name=_place_name,
    finding_sentence=_finding_sentence,
    normal_sentence=_normal_sentence,
    impression=_impression,
    between_sentences="",
    questions={
        "report": ("请写出超声报告。", "请描述这组超声图像。"),
        "organ": ("检查的是哪个器官？", "这是什么器官？"),
        "finding": ("图像中有无病灶？", "有没有看到病灶？"),
        "echogenicity": ("病灶是什么回声？", "病灶的回声如何？"),
        "margin": ("病灶边缘光滑还是毛刺？", "病灶的边缘如何？"),
        "calcification": ("病灶内有无钙化？", "病灶有钙化吗？"),
        "pathology": ("病灶是良性还是恶性？", "病灶的性质如何？"),
        "side": ("病灶在左侧还是右侧？", "病灶在哪一侧？"),
        "size": ("病灶有多大？", "病灶的大小如何？"),
        "recommendation": ("下一步如何处理？", "有什么建议？"),
    },
)
