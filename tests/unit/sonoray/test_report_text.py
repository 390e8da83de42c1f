import pytest

from sonoray.report_text import Identifiers, clean_text

KNOWN = Identifiers(
    names=("Qxvor^Bantel=钱^三丰=qian^sanfeng",),
    numbers=("PX-0042", "12"),
    places=("某大学附属医院",),
)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("患者：甲乙丙，男，45岁", "患者：[姓名]，男，45岁"),
        ("检查医师：李四  报告医生:王五/赵六", "检查医师：[姓名]  报告医生:[姓名]"),
        ("住院号：ZY12345，床号 12", "住院号：[编号]，床号 [编号]"),
        ("手机13812345678", "手机[电话]"),
        ("电话：010-12345678", "电话：[电话]"),
        ("身份证：110101199003074519", "身份证：[编号]"),
        ("a@b.com", "[邮箱]"),
        ("2024年3月5日 10:23复查", "[日期]复查"),
        ("2024-03-05", "[日期]"),
        ("20240305", "[日期]"),
        ("03/05/2024", "[日期]"),
        ("March 5, 2024", "[日期]"),
        ("5-Mar-2024", "[日期]"),
        ("二〇二四年三月五日", "[日期]"),
        ("检查号：2024-03-05-0017", "检查号：[编号]"),
        ("UID 1.2.840.113619.2.55", "UID [编号]"),
        ("Bantel Qxvor and QXVORBANTEL", "[姓名] and [姓名]"),
        ("钱三丰，三丰", "[姓名]，[姓名]"),
        ("Qian Sanfeng PX-0042", "[姓名] [编号]"),
        ("于某大学附属医院", "于[机构]"),
    ],
)
def test_what_identifies_is_replaced(text, cleaned):
    assert clean_text(text, KNOWN).text == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "大小约1.2×0.8cm，BI-RADS 4a，12点，3点钟方向，RI 0.65，20%，距乳头12mm，PSV 45.6cm/s",
        "左侧乳腺约_Loc_方向见一低回声结节，大小约_2DS_，距乳头_SCM_",
        "孕12周+3天，S/D 2.45，胎心率 145次/分，TI-RADS 3类",
    ],
)
def test_findings_stay(text):
    cleaned = clean_text(text, KNOWN, shift_days=3)
    assert cleaned.text == text
    assert not cleaned.replaced


def test_dates_that_can_be_read_in_one_way_move_in_their_own_form():
    text = "2024年3月5日、2024-03-05、2024/3/5、20240305、05/03/2024、2024年2月31日"
    cleaned = clean_text(text, shift_days=100)
    assert cleaned.text == ("2023年11月26日、2023-11-26、2023/11/26、20231126、[日期]、[日期]")
    assert cleaned.replaced == {"date": 6}


def test_known_values_are_in_no_repr():
    assert "Qxvor" not in repr(KNOWN)
    assert "某" not in repr(clean_text("某大学附属医院"))
