"""What the far proxy answers where the target said nothing of an instance.

Both are in the range of C-STORE's "out of resources" (PS3.4 table B.2-1), so whoever does not know
them tries again later, which is right. They never leave the two proxies.
"""

from __future__ import annotations

from typing import Final

#: The target cannot be reached, rejects the association, or broke it off.
TARGET_AWAY: Final = 0xA7F0
#: It was not tried, for one before it was not taken.
UNTRIED: Final = 0xA7F1

#: C-STORE operations that may be under way on one stream (PS3.7 D.3.3.3).
WINDOW: Final = 32
