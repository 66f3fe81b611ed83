// Other ways to write a part of the text, and words that rhyme: what is asked of the service, and where the answers belong.

import { number, t } from "./language.js";
import { letterAt, shown, unitsOf } from "./text.js";
import { fieldsOf } from "./verse.js";

const LEFT = 8_000; // characters before the passage that are sent; a window holds about a thousand tokens
const RIGHT = 2_000;
const WAYS = 8;
const RHYMES = 40;
const NOT_TAKEN = ["max_new_tokens", "stop", "stop_at_eod", "window", "story", "candidates"]; // what a passage has no use for

const size = (string) => [...string].length; // the service counts characters, JavaScript UTF-16 units

function settingsOf(asked, round) {
  const body = { ...asked };
  for (const name of NOT_TAKEN) delete body[name];
  if (body.seed !== undefined) body.seed += round; // so that more ways are other ways
  return body;
}

// Other ways to write [from, to) of a document's text.
export function waysOf(api, asked, { form, text }, [from, to], take) {
  const string = shown(text.string);
  const begin = form ? 0 : letterAt(string, Math.max(0, from - LEFT));
  const part = string.slice(begin, form ? string.length : letterAt(string, Math.min(string.length, to + RIGHT)));
  const [start, end] = [from, to].map((at) => size(string.slice(begin, at)));
  return {
    kind: form ? "line" : "passage",
    range: [from, to],
    ask: async (round, signal) => {
      const body = { ...settingsOf(asked, round), text: part, start, end, n: WAYS };
      const answer = await api.json("POST", "/rewrite", body, { signal });
      const place = [answer.start, answer.end].map((at) => begin + unitsOf(part, 0, at));
      return answer.candidates.map(({ text: words, own, right }) => {
        const score = right === null ? t("score_own", { own: decimal(own) }) : t("score", { own: decimal(own), right: decimal(right) });
        return { text: words, place, score, note: t("score_means") };
      });
    },
    take: ({ text: words, place }) => take(...place, words),
  };
}

// Characters that rhyme at the end of a line of verse, as linesOf() has it. In a line that is `torn`, they are added.
export function rhymesOf(api, asked, { form, text }, line, torn, take) {
  const end = line.at + line.text.trimEnd().length;
  const sign = /[^\p{Script=Han}]*$/u.exec(line.text.trimEnd())[0].length;
  return {
    kind: "rhymes",
    range: [torn ? end : end - sign - 1, torn ? end : end - sign],
    ask: async (_, signal) => {
      const body = { ...fieldsOf(form), text: shown(text.string), line: line.number, n: RHYMES, style: asked.style };
      if (form.prompt) body.prompt = form.prompt;
      const { words } = await api.json("POST", "/forms/rhymes", body, { signal });
      return words.map(({ text: word, logprob }) => ({ text: word, score: share(logprob) }));
    },
    take: ({ text: word }) => (torn ? take(end, end, word) : take(end - sign - word.length, end - sign, word)),
  };
}

const decimal = (value) => value.toFixed(2).replace("-", "−");

function share(logprob) {
  const percent = 100 * Math.exp(logprob);
  return percent < 0.1 ? "< 0.1 %" : `${number(Number(percent.toPrecision(2)))} %`;
}
