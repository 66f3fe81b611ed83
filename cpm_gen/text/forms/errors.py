"""What is wrong with a form."""

from __future__ import annotations

from cpm_gen.errors import InputError


class FormError(InputError):
    """A form that cannot be read or kept. Line and column count from 1; 0: the whole. what: the form, or the setting that it is in."""

    def __init__(self, message: str, line: int = 0, column: int = 0, what: str = "form") -> None:
        place = f"{what}, line {line}" if line else what
        if column:
            place = f"{place}, column {column}"
        super().__init__(f"{place}: {message}")
        self.message, self.line, self.column, self.what = message, line, column, what
