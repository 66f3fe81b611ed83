// A story: what a novel keeps in sight. Its fields as the writer typed them, and the notation that the service takes.

// `head`: the lines before the first heading, which have no field on the page: how far back lore is looked for, and its budget.
export const EMPTY = { head: "", premise: "", memory: "", characters: "", note: "", depth: "", lore: [], outline: "" };
export const PARTS = { premise: "前提", memory: "记忆", characters: "人物", note: "笔记" };

const HEADING = /^\[\s*([^\s:：\]]+)([^:：\]]*)(?:[:：](.*))?\]\s*$/;
const DEPTH = /深\s*(\d+)/;
const ORDER = /序\s*(\d+)/;

// No line of prose begins like a heading.
const prose = (text) => text.trim().split("\n").map((line) => line.trimEnd().replace(/^\s*\[/, "［")).join("\n");

const keysOf = (text) => text.split(/[,，、]/).map((key) => key.trim()).filter(Boolean);

// The notation, or null for a story that says nothing.
export function notationOf(story) {
  if (!story) return null;
  const found = [];
  for (const [name, heading] of Object.entries(PARTS)) {
    const text = prose(story[name]);
    const depth = name === "note" && /^\d+$/.test(story.depth) ? ` 深${Number(story.depth)}` : "";  // 0: right before the end
    if (text) found.push(`[${heading}${depth}]\n${text}\n`);
  }
  for (const { keys, text, order, constant } of story.lore) {
    const [words, content] = [keysOf(keys), prose(text)];
    if (!words.length || !content) continue;
    found.push(`[设定${Number(order) > 0 ? ` 序${Number(order)}` : ""}${constant ? " 常在" : ""}: ${words.join(", ")}]\n${content}\n`);
  }
  if (story.outline.trim()) found.push(`${story.outline.trim()}\n`);
  if (found.length && story.head) found.unshift(`${story.head}\n`);
  return found.length ? found.join("\n") : null;
}

// The fields of a notation, such as that of a work. Sections that have no field stand in the outline.
export function storyOf(notation) {
  const story = { ...EMPTY, lore: [] };
  const rest = [];
  let put = (text) => (story.head += `${text}\n`);
  for (const line of notation.split("\n")) {
    const [, word, options, keys = ""] = HEADING.exec(line) ?? [];
    const name = Object.keys(PARTS).find((one) => PARTS[one] === word);
    if (name) {
      if (name === "note") story.depth = DEPTH.exec(options)?.[1] ?? "";
      put = (text) => (story[name] += `${text}\n`);
    } else if (word === "设定") {
      const lore = { keys: keys.trim(), text: "", order: ORDER.exec(options)?.[1] ?? "", constant: options.includes("常在") };
      story.lore.push(lore);
      put = (text) => (lore.text += `${text}\n`);
    } else if (line.startsWith("[")) {
      rest.push(line);
      put = (text) => rest.push(text);
    } else put(line);
  }
  for (const name of ["head", ...Object.keys(PARTS)]) story[name] = story[name].trim();
  for (const lore of story.lore) lore.text = lore.text.trim();
  story.outline = rest.join("\n").trim();
  return story;
}
