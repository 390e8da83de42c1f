import pytest

from llava_ultra.recognition.bank import BankClass, ClassBank

CHEST = ClassBank(
    label="findings",
    separator="|",
    prompt="显示{class}。",
    classes=(
        BankClass(name="积液", values=("Effusion",), descriptions=("肋膈角变钝。", "弧形液面。")),
        BankClass(name="肿块", values=("Mass",)),
        BankClass(name="未见异常", values=("No Finding",)),
    ),
)


def test_a_class_without_descriptions_is_told_by_the_prompt():
    assert [text for _, text in CHEST.texts()] == [
        "肋膈角变钝。",
        "弧形液面。",
        "显示肿块。",
        "显示未见异常。",
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"findings": "Effusion|Mass"}, (0, 1)),
        ({"findings": "No Finding"}, (2,)),
        ({"findings": ""}, ()),
        ({}, ()),
    ],
)
def test_a_study_may_be_of_several_classes_or_of_none_that_is_known(labels, expected):
    assert CHEST.classes_of(labels) == expected


def test_a_class_may_have_a_label_of_its_own_whose_other_values_say_nothing():
    bank = ClassBank(
        label="kind",
        classes=(
            BankClass(name="a", values=("cyst",)),
            BankClass(name="none", label="finding", values=("0",)),
        ),
    )
    assert bank.labels == ("kind", "finding")
    assert bank.classes_of({"kind": "cyst", "finding": "1"}) == (0,)
    assert bank.classes_of({"finding": "0"}) == (1,)


def test_a_label_of_no_class_is_refused():
    with pytest.raises(ValueError, match=r"findings = 'Hernia' is of no class .* knows Effusion"):
        CHEST.classes_of({"findings": "Mass|Hernia"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [{"name": "a"}]}, "the bank has 1 class; .* give at least two"),
        ({"classes": [{"name": "a"}, {"name": "a"}]}, "two class names of the bank are equal: 'a'"),
        (
            {
                "classes": [
                    {"name": "a", "descriptions": ["x"]},
                    {"name": "b", "descriptions": ["x "]},
                ]
            },
            "two descriptions of the bank are equal: 'x'",
        ),
        (
            {"classes": [{"name": "a", "descriptions": [" "]}, {"name": "b"}]},
            "class 'a' has an empty description",
        ),
        (
            {
                "classes": [
                    {"name": "a", "descriptions": ["边缘毛刺"], "excludes": ["毛刺"]},
                    {"name": "b"},
                ]
            },
            "class 'a' names '毛刺', which the class excludes",
        ),
        ({"prompt": "no place", "classes": [{"name": "a"}, {"name": "b"}]}, "write {class}"),
    ],
)
def test_a_bank_that_cannot_tell_classes_apart_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ClassBank.model_validate(change)


def test_some_classes_of_a_bank_are_a_bank():
    assert CHEST.only({"积液", "未见异常"}).names == ("积液", "未见异常")
    with pytest.raises(ValueError, match="the bank has 1 class"):
        CHEST.only({"积液"})
