"""Which finding is which truth: same class and at least one character in common, one to one."""

from collections.abc import Sequence

Span = tuple[int, int, str]


def pairs(found: Sequence[Span], truths: Sequence[Span]) -> list[tuple[int, int]]:
    """(index in ``found``, index in ``truths``) of each match. Equal stretches match first, then from left to right."""
    matched: list[tuple[int, int]] = []
    free = set(range(len(found)))
    open_truths = set(range(len(truths)))
    places: dict[Span, list[int]] = {}
    for index in reversed(range(len(found))):
        places.setdefault(found[index], []).append(index)
    for wanted in sorted(open_truths):
        if same := places.get(truths[wanted]):
            index = same.pop()
            matched.append((index, wanted))
            free.discard(index)
            open_truths.discard(wanted)
    for wanted in sorted(open_truths, key=lambda index: truths[index]):
        start, end, label = truths[wanted]
        overlapping = (
            index for index in free if found[index][2] == label and found[index][0] < end and start < found[index][1]
        )
        best = min(overlapping, key=lambda index: found[index], default=None)
        if best is not None:
            matched.append((best, wanted))
            free.discard(best)
    return matched
