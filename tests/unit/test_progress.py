from __future__ import annotations

import time

from recoup.progress import Pace


def test_it_says_bytes_rate_and_what_is_left() -> None:
    pace = Pace("copied", 100_000_000, began=time.monotonic() - 10)
    assert pace.at(20_000_000) == "copied 20 of 100 MB, 2 MB/s, 40 s left"
    assert pace.at(100_000_000) == "copied 100 of 100 MB, 10 MB/s"


def test_it_claims_no_end_that_it_does_not_know() -> None:
    assert Pace("dumped", began=time.monotonic() - 10).at(20_000_000) == "dumped 20 MB, 2 MB/s"
    more = Pace("dumped", 10_000_000, began=time.monotonic() - 10).at(20_000_000)
    assert more == "dumped 20 of 10 MB, 2 MB/s", "a guess that was too small is no negative time"
    assert Pace("copied", 10_000_000).at(0) == "copied 0 of 10 MB, 0 MB/s"
