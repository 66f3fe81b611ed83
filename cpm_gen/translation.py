"""Messages for people in the language that they ask for: the environment of a command, or the header of a request.

Everywhere else messages are English: in errors, logs, JSON, stored works, and what processes send each other. They are translated where
they are shown, by their text (:mod:`cpm_gen.catalogue`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_LANGUAGES = {"zh": "zh_CN"}  # the first letters of a locale, and the catalogue
_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set counts


def language_of(environment: Mapping[str, str]) -> str:
    """The catalogue for an environment, chosen as gettext does: ``zh_CN``, or ``en``.

    LANGUAGE is a list and comes first, except in the locale C.
    """
    locale = next((environment[name] for name in _VARIABLES if environment.get(name)), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return "en"
    for wanted in (*environment.get("LANGUAGE", "").split(":"), locale):
        short = wanted[:2].lower()
        if short == "en":
            return "en"
        if short in _LANGUAGES:
            return _LANGUAGES[short]
    return "en"


def language_of_request(accepted: str) -> str:
    """The catalogue for the value of an Accept-Language header: by the language that it names first."""
    return _LANGUAGES.get(accepted.strip()[:2].lower(), "en")


def translate(text: str, language: str) -> str:
    """A message in a language; the text itself in English, and where the catalogue does not have it."""
    if language == "en":
        return text
    from cpm_gen.catalogue import catalogue

    return catalogue(language).translate(text)


def localized(text: str) -> str:
    """A message in the language of this process's environment."""
    return translate(text, language_of(os.environ))
