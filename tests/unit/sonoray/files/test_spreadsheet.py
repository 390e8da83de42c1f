import pytest

from sonoray.files.spreadsheet import describe_damage, find_damage


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("4.40106E+17", "rounded_identifier"),
        ("2.02411E+14", "rounded_identifier"),
        ("4.4010619900101123E17", "rounded_identifier"),
        ("4,40106E+17", "rounded_identifier"),
        ("1e+17", "rounded_identifier"),
        ("123.0", "reformatted_identifier"),
        ("1,234,567", "reformatted_identifier"),
        ("#N/A", "empty_identifier"),
        ("########", "empty_identifier"),
        ("nan", "empty_identifier"),
    ],
)
def test_a_value_that_a_spreadsheet_made_is_told_by_itself(value, reason):
    assert find_damage(["P1", value, ""]) == {value: reason}


def test_what_only_looks_alike_is_none():
    good = [
        "P1",
        "1E5",
        "2E-3",
        "1.2.840.1",
        "v1.0",
        "王晓明",
        "12E",
        "440106199001011234",
        "-",
        "1",
    ]
    assert find_damage(good) == {}
    assert find_damage(["1.0", "1.1", "2.0"]) == {}  # a number after the dot that means something
    assert find_damage(map(str, range(90, 120))) == {}
    assert find_damage(["20241128000001000"]) == {}  # one alone may be chance


def test_long_numbers_that_all_end_in_zeros_were_cut_to_fifteen_digits():
    numbers = ["440106199001011000", "440106198512030000", "310104197707070000"]
    assert find_damage(numbers) == dict.fromkeys(numbers, "rounded_identifier")
    whole = [f"4401061990010{number:05d}" for number in range(1, 3000)]
    assert find_damage(whole) == {}  # three of them end in 000 by chance
    many = [f"3101041977{number:05d}000" for number in range(30)]
    assert find_damage([*whole, *many]).keys() >= set(many)


def test_long_numbers_that_are_all_floats_were_cut_to_53_bits():
    numbers = [str(int(float(f"44010619900101{number:04d}"))) for number in (1237, 4561, 7893)]
    assert find_damage(numbers) == dict.fromkeys(numbers, "rounded_identifier")


def test_numbers_without_the_leading_zeros_of_others_lost_theirs():
    reason = "shortened_identifier"
    assert find_damage(["00123", "123"]) == {"123": reason}
    assert find_damage(["0012345", "0099999", "54321", "1000001"]) == {"54321": reason}
    assert find_damage(["0012345", "0099999", "12345678"]) == {}  # wider ones stand there as well
    assert find_damage(["007", "08", "9"]) == {}  # no width in common


def test_the_problem_names_the_column_and_how_to_export_it_and_not_the_value():
    problem = describe_damage("rounded_identifier", "line 3, column patient")
    assert problem.startswith("rounded_identifier: line 3, column patient has a number that was ")
    assert "export the column as text (Excel:" in problem
