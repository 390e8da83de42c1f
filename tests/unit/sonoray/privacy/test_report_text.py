import pytest

from sonoray.privacy.report_text import clean_text
from sonoray.study.identifiers import Identifiers

KNOWN = Identifiers(
    names=("Qxvor^Bantel=钱^三丰=qian^sanfeng", "李娜"),
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
        ("姓名：甲　乙　性别：男", "姓名：[姓名]　性别：男"),
        ("姓名:甲 乙", "姓名:[姓名]"),
        ("李　娜，女；李 娜", "[姓名]，女；[姓名]"),
        ("检查医师：甲乙丙审核医师：丁戊", "检查医师：[姓名]审核医师：[姓名]"),
        ("检查医师：甲乙丙检查日期：2024-03-05", "检查医师：[姓名]检查日期：[日期]"),
        ("姓名：甲乙丙先生", "姓名：[姓名]先生"),
        ("姓名：古丽巴哈尔女", "姓名：[姓名]女"),
        ("患者：阿不都热合曼，男", "患者：[姓名]，男"),
        ("姓名：甲乙丙丁戊己庚辛壬癸", "姓名：[姓名]戊己庚辛壬癸"),
        ("Name: wang xiaoming, male", "Name: [姓名], male"),
        ("Name: Müller, Jürgen", "Name: [姓名]"),
        ("Patient: José García presents", "Patient: [姓名] presents"),
        ("编号No.20231234，检查号:No.1234", "编号No.[编号]，检查号:No.[编号]"),
        ("US.20230567", "US.[编号]"),
        ("Patient8812345 in HOSPITAL123456", "Patient[编号] in HOSPITAL[编号]"),
        ("MRN# 1234, medical record number: 5678", "MRN# [编号], medical record number: [编号]"),
        ("片号：U12345，放射号 543", "片号：[编号]，放射号 [编号]"),
        ("05/17/24, 17.05.24, 5/17/24.", "[日期], [日期], [日期]."),
        ("24年5月17日。Seen 2024-05-17.", "[日期]。Seen [日期]."),
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
        "0.123456、1.2345678，-0.1234567 .123456",
        "Apgar 8/9/10，G1/P1，3/12",
        "姓名：　性别：女　检查者：\n超声所见：患者：女 孕12周",
        "Patient: presents with pain",
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


@pytest.mark.parametrize("run", [" ", "ID", "ID-", "ID1-", "a1", "a", "a@", "阿", "姓名:", "地址:"])
def test_a_long_run_of_anything_is_read_in_time(run):
    """A pattern whose time grows with the square of it is ended by pytest's limit."""
    text = "住院号" + run * (300_000 // len(run))
    cleaned = clean_text(f"{text}。检查医师：甲乙丙。").text
    assert cleaned.endswith("。检查医师：[姓名]。")
    if run in (" ", "a", "阿", "姓名:", "ID"):
        assert cleaned == f"{text}。检查医师：[姓名]。"


def test_known_values_are_in_no_repr():
    assert "Qxvor" not in repr(KNOWN)
    assert "某" not in repr(clean_text("某大学附属医院"))
