// Files of a text: plain text, Markdown, and EPUB 3 in a zip without compression.

import { shown } from "./text.js";

const XML = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const plain = (string) => string.replace(/[&<>"]/g, (letter) => XML[letter]).replace(/[^\t\n\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "");

// One of the formats: txt, md, epub.
export function download(string, name, format = "txt") {
  const text = shown(string);
  const [type, content] = FORMATS[format](text, name);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = `${name.replace(/[\\/:*?"<>|\p{Cc}]/gu, " ").trim() || "cpm-gen"}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const FORMATS = {
  txt: (text) => ["text/plain;charset=utf-8", text],
  md: (text, name) => ["text/markdown;charset=utf-8", markdown(text, name)],
  epub: (text, name) => ["application/epub+zip", epub(text, name)],
};

// Lines are paragraphs in both: a blank line of the text makes no other space than the paragraph's.
const lines = (text) => text.split("\n").filter((line) => line.trim());

export function markdown(text, name) {
  const literal = (line) => line.trim().replace(/[\\`*_[\]<>#~|&]/g, "\\$&").replace(/^([-+=])/, "\\$1").replace(/^(\d+)([.)])/, "$1\\$2");
  return [...(name ? [`# ${literal(name)}`] : []), ...lines(text).map(literal)].join("\n\n") + "\n";
}

export function epub(text, name) {
  const id = `urn:uuid:${uuid()}`;
  const title = plain(name || "cpm-gen");
  const head = (inside) => `<?xml version="1.0" encoding="UTF-8"?>\n${inside}\n`;
  const page = (inside) =>
    head(`<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="zh-Hans" xml:lang="zh-Hans">
<head><title>${title}</title><link rel="stylesheet" type="text/css" href="style.css"/></head>\n<body>\n${inside}\n</body>\n</html>`);
  return zip([
    ["mimetype", "application/epub+zip"], // the first one, as the format demands
    ["META-INF/container.xml", head(`<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="book/book.opf" media-type="application/oebps-package+xml"/></rootfiles>\n</container>`)],
    ["book/book.opf", head(`<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="zh-Hans">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">${id}</dc:identifier><dc:title>${title}</dc:title><dc:language>zh-Hans</dc:language>
<meta property="dcterms:modified">${new Date().toISOString().slice(0, 19)}Z</meta>\n</metadata>
<manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="text" href="text.xhtml" media-type="application/xhtml+xml"/>
<item id="style" href="style.css" media-type="text/css"/>\n</manifest>
<spine><itemref idref="text"/></spine>\n</package>`)],
    ["book/nav.xhtml", page(`<nav epub:type="toc"><ol><li><a href="text.xhtml">${title}</a></li></ol></nav>`)],
    ["book/text.xhtml", page(`<h1>${title}</h1>\n${lines(text).map((line) => `<p>${plain(line)}</p>`).join("\n")}`)],
    ["book/style.css", "p { margin: 0; text-indent: 2em; line-height: 1.8; }\nh1 { font-size: 1.3em; margin: 1em 0 2em; }\n"],
  ]);
}

// A zip of uncompressed files: [name, string].
export function zip(files) {
  const encoder = new TextEncoder();
  const [locals, entries] = [[], []];
  let offset = 0;
  for (const [name, string] of files) {
    const [path, content] = [encoder.encode(name), encoder.encode(string)];
    // version 2.0, UTF-8 names (bit 11), stored, 1980-01-01
    const common = numbers([20, 2], [name === "mimetype" ? 0 : 0x800, 2], [0, 2], [0, 2], [0x21, 2], [crc32(content), 4], [content.length, 4],
      [content.length, 4], [path.length, 2], [0, 2]);
    locals.push(numbers([0x04034b50, 4]), common, path, content);
    entries.push(numbers([0x02014b50, 4], [20, 2]), common, numbers([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), path);
    offset += 30 + path.length + content.length;
  }
  const size = entries.reduce((sum, { length }) => sum + length, 0);
  const end = numbers([0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...locals, ...entries, end]);
}

// Little-endian numbers: [value, bytes].
function numbers(...all) {
  return Uint8Array.from(all.flatMap(([value, bytes]) => Array.from({ length: bytes }, (_, n) => (value >>> (8 * n)) & 0xff)));
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = -1;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}

// crypto.randomUUID needs https
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return Array.from(bytes, (byte, n) => ([4, 6, 8, 10].includes(n) ? "-" : "") + byte.toString(16).padStart(2, "0")).join("");
}
