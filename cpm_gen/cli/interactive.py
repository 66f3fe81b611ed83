"""The interactive session: a prompt line with history. Ctrl-C ends the text being written, not the session."""

from __future__ import annotations

import dataclasses
import signal
import sys
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from cpm_gen.cli.write import write
from cpm_gen.config.resolve import FIELDS, Settings, read_words
from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError, CpmGenError, RankError
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.text.forms.requested import requested_form
from cpm_gen.text.stories.requested import ends_itself, requested_story
from cpm_gen.translation import localized

HELP = """Type the beginning of a text and press Enter; Alt+Enter (Esc, then Enter) begins a new line.
Ctrl-C ends the text being written, Ctrl-D or /quit ends the session.
  /set                    show the settings that can be changed here
  /set temperature 0.8    change one
  /set unconditional true write without a prompt: Enter alone begins each text
  /set form 浣溪沙        write in a form; Enter alone begins from nothing
  /set story outline.txt  keep a story in sight; keep_lines takes a file, too
  /set form none          without a form again; likewise story, acrostic, include and others that begin empty
  /set candidates 8       write each sentence eight times and keep the best
  /help                   this text
  /quit                   end
"""


def interact(llm: TextEngine, settings: Settings) -> int:
    """Read prompts and write texts until /quit or Ctrl-D; returns 0."""
    sys.stdout.write(localized(f"cpm-gen, style {settings.text.style}. /help tells how, /quit ends.") + "\n")
    session: PromptSession[str] = PromptSession(
        history=_history(),
        multiline=True,
        key_bindings=_keys(),
        prompt_continuation="    … ",
        enable_open_in_editor=False,
    )
    while True:
        try:
            line = session.prompt(f"{settings.text.style} › ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return 0
        command = line.strip()
        unconditional = settings.text.unconditional
        if not command and not unconditional and not ends_itself(settings.text.form, settings.text.story):
            continue
        if command == "/quit":
            return 0
        try:
            if command == "/help":
                sys.stdout.write(localized(HELP))
            elif command.split()[:1] == ["/set"]:
                settings = _set(settings, command.split(maxsplit=2)[1:])
            elif command.startswith("/"):
                raise ConfigError(f"there is no command {command.split()[0]}; /help lists them")
            elif command and unconditional:
                raise ConfigError("unconditional is set: press Enter alone, or /set unconditional false for a prompt")
            else:
                options = dataclasses.replace(settings.text, unconditional=not command)  # as ends_itself says
                asked = dataclasses.replace(settings, text=options)
                ended = write(llm, line if command else None, asked, as_json=False, output=None)
                if ended not in (0, 128 + signal.SIGINT):
                    return ended
        except RankError:
            raise
        except CpmGenError as error:
            sys.stdout.write(localized(str(error)) + "\n")


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def submit(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    try:
        folder = user_folder("state")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "history").touch(mode=0o600)
    except (OSError, ConfigError):
        return InMemoryHistory()
    return FileHistory(folder / "history")


def _set(settings: Settings, words: list[str]) -> Settings:
    groups: dict[str, Any] = {"sampling": settings.sampling, "text": settings.text}
    names = {f.name: group for group, value in groups.items() for f in dataclasses.fields(value)}
    if not words:
        for name, group in names.items():
            sys.stdout.write(f"  {name} {getattr(groups[group], name)}\n")
        return settings
    if words[0] not in names:
        raise ConfigError(f"{words[0]!r} cannot be changed here; /set lists what can")
    if len(words) == 1:
        raise ConfigError(f"give a value: /set {words[0]} VALUE")
    default = FIELDS[words[0]].default
    value = default if words[1] == "none" and default in (None, ()) else read_words(words[0], words[1], "/set")
    group = names[words[0]]
    changed = dataclasses.replace(settings, **{group: dataclasses.replace(groups[group], **{words[0]: value})})
    requested_form(changed.text)
    requested_story(changed.text)
    return changed
