"""Mentions of one thing brought together: whoever says least joins whoever says the same and more."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def merged(
    items: Sequence[Item],
    key: Callable[[Item], Key],
    details: Callable[[Item], Mapping[str, str]],
    *,
    lends_date: Callable[[Item], bool] = lambda _: False,
) -> list[list[Item]]:
    """Groups in the order of their first mention, in each the item that says most before the others.

    Items of one key whose details contradict each other (another dose, another day) stay apart. An item that
    ``lends_date`` joins an undated one: "apixaban was started on 4 May" dates "apixaban 5 mg" in the list of medicines.
    """
    groups: dict[Key, list[list[int]]] = {}
    said = [{name: value.casefold() for name, value in details(item).items() if value} for item in items]

    def weight(index: int) -> int:
        return len(said[index]) - (lends_date(items[index]) and "date" in said[index])

    for index in sorted(range(len(items)), key=lambda index: -weight(index)):
        same = groups.setdefault(key(items[index]), [])
        mine = said[index]
        undated = {name: value for name, value in mine.items() if name != "date"} if lends_date(items[index]) else mine
        home = next(
            (
                group
                for group in same
                if _contained(mine, said[group[0]])
                or ("date" not in said[group[0]] and _contained(undated, said[group[0]]))
            ),
            None,
        )
        if home is None:
            same.append([index])
            continue
        home.append(index)
        if "date" in mine:
            said[home[0]].setdefault("date", mine["date"])
    ordered = sorted((group for same in groups.values() for group in same), key=min)
    return [[items[index] for index in group] for group in ordered]


def _contained(less: Mapping[str, str], more: Mapping[str, str]) -> bool:
    # "Ferritin 6 ug/L" and "low ferritin" are the same result: the number says more than the word.
    return all(
        more.get(name) == value or (name == "value" and not _digits(value) and _digits(more.get(name, "")))
        for name, value in less.items()
    )


def _digits(text: str) -> bool:
    return any(character.isdigit() for character in text)
