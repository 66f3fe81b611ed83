// What a request asks for: the settings, and what a document adds to them: its form and its story.

import { endOf, promptOf } from "./store.js";
import { notationOf } from "./story.js";
import { fieldsOf } from "./verse.js";

// The parameters. The same parameters continue the same work.
export function askedOf(settings, { form, story }) {
  const asked = settings.body();
  if (form) {
    delete asked.stop; // a form ends by itself
    Object.assign(asked, fieldsOf(form));
  }
  const notation = notationOf(story);
  if (notation) {
    asked.story = notation;
    delete asked.window?.keep; // the story takes the place of the kept beginning
  }
  return asked;
}

// The parameters with the text to continue: without one, the model begins by itself. `kept`: lines of a form that stay.
export function bodyOf(asked, { form, text }, kept = []) {
  const prompt = form ? form.prompt : endOf(promptOf(text.string, asked.style));
  if (form) return { ...asked, prompt, truncate_prompt: true, ...(kept.length && { keep_lines: kept }) };
  return text.string.trim() ? { ...asked, prompt, truncate_prompt: true } : { ...asked, unconditional: true };
}
