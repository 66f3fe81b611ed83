// What a request asks for: the settings, and what a document adds to them: its form and its story.

import { endOf, promptOf } from "./store.js";
import { notationOf } from "./story.js";
import { fieldsOf, FREE } from "./verse.js";

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

// The parameters with the text to continue: without one, the model begins by itself. `kept`: lines of a form that stay, and the form with
// the beginning of a line.
export function bodyOf(asked, { form, text }, kept = null) {
  if (form) {
    const body = { ...asked, prompt: form.prompt, truncate_prompt: true };
    if (kept?.lines.length) body.keep_lines = kept.lines;
    if (!kept?.form) return body;
    for (const name of Object.keys(FREE)) if (name !== "prompt") delete body[name];
    return { ...body, form: kept.form };
  }
  const prompt = endOf(promptOf(text.string, asked.style));
  return text.string.trim() ? { ...asked, prompt, truncate_prompt: true } : { ...asked, unconditional: true };
}
