from sonoray_serve.replicas.kept import Kept


def test_what_was_used_longest_ago_goes_first():
    kept: Kept[str] = Kept(max_bytes=10)
    for key in (b"a", b"b"):
        kept.put(key, key.decode(), size_bytes=5)
    assert kept.get(b"a") == "a"
    kept.put(b"c", "c", size_bytes=4)
    assert [kept.get(key) for key in (b"a", b"b", b"c")] == ["a", None, "c"]
    assert (len(kept), kept.size_bytes) == (2, 9)


def test_the_budget_holds_whatever_comes():
    kept: Kept[str] = Kept(max_bytes=10)
    kept.put(b"large", "x", size_bytes=11)
    kept.put(b"a", "a", size_bytes=10)
    kept.put(b"a", "again", size_bytes=10)
    assert (kept.get(b"large"), kept.get(b"a"), kept.size_bytes) == (None, "a", 10)
    none: Kept[str] = Kept(max_bytes=0)
    none.put(b"a", "a", size_bytes=1)
    assert len(none) == 0
