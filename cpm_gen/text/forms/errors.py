"""What is wrong with a form."""

from __future__ import annotations

from cpm_gen.errors import InputError


class FormError(InputError):
    """A form that cannot be read or kept. Line and column count from 1; 0: the form as a whole."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        place = f", line {line}" * bool(line) + f", column {column}" * bool(column)
        super().__init__(f"form{place}: {message}")
        self.message, self.line, self.column = message, line, column
