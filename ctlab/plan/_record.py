"""`typing.NamedTuple` as far as operations need it, for modules that may not import `typing` (see `kernel.lean`)."""

from __future__ import annotations

from operator import itemgetter


class NamedTuple(tuple[object, ...]):
    """A tuple whose items have the names of the class's annotations, in their order; all must be given."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        for position, name in enumerate(cls._fields):
            setattr(cls, name, property(itemgetter(position)))

    def __new__(cls, *values: object, **named: object) -> NamedTuple:
        values += tuple(named.pop(name) for name in cls._fields[len(values) :] if name in named)
        if named or len(values) != len(cls._fields):
            raise TypeError(
                f"{cls.__name__} takes {', '.join(cls._fields)}: got {len(values)} values, {list(named)} beside"
            )
        return tuple.__new__(cls, values)

    def _replace(self, **changed: object) -> NamedTuple:
        values = [changed.pop(name, value) for name, value in zip(self._fields, self, strict=True)]
        return type(self)(*values, **changed)

    def __getnewargs__(self) -> tuple[object, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({fields})"
