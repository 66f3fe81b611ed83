"""The argument parser in the language of the locale. Its errors are one line, with the command or flag that was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from cpm_gen.cli.wide_text import wrap
from cpm_gen.errors import ConfigError
from cpm_gen.translation import localized

SHELLS = ("bash", "zsh")
_DASHES = str.maketrans("—–―−－", "-----")  # what input methods for Chinese type for -
_DASH = "a text that begins with - is given as --prompt=TEXT, or after --"


class _Help(argparse.HelpFormatter):
    """Translates what argparse and the flags say, and counts the columns of wide characters."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, localized("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and localized(heading))

    def add_text(self, text: str | None) -> None:
        super().add_text(text and localized(text))

    def _expand_help(self, action: argparse.Action) -> str:
        return localized(super()._expand_help(action))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrap(text, width - len(indent)))


class Parser(argparse.ArgumentParser):
    """One line instead of a usage page when the flags are wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help} | options)
        self._given: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does; the words are kept for hints, as one that is no flag may have been taken for a text."""
        self._given = sys.argv[1:] if args is None else args
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the message, and what was probably meant; end with status 2."""
        said = localized(message + self._hint(message))
        more = localized(f" (see {self.prog} --help)")
        self.exit(2, f"{self.prog}: {said}{more}\n")

    def _hint(self, message: str) -> str:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from", message):
            return _near(found[1], self._commands())
        if found := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
            left = found[1].split()
            for word in (*left[:1], *(w for w in self._given if w[:1].translate(_DASHES) != w[:1])):
                flag = word.partition("=")[0].translate(_DASHES)
                if re.fullmatch(r"--?[A-Za-z][\w-]*", flag):
                    return _near(flag, self._flags())
            return f"; {_DASH}" if left and left[0].startswith("-") else ""
        if message.startswith(("argument --prompt:", "argument --stop:")) and "expected one argument" in message:
            return f"; a value that begins with - is given as --{message[11:].partition(':')[0].strip('-')}=TEXT"
        return ""

    def _subparsers_of(self) -> Iterable[argparse._SubParsersAction[Any]]:
        return (action for action in self._actions if isinstance(action, argparse._SubParsersAction))

    def _commands(self) -> list[str]:
        return [name for action in self._subparsers_of() for name in action.choices]

    def _flags(self) -> list[str]:
        own = [flag for action in self._actions if action.help != argparse.SUPPRESS for flag in action.option_strings]
        for action in self._subparsers_of():
            for parser in action.choices.values():
                own += [flag for a in parser._actions for flag in a.option_strings]
        return list(dict.fromkeys(own))


def _near(word: str, known: Iterable[str]) -> str:
    names = {name.lstrip("-"): name for name in known}  # the dashes make any two flags alike
    near = difflib.get_close_matches(word.lstrip("-"), list(names), n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""


class PrintCompletion(argparse.Action):
    """``--print-completion bash|zsh``: print the shell's completion script, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print and end."""
        import shtab

        from cpm_gen.cli.main import build_parser

        sys.stdout.write(shtab.complete(build_parser(), shell=str(values)))
        raise SystemExit(0)


def install_hint(module: str | None, extra: str, what: str) -> ConfigError:
    """The error for a library that an extra brings, or that Windows does not have."""
    if module in ("resource", "fcntl"):
        return ConfigError(f"{what} runs on Linux and macOS; on Windows it runs in WSL, which is supported")
    return ConfigError(f"{what} needs {module}: pip install -c constraints.txt -e '.[{extra}]' in the checkout")
