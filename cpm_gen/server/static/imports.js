// Text files of the user: UTF-8, UTF-16 with its mark, GB18030. Others are refused with words.

const MOST = 4_000_000; // bytes; a browser's store holds some millions of characters
const SHARE = 0.6; // of the letters of a Chinese text in GB18030 are common ones, in rows 0xB0 to 0xD7; of other encodings far fewer

export class Unreadable extends Error {}

// {text, encoding}. Raises Unreadable, whose message names the words to show.
export async function read(file) {
  if (file.size > MOST) throw new Unreadable("import_large");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const encoding = encodingOf(bytes);
  if (!encoding) throw new Unreadable("import_encoding");
  const text = new TextDecoder(encoding).decode(bytes).replace(/\r\n?|[\u2028\u2029]/g, "\n"); // without the mark
  if (!text.trim()) throw new Unreadable("import_empty");
  if (/[\0-\x08\x0e-\x1f\ufffd]/.test(text)) throw new Unreadable("import_encoding"); // not a text
  return { text, encoding };
}

function encodingOf(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return "utf-16le";
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return "utf-16be";
  return ["utf-8", "gb18030"].find((name) => decodes(bytes, name) && (name === "utf-8" || chinese(bytes))) ?? null;
}

function decodes(bytes, name) {
  try {
    new TextDecoder(name, { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

function chinese(bytes) {
  let [all, common] = [0, 0];
  for (let n = 0; n < bytes.length; n++) {
    const lead = bytes[n];
    if (lead < 0x81) continue;
    const trail = bytes[++n];
    if (lead >= 0xa1 && lead <= 0xa9 && trail >= 0xa1) continue; // punctuation
    all++;
    if (lead >= 0xb0 && lead <= 0xd7 && trail >= 0xa1) common++;
  }
  return common >= SHARE * all;
}
