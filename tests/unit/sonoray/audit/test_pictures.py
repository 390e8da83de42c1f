import numpy as np

from sonoray.audit.pictures import thumbnail


def test_an_outline_lies_around_the_mask_and_not_in_it():
    mask = np.zeros((300, 300), np.uint8)
    mask[100:200, 100:200] = 255
    plain, drawn = (
        np.asarray(thumbnail(np.full((300, 300), 90, np.uint8), each)).astype(int)
        for each in (None, mask)
    )
    yellow = (drawn != plain).any(axis=2)
    assert yellow[48:50, 60:90].all()
    assert not yellow[55:95, 55:95].any()
    assert not yellow[:40].any()
